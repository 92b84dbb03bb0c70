"""Optimizers: which parameter is moved by which rule, and their state as named tensors.

Parameter groups are the same everywhere: hidden matrices (the linear maps of the blocks) are decayed and, under
`muon`, orthogonalised; embeddings, head, norms and biases go to AdamW without decay, for shrinking them shrinks what a
token or a norm means and not a function's complexity. The rules themselves stand in PyTorch (AdamW) and `muon.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from handscroll.model import Transformer
from handscroll.training.muon import Muon


class OptimizerOptions(Protocol):
    def build(self, groups: ParameterGroups) -> list[torch.optim.Optimizer]:
        """The rules for these parameters, the one whose learning rate is reported first."""


class ParameterGroups(NamedTuple):
    """Trainable parameters under the names that checkpoints use, "MODEL.layers.0.attention.q.weight"."""

    matrices: dict[str, nn.Parameter]
    others: dict[str, nn.Parameter]


@dataclass(frozen=True)
class AdamWOptions:
    """AdamW (arXiv 1711.05101) for everything; only hidden matrices are decayed."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1

    def build(self, groups: ParameterGroups) -> list[torch.optim.Optimizer]:
        return [self.adamw([*groups.matrices.values()], [*groups.others.values()])]

    def adamw(self, decayed: list[nn.Parameter], others: list[nn.Parameter]) -> torch.optim.AdamW:
        parts = [(decayed, self.weight_decay), (others, 0.0)]
        return torch.optim.AdamW(
            [{"params": parameters, "weight_decay": decay} for parameters, decay in parts if parameters],
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            # One pass over memory per parameter instead of a dozen.
            fused=True,
        )


@dataclass(frozen=True)
class MuonOptions:
    """Muon for hidden matrices, AdamW (`rest`, whose decay then has nothing to act on) for all else."""

    learning_rate: float = 0.02
    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 0.0
    rest: AdamWOptions = field(default_factory=lambda: AdamWOptions(learning_rate=3e-3))

    def build(self, groups: ParameterGroups) -> list[torch.optim.Optimizer]:
        optimizers: list[torch.optim.Optimizer] = []
        if groups.matrices:
            matrices = groups.matrices.values()
            optimizers.append(Muon(matrices, self.learning_rate, self.momentum, self.nesterov, self.weight_decay))
        if groups.others:
            optimizers.append(self.rest.adamw([], [*groups.others.values()]))
        return optimizers


OPTIMIZERS: dict[str, type[OptimizerOptions]] = {"adamw": AdamWOptions, "muon": MuonOptions}


def parameter_groups(models: Mapping[str, Transformer]) -> ParameterGroups:
    """Trainable parameters of all models. Raises ValueError where every parameter is frozen."""
    groups = ParameterGroups({}, {})
    for model_name, model in models.items():
        hidden = {id(module.weight) for module in model.layers.modules() if isinstance(module, nn.Linear)}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                group = groups.matrices if id(parameter) in hidden else groups.others
                group[f"{model_name}.{name}"] = parameter
    if not groups.matrices and not groups.others:
        raise ValueError(f"no parameter of {', '.join(models)} requires a gradient: there is nothing to train")
    return groups


class Optimizers:
    """The optimizers of one run as one: a step at a multiple of the peak rates, and the state to save."""

    def __init__(self, models: Mapping[str, Transformer], options: OptimizerOptions):
        groups = parameter_groups(models)
        self.parameters: dict[str, nn.Parameter] = {**groups.matrices, **groups.others}
        self.optimizers = options.build(groups)
        self._peaks = [(group, group["lr"]) for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, multiplier: float, moves: bool = True) -> float:
        """Moves all parameters and forgets their gradients (mutates). Returns the first rule's learning rate.

        Without `moves` only the gradients go.
        """
        for group, peak in self._peaks:
            group["lr"] = peak * multiplier
        for optimizer in self.optimizers if moves else ():
            optimizer.step()
        for parameter in self.parameters.values():
            parameter.grad = None
        rate: float = self._peaks[0][0]["lr"]
        return rate

    def state(self) -> dict[str, Tensor]:
        """Every state tensor as "PARAMETER.KEY". They are the live ones: save them before the next step."""
        return {
            f"{name}.{key}": tensor
            for name, parameter in self.parameters.items()
            for optimizer in self.optimizers
            if parameter in optimizer.state
            for key, tensor in optimizer.state[parameter].items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave (mutates). Raises ValueError for state of a parameter that is not trained."""
        owners = {
            id(parameter): optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for full_name, tensor in state.items():
            name, _, key = full_name.rpartition(".")
            if name not in self.parameters:
                raise ValueError(f"the checkpoint has optimizer state of {name}, which this run does not train")
            parameter = self.parameters[name]
            owners[id(parameter)].state[parameter][key] = tensor.to(parameter.device)
