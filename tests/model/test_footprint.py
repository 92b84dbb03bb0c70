"""Bytes known beforehand equal bytes held, and what can't fit is refused with the numbers."""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from handscroll.model import Layout, ModelConfig, RopeOptions, Transformer
from handscroll.model.attention import LinearAttentionOptions, LowRankOptions, PooledOptions, SparseOptions
from handscroll.model.feedforward import FEEDFORWARDS
from handscroll.model.footprint import (
    DoesNotFit,
    Footprint,
    encoding_bytes,
    kv_bytes,
    matrix_count,
    parameter_count,
    readable,
    reading_bytes,
    require,
    require_disk,
    training_bytes,
)
from handscroll.model.free_memory import available_memory
from handscroll.model.norm import NORMS
from handscroll.model.routing import ExpertOptions
from handscroll.model.slots import AttentionOptions

CONFIG = ModelConfig(
    vocab_size=90,
    width=64,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_width=16,
    feedforward_width=160,
    max_positions=128,
)
BIASES = {"qkv_bias": True, "output_bias": True, "feedforward_bias": True}


@pytest.mark.parametrize("feedforward", list(FEEDFORWARDS))
@pytest.mark.parametrize("bias", [False, True])
def test_every_feedforward_is_counted(feedforward: str, bias: bool) -> None:
    model = Transformer(dataclasses.replace(CONFIG, feedforward=feedforward, feedforward_bias=bias))
    assert parameter_count(model.config) == sum(parameter.numel() for parameter in model.parameters())
    blocks = model.layers.parameters()
    assert matrix_count(model.config) == sum(parameter.numel() for parameter in blocks if parameter.dim() == 2)


ATTENTIONS: list[tuple[AttentionOptions, str]] = [
    (SparseOptions(), "causal"),
    (LinearAttentionOptions(), "causal"),
    (LinearAttentionOptions(), "bidirectional"),
    (LowRankOptions(rank=7), "bidirectional"),
    (LowRankOptions(rank=7, shared="none"), "bidirectional"),
    (LowRankOptions(rank=7, shared="key_value"), "bidirectional"),
    (PooledOptions(), "causal"),
    (PooledOptions(pooling="convolution"), "causal"),
]


@pytest.mark.parametrize(("attention", "mask"), ATTENTIONS, ids=str)
def test_every_attention_is_counted(attention: AttentionOptions, mask: str) -> None:
    config = dataclasses.replace(CONFIG, attention=attention, mask=mask, max_positions=640)
    model = Transformer(config)
    assert parameter_count(config) == sum(parameter.numel() for parameter in model.parameters())
    blocks = model.layers.parameters()
    assert matrix_count(config) == sum(parameter.numel() for parameter in blocks if parameter.dim() == 2)
    measured = measured_activations(config, Layout.rows([640] * 2), activation_checkpointing=False)
    estimate = training_bytes(config, 2 * 640, logits_at_once=0)
    assert estimate.activations == pytest.approx(measured, rel=0.05)


def test_parameters_equal_tensors(pair: Any) -> None:
    count = sum(parameter.numel() for parameter in pair.ours.parameters())
    assert parameter_count(pair.ours.config) == count == pair.theirs.num_parameters()
    blocks = [parameter for name, parameter in pair.ours.named_parameters() if name.startswith("layers.")]
    assert matrix_count(pair.ours.config) == sum(block.numel() for block in blocks if block.dim() == 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kv_bytes_equal_what_transformers_keeps(pair: Any, dtype: torch.dtype, tokens_BT: torch.Tensor) -> None:
    if pair.ours.config.trained_window < tokens_BT.shape[1]:
        pytest.skip("theirs forgets what its window has left")
    with torch.no_grad():
        cache = pair.theirs(tokens_BT, use_cache=True).past_key_values
    held = sum(kept.to(dtype).nbytes for layer in cache.layers for kept in (layer.keys, layer.values))
    assert kv_bytes(pair.ours.config, tokens_BT.numel(), dtype) == held
    reading = reading_bytes(pair.ours.config, tokens_BT.numel(), dtype)
    assert (reading.weights, reading.cache) == (parameter_count(pair.ours.config) * dtype.itemsize, held)


def measured_activations(config: ModelConfig, layout: Layout, *, activation_checkpointing: bool) -> int:
    """Bytes of the distinct storages that autograd keeps for the backward pass, parameters aside."""
    model = Transformer(config)
    model.activation_checkpointing = activation_checkpointing
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.hidden(torch.randint(0, 90, layout.index_BT.shape), layout)
    assert hidden.last_BTE.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": RopeOptions(pairing="adjacent", share=0.5)},
        {"num_kv_heads": 1, "head_width": 24, "num_layers": 1},
        BIASES,
        {"qk_norm": True},
        {"experts": ExpertOptions(8, 48)},
        {"experts": ExpertOptions(16, 24, top_k=4, shared_width=40, shared_gate=True, dense_layers=(0,))},
        *({"feedforward": name} for name in FEEDFORWARDS),
        *({"norm": name} for name in NORMS),
        *({"feedforward_norm": name} for name in NORMS),
        {"norm_placement": "sandwich", "norm": "layer"},
    ],
)
def test_activations_are_estimated_within_five_percent(changes: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    measured = measured_activations(config, Layout.rows([48] * 4), activation_checkpointing=False)
    estimate = training_bytes(config, 4 * 48, logits_at_once=0)
    assert estimate.activations == pytest.approx(measured, rel=0.05)


def test_activation_checkpointing_keeps_one_width_per_layer() -> None:
    measured = measured_activations(CONFIG, Layout.rows([48] * 4), activation_checkpointing=True)
    estimate = training_bytes(CONFIG, 4 * 48, activation_checkpointing=True, logits_at_once=0)
    one_layer = (training_bytes(CONFIG, 4 * 48, logits_at_once=0).activations - 4 * 48 * 4 * (2 * 64 + 1)) // 3
    assert estimate.activations == pytest.approx(measured + one_layer, rel=0.05)


def test_training_state_equals_tensors() -> None:
    config = dataclasses.replace(CONFIG, **BIASES)
    model = Transformer(config)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    estimate = training_bytes(config, 4)
    assert estimate.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert estimate.gradients == sum(
        parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None
    )
    assert estimate.optimizer == sum(moment.nbytes for moment in moments)
    # Muon keeps one moment of the blocks' matrices, AdamW's two of everything else.
    assert training_bytes(config, 4, optimizer="muon").optimizer == estimate.optimizer - 4 * matrix_count(config)
    assert training_bytes(config, 4, optimizer="sgd").optimizer == 0
    assert training_bytes(config, 4, dtype=torch.bfloat16).total * 2 == estimate.total


def test_logits_count_only_as_many_as_exist() -> None:
    whole, chunked = (training_bytes(CONFIG, 1000, logits_at_once=size).activations for size in (None, 100))
    assert whole - chunked == 900 * 2 * 90 * 4
    assert training_bytes(CONFIG, 50, logits_at_once=100) == training_bytes(CONFIG, 50)


def test_unknown_optimizer() -> None:
    with pytest.raises(ValueError, match="optimizer='adam' is not known; known: adamw, muon, sgd"):
        training_bytes(CONFIG, 1, optimizer="adam")


def test_description() -> None:
    assert Footprint(weights=3_700_000, cache=12).describe() == "3.7 MB = weights 3.7 MB + cache 12 B"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (7_000_000_000_000, "7.0 TB"),
    ],
)
def test_readable(size: int, text: str) -> None:
    assert readable(size) == text


