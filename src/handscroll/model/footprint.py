"""What a model, its training and its memory of a text need in bytes, known before anything is allocated.

Pure functions of `ModelConfig`, in the units of its tensors, and a refusal of what can't fit. What is free is asked of
`free_memory.py`. Per-token letters of the formulas are the project's: E model width, H heads, K kv heads, D head
width, F feed-forward width, L layers, V vocabulary.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from handscroll.model.config import ModelConfig, chosen
from handscroll.model.feedforward import GATED
from handscroll.model.free_memory import available_memory
from handscroll.model.norm import NORMS
from handscroll.model.position import RelativeOptions
from handscroll.model.slots import Learned2dOptions, LearnedOptions, PositionOptions

# Numbers that an optimizer keeps per parameter; muon keeps one per number of a block's matrices, adamw's two elsewhere.
OPTIMIZER_SLOTS = {"adamw": 2, "muon": 1, "sgd": 0}

# Tensors of the model's width that the backward pass of a norm and of what follows it read again.
KEPT_OF_NORM = {"rms": 3, "layer": 2, "layer_no_bias": 2, "tutorial_layer": 4, "batch": 2, "power": 2}


# How many tables of learnt positions there are.
LEARNED_TABLES: dict[type[PositionOptions], int] = {LearnedOptions: 1, Learned2dOptions: 2}


class DoesNotFit(ValueError, MemoryError):
    """What was asked for needs more memory than there is. A ValueError too, because the way out is another setting."""


@dataclass(frozen=True)
class Footprint:
    """Bytes by what they are for; `cache` is keys and values."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    cache: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, each.name) for each in fields(self))

    def describe(self) -> str:
        """One line: "16.2 MB = weights 3.7 MB + gradients 3.7 MB + ..."."""
        parts = [(each.name, getattr(self, each.name)) for each in fields(self)]
        return f"{readable(self.total)} = " + " + ".join(f"{name} {readable(size)}" for name, size in parts if size)


def parameter_count(config: ModelConfig, active: bool = False) -> int:
    """Numbers in all weights; what a tied head shares with the embedding counts once.

    `active`: without those of experts that a token doesn't take.
    """
    final = _norm(config, config.width) if config.has_final_norm else 0
    vectors = _vectors_per_layer(config) * _own_layers(config) + _feedforward_biases(config, active) + final
    inside = matrix_count(config, active) + vectors + _position(config)
    return _embedding(config) + config.head.parameter_count(config) + inside


def matrix_count(config: ModelConfig, active: bool = False) -> int:
    """Numbers in the matrices of all blocks: 2 E H D (q, o) + 2 E K D (k, v) + 3 E F (gate, up, down), L times.

    A feed-forward that isn't gated has 2 E F. A layer of experts has those of all experts, or of the `active` ones that
    a token takes, and E for each of them in the router. Layers that are one and the same count once.
    """
    heads_width, kv_width = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
    attention = (2 * heads_width + 2 * kv_width) * _own_layers(config)
    fed = sum(_feedforward_maps(config) * sum(widths) for widths in _feedforward_widths(config, active))
    own = config.attention.further_matrices(config) * _own_layers(config)
    return config.width * (attention + fed + _router_rows(config) * _expert_layers(config)) + own


