"""Mixed precision (arXiv 1710.03740): weights and their update in float32, products of matrices in 16 bits.

bfloat16 has float32's range and a step of 1/128; float16 has a step of 1/1024 and ends at 65,504 above and 6e-8 below,
so that the loss is scaled up before it is differentiated and gradients are scaled down afterwards; a step whose
gradient overflowed is skipped and the scale halved. What that costs and saves is measured in `benchmarks/precision.py`.
Knows names and devices; autocast and the scale are PyTorch's own.
"""

from __future__ import annotations

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# A scale this small lets no gradient through: the gradient itself isn't finite.
SMALLEST_SCALE = 2.0**-24


def default_precision(device: torch.device) -> str:
    """bfloat16 on a GPU that has it, float16 on one that hasn't, float32 elsewhere."""
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def check_precision(name: str, device: torch.device) -> None:
    """Raises ValueError for a name that isn't known, and for float16 elsewhere than on a GPU."""
    if name not in PRECISIONS:
        raise ValueError(f"precision={name} is unknown; known are {', '.join(PRECISIONS)}")
    if name == "float16" and device.type == "cpu":
        raise ValueError(
            "precision=float16 needs a GPU: a CPU is many times slower in it than in float32; give float32 or bfloat16"
        )


def autocast(name: str, device: torch.device) -> torch.autocast:
    """The context in which a forward is computed."""
    return torch.autocast(device.type, PRECISIONS[name], enabled=name != "float32")


def loss_scaler(name: str, device: torch.device) -> torch.amp.GradScaler:
    """For float16; for the others one that does nothing."""
    return torch.amp.GradScaler(device.type, enabled=name == "float16")
