"""Kernels: pure functions of tensors, each with a slow reference beside it that a test holds equal to the fast path.

What belongs here: arithmetic that more than one room needs and that knows no model, device policy, file or logger.
`attention` computes softmax(q k^T) v, `flash_attention` does so in tiles that are to be read; `likelihood` computes the
cross-entropy of a vocabulary without holding it.

To add one: write `kernels/NAME.py` with the fast function, its reference, shapes and source in the docstrings, and a
test in `tests/kernels/` that compares the two, gradients included.
"""
