"""Running statistics of norms over a training step: what every forward told, kept until the step is over.

A forward changes nothing, since it may be recomputed; this takes each batch's statistics once, in the order of micro
batches, whichever process had them. Knows which modules keep statistics, and leaves to `model/norm/` what they are.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from handscroll.model import Transformer
from handscroll.model.norm import PowerNorm, RunningNorm
from handscroll.training import parallel
from handscroll.training.objectives import Loss, Models


class StepStatistics:
    """Collects while a step's micro batches run; `apply` then moves the running statistics.

    Raises ValueError for PowerNorm where its running gradient would have no unit: with a loss that is scaled, and with
    several terms that are differentiated apart.
    """

    def __init__(self, models: Models, micro_batches: int, precision: str):
        self._models, self._micro_batches = models, micro_batches
        norms = [norm for model in models.values() for norm in model.modules() if isinstance(norm, RunningNorm)]
        self._is_needed, self._has_power = bool(norms), any(isinstance(norm, PowerNorm) for norm in norms)
        self._told: dict[tuple[str, str], list[Any]] = defaultdict(list)
        if self._has_power and precision == "float16":
            raise ValueError(
                "precision='float16' scales the loss, now more and now less, and a power norm keeps running means of "
                "gradients: use float32 or bfloat16, or another norm"
            )

    def clear(self) -> None:
        """A step begins (mutates)."""
        self._told.clear()

    def add(self, loss: Loss) -> None:
        """Notes what the forwards behind a loss told (mutates)."""
        assert loss.told or not self._is_needed, "an objective hands over what its forwards told: see Loss.told"
        if self._has_power and self._micro_batches > 1 and len(loss.terms) > 1:
            raise ValueError(
                f"micro_batches={self._micro_batches} and a loss of several terms ({', '.join(loss.terms)}): these "
                "are differentiated apart, which a power norm's running gradient can't be; use micro_batches=1, or "
                "another norm"
            )
        for model, told in loss.told.items():
            for name, aux in told:
                if running_norm(self._models[model], name) is not None:
                    self._told[model, name].append(aux)

    def apply(self) -> None:
        """Moves the running statistics by what all processes noted, once the backward passes are done (mutates)."""
        if not self._is_needed:
            return
        everyone = [self._told]
        if parallel.size() > 1:
            everyone = parallel.gather({key: [_moved(aux, "cpu") for aux in told] for key, told in self._told.items()})
        for model, name in self._told:
            norm = running_norm(self._models[model], name)
            assert norm is not None
            norm.update([_moved(aux, norm.weight.device) for told in everyone for aux in told[model, name]])


def running_norm(model: Transformer, name: str) -> RunningNorm | None:
    """The norm that told something under this name: the module itself, or the norm within a feed-forward."""
    module = model.get_submodule(name)
    found = module if isinstance(module, RunningNorm) else getattr(module, "norm", None)
    return found if isinstance(found, RunningNorm) else None


def _moved(aux: Any, device: torch.device | str) -> Any:
    return type(aux)(*(tensor.to(device) for tensor in aux))
