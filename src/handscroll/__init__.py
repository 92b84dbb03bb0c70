"""Handscroll."""
