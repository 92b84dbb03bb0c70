"""What the options of tasks are checked with: counts and choices, with an error that says what is allowed."""

from collections.abc import Iterable
from typing import Any


def check_count(name: str, value: Any, least: int, most: int | None = None) -> None:
    """ValueError unless `value` is a whole number from `least` to `most`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} is {value!r}; it must be a whole number, {allowed}")


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    """ValueError unless `value` is one of `allowed`."""
    if value not in (known := tuple(allowed)):
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}")


def check_files(name: str, value: Any) -> None:
    """ValueError unless `value` is a tuple of paths."""
    if not isinstance(value, tuple) or not all(isinstance(path, str) for path in value):
        raise ValueError(f"{name} is {value!r}; it must be a list of paths")
