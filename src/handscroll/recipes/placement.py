"""Where a model runs and in what numbers, from what a user says: "auto" is decided here.

A CPU computes in float32: half-precision products are 5 to 200 times slower there (docs/experiments.md). A GPU takes
the weights as the file has them.
"""

from __future__ import annotations

import warnings

import torch

from handscroll.recipes.events import Advice

AUTO = "auto"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def chosen_device(device: str | torch.device) -> torch.device:
    """ "auto" is the GPU where there is one. ValueError for a device that isn't known, or isn't there."""
    if device == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device={str(device)!r} is not known: choose cpu, cuda, cuda:1 or another number, or auto")
    if found.type == "cuda" and not (found.index or 0) < torch.cuda.device_count():
        raise ValueError(
            f"device={str(device)!r} is not here: PyTorch sees {torch.cuda.device_count()} GPUs; choose cpu or auto"
        )
    return found


def chosen_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """What weights are cast to; None leaves them as the file has them. ValueError for a name that isn't known.

    Advises against half precision on a CPU where somebody asks for it.
    """
    if dtype == AUTO:
        return torch.float32 if device.type == "cpu" else None
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r} is not known: choose {', '.join(DTYPES)} or {AUTO}")
        dtype = DTYPES[dtype]
    if dtype in (torch.bfloat16, torch.float16) and device.type == "cpu":
        name = str(dtype).removeprefix("torch.")
        warnings.warn(
            f"{name} on a CPU takes half the memory of float32, and 5 to 200 times as long: use float32 where it fits",
            Advice,
            stacklevel=2,
        )
    return dtype