def test_what_fits_is_let_through_and_what_does_not_is_refused() -> None:
    require(1, "a byte")
    with pytest.raises(DoesNotFit, match=r"^a galaxy needs 1000000\.0 TB, but .* free: free some, or choose") as caught:
        require(10**18, "a galaxy")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, MemoryError)


def test_a_disk_without_room_is_named(tmp_path: Path) -> None:
    require_disk(1, "a byte", tmp_path)
    with pytest.raises(DoesNotFit, match=rf"^a galaxy needs 1000000\.0 TB in {tmp_path}, where .* is free: free some"):
        require_disk(10**18, "a galaxy", tmp_path)


def test_available_memory_is_below_the_machines() -> None:
    available = available_memory()
    assert available is not None
    assert 0 < available <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def write_all(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


MEMINFO = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    8000 kB\n"
GROUP_2 = {
    "sys/fs/cgroup/a/b/memory.max": "max\n",
    "sys/fs/cgroup/a/b/memory.current": "500000\n",
    "sys/fs/cgroup/a/b/memory.stat": "anon 1\ninactive_file 300000\n",
    "sys/fs/cgroup/a/memory.max": "2000000\n",
    "sys/fs/cgroup/a/memory.current": "900000\n",
    "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 300000\n",
}
GROUP_1 = {
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000000\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 400000\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": MEMINFO}, 8000 * 1024),
        # The group above is the tighter one; the cached files that it can give back count as free.
        ({"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/a/b\n", **GROUP_2}, 2_000_000 - 900_000 + 300_000),
        # Inside a container the path that the host knows doesn't exist, only the mount's top.
        ({"proc/meminfo": MEMINFO, "proc/self/cgroup": "5:cpu:/x\n4:memory:/x\n0::/x\n", **GROUP_1}, 2_400_000),
        ({"proc/meminfo": "MemAvailable: 1 kB\n", "proc/self/cgroup": "4:memory:/\n", **GROUP_1}, 1024),
        ({"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"}, 8000 * 1024),
        # Over its limit already: nothing is left, and not less than nothing.
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "4:memory:/\n",
                **GROUP_1,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "5\n",
            },
            0,
        ),
    ],
)
def test_available_memory_of_a_container(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    write_all(tmp_path, files)
    assert available_memory(root=tmp_path) == expected


def test_elsewhere_the_machine_is_asked(tmp_path: Path) -> None:
    assert available_memory(root=tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Living(TorchDispatchMode):
    """The largest number of bytes that tensors made under it had at one time; views share their storage."""

    def __init__(self, without: set[int]) -> None:
        super().__init__()
        self.now = self.most = 0
        self.without, self.tensors = without, Counter[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.without:
                place, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
                self.now += 0 if self.tensors[place] else size
                self.most = max(self.most, self.now)
                self.tensors[place] += 1
                weakref.finalize(tensor, self._freed, place, size)
        return result

    def _freed(self, place: int, size: int) -> None:
        self.tensors[place] -= 1
        self.now -= 0 if self.tensors[place] else size


@pytest.mark.parametrize("changes", [{}, {"norm_placement": "post", "norm": "layer", "feedforward": "gelu"}], ids=str)
@pytest.mark.parametrize("feedforward_width", [64, 512])
def test_what_reading_without_a_cache_holds(changes: dict[str, Any], feedforward_width: int) -> None:
    """The estimate is what is measured, within a fifth."""
    config = dataclasses.replace(CONFIG, feedforward_width=feedforward_width, mask="bidirectional", **changes)
    model = Transformer(config).requires_grad_(False)
    own = {each.untyped_storage().data_ptr() for each in model.parameters()}
    with torch.inference_mode(), Living(own) as living:
        model.hidden(torch.zeros(4, 256, dtype=torch.int64), Layout.rows([256] * 4))
    assert encoding_bytes(config, 1024).activations == pytest.approx(living.most, rel=0.2)
