"""Where a recipe trains: the device that it names, or the best one there is."""

from __future__ import annotations

import torch

from handscroll.training import parallel


def training_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one. Of several processes each takes a GPU of its own.

    Raises ValueError for a GPU that isn't there.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if parallel.rank() >= count:
        raise ValueError(
            f"train.device={name}: {parallel.size()} processes need as many GPUs, here are {count}: use cpu"
        )
    return torch.device("cuda", parallel.rank())