def kv_bytes(config: ModelConfig, tokens: int, dtype: torch.dtype = torch.float32) -> int:
    """Keys and values of `tokens` tokens (of all rows together), kept in full by every layer: 2 L K D each."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_width * tokens * dtype.itemsize


def reading_bytes(config: ModelConfig, tokens: int, dtype: torch.dtype = torch.float32) -> Footprint:
    """A model that holds `tokens` tokens in a full cache."""
    return Footprint(weights=parameter_count(config) * dtype.itemsize, cache=kv_bytes(config, tokens, dtype))


def encoding_bytes(config: ModelConfig, tokens: int, dtype: torch.dtype = torch.float32) -> Footprint:
    """A model that reads `tokens` tokens (of all rows together) at once, without a cache: their hidden states.

    Activations are an estimate of what lives at a time, in numbers per token: the residual stream, and beside it
    attention's input, q, k, v, what turns q and the output, 3 E + 3 H D + 2 K D, or the feed-forward's input, inner
    tensors and output, 3 E + 2 F, or 3 F where it is gated. Masks are not counted.
    """
    heads_width, kv_width = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
    attended = 3 * heads_width + 2 * kv_width
    fed = _feedforward_maps(config) * config.feedforward_width
    activations = tokens * (3 * config.width + max(attended, fed))
    return Footprint(weights=parameter_count(config) * dtype.itemsize, activations=activations * dtype.itemsize)


def training_bytes(
    config: ModelConfig,
    tokens: int,
    *,
    dtype: torch.dtype = torch.float32,
    optimizer: str = "adamw",
    activation_checkpointing: bool = False,
    logits_at_once: int | None = None,
) -> Footprint:
    """One training step over `tokens` tokens, padding included, of which `logits_at_once` (all) have logits together.

    Activations are an estimate of what the backward pass reads again, in numbers per token:
    a layer 6 E + 3 H D + 2 K D + 4 F + H + 2 (both RMSNorms' input, scaled and output; rotated q and k, v, attention's
    output twice, its log-sum-exp; gate, silu, up, their product), with normalized queries and keys 2 H D + 2 K D + H +
    K more (their input, scaled), what the attention's options add, the final norm 2 E + 1, and 2 V of logits and their
    gradient. Of a feed-forward that isn't gated 2 F are kept instead of 4 F, with ReLU, whose output tells its slope,
    F. Norms other than RMSNorm keep other multiples of their width (`KEPT_OF_NORM`), one less where only the residual
    stream reads their output. Of N experts, of which a token takes C, the layer keeps what C feed-forwards of their
    width do, 2 E for each (what it reads, what it gives), and 2 N + 9 C of the router; a gated shared expert's output E
    once more. With activation checkpointing a layer keeps E, and one layer at a time is whole. Masks are not counted.
    Raises ValueError for an optimizer that isn't known.
    """
    if optimizer not in OPTIMIZER_SLOTS:
        raise ValueError(f"optimizer={optimizer!r} is not known; known: {', '.join(OPTIMIZER_SLOTS)}")
    count, matrices = parameter_count(config), matrix_count(config)
    slots = OPTIMIZER_SLOTS[optimizer] * count
    if optimizer == "muon":
        slots = matrices + OPTIMIZER_SLOTS["adamw"] * (count - matrices)
    heads_width, kv_width = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
    kept = KEPT_OF_NORM[config.norm]
    norms = 2 * kept + (2 * (kept - 1) if config.norm_placement == "sandwich" else 0)
    layer = norms * config.width + 3 * heads_width + 2 * kv_width + config.num_heads + 2
    if config.feedforward_norm is not None:
        layer += (KEPT_OF_NORM[config.feedforward_norm] - 1) * config.feedforward_width
    layer += config.attention.further_activations(config)
    if config.qk_norm:
        layer += 2 * (heads_width + kv_width) + config.num_heads + config.num_kv_heads
    fed = _kept_of_feedforwards(config) * (config.num_layers if config.shared_layers else 1)
    if activation_checkpointing:
        layers = config.num_layers * config.width + layer + max(fed)
    else:
        layers = config.num_layers * layer + sum(fed)
    logits = 2 * config.vocab_size * (tokens if logits_at_once is None else min(logits_at_once, tokens))
    return Footprint(
        weights=count * dtype.itemsize,
        gradients=count * dtype.itemsize,
        optimizer=slots * dtype.itemsize,
        activations=(tokens * (layers + (kept - 1) * config.width + 1) + logits) * dtype.itemsize,
    )


def require(bytes_needed: int, what: str, device: torch.device | str = "cpu") -> None:
    """Refuses, before it begins, what can't fit: DoesNotFit with both numbers. Silent where free memory is unknown."""
    available = available_memory(device)
    if available is not None and bytes_needed > available:
        raise DoesNotFit(
            f"{what} needs {readable(bytes_needed)}, but {readable(available)} of memory is free: "
            "free some, or choose a smaller model, fewer tokens or a smaller dtype"
        )


def require_disk(bytes_needed: int, what: str, folder: Path) -> None:
    """Refuses, before it begins, what a folder's disk has no room for: DoesNotFit with both numbers."""
    free = shutil.disk_usage(folder).free
    if bytes_needed > free:
        raise DoesNotFit(
            f"{what} needs {readable(bytes_needed)} in {folder}, where {readable(free)} is free: free some, choose "
            "fewer tokens, or another folder"
        )


def readable(size: int) -> str:
    """Bytes in decimal units: 999 B, 1.0 kB, 3.7 MB."""
    if size < 1000:
        return f"{size} B"
    scaled = float(size)
    for unit in ("kB", "MB", "GB"):
        scaled /= 1000
        if scaled < 999.95:
            return f"{scaled:.1f} {unit}"
    return f"{scaled / 1000:.1f} TB"


def _own_layers(config: ModelConfig) -> int:
    return 1 if config.shared_layers else config.num_layers


def _expert_layers(config: ModelConfig) -> int:
    return 0 if config.experts is None else _own_layers(config) - len(config.experts.dense_layers)


def _feedforward_widths(config: ModelConfig, active: bool = False) -> list[list[int]]:
    """The inner widths of each own layer's feed-forwards: all of them, or the `active` ones that a token takes."""
    if config.experts is None:
        return [[config.feedforward_width]] * _own_layers(config)
    experts = config.experts
    several = [experts.width] * (experts.top_k if active else experts.count)
    several += [experts.shared_width] if experts.shared_width else []
    dense = [config.feedforward_width]
    return [dense if layer in experts.dense_layers else several for layer in range(_own_layers(config))]


def _router_rows(config: ModelConfig) -> int:
    """One for each expert, and one for the gate of a shared one."""
    return 0 if config.experts is None else config.experts.count + config.experts.shared_gate


def _feedforward_biases(config: ModelConfig, active: bool) -> int:
    if not config.feedforward_bias:
        return 0
    maps = _feedforward_maps(config) - 1
    return sum(maps * width + config.width for widths in _feedforward_widths(config, active) for width in widths)


def _feedforward_maps(config: ModelConfig) -> int:
    """Matrices of a feed-forward: gate, up, down, or up and down."""
    return 3 if config.feedforward in GATED else 2


def _kept_of_feedforwards(config: ModelConfig) -> list[int]:
    """Numbers per token of each own layer that the backward pass reads again."""
    inner = 4 if config.feedforward in GATED else 1 if config.feedforward == "relu" else 2
    kept = [inner * sum(widths) for widths in _feedforward_widths(config, active=True)]
    if (experts := config.experts) is None:
        return kept
    routed = 2 * experts.count + experts.top_k * (2 * config.width + 9) + experts.shared_gate * (config.width + 1)
    return [each + (0 if layer in experts.dense_layers else routed) for layer, each in enumerate(kept)]


def _embedding(config: ModelConfig) -> int:
    """The tables of tokens, positions, segments and tasks, their norm, and the matrix and bias of another width."""
    width = config.embedding_width
    rows = config.vocab_size + config.embedding.segments + config.embedding.tasks
    rows += config.max_positions * LEARNED_TABLES.get(type(config.position), 0)
    norm = _norm(config, width) if config.embedding.norm else 0
    projection = 0 if config.embedding.width is None else width * config.width + config.width
    return rows * width + norm + projection


def _position(config: ModelConfig) -> int:
    """Transformer-XL's u and v, and a matrix in each layer."""
    heads_width = config.num_heads * config.head_width
    is_relative = isinstance(config.position, RelativeOptions)
    return heads_width * (2 + config.width * _own_layers(config)) if is_relative else 0


def _norm(config: ModelConfig, width: int, name: str | None = None) -> int:
    """A weight, and of most norms a bias."""
    return width * (2 if chosen("norm", name or config.norm, NORMS).has_bias else 1)


def _vectors_per_layer(config: ModelConfig) -> int:
    """Two norms, or four of a sandwich, those of a head's queries and keys, and the biases that the config asks for."""
    norms = 4 if config.norm_placement == "sandwich" else 2
    vectors = norms * _norm(config, config.width) + (2 * _norm(config, config.head_width) if config.qk_norm else 0)
    if config.feedforward_norm is not None:
        vectors += _norm(config, config.feedforward_width, config.feedforward_norm)
    if config.qkv_bias:
        vectors += (config.num_heads + 2 * config.num_kv_heads) * config.head_width
    if config.output_bias:
        vectors += config.width
    return vectors
