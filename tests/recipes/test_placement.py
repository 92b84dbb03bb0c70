"""Where a model runs and in what numbers: defaults, names, and what is advised against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import handscroll as hs
from handscroll.model import ModelConfig, Transformer
from handscroll.recipes.events import Advice
from handscroll.recipes.placement import chosen_device, chosen_dtype
from handscroll.text import Tokenizer

HERE = torch.device("cpu")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose weights are bfloat16."""
    tokenizer = Tokenizer.train(["The quick brown fox jumps over the lazy dog. " * 20], 280)
    model = Transformer(ModelConfig(tokenizer.vocab_size, 32, 2, 2, 1, 16, 48, 64), seed=4).to(torch.bfloat16)
    folder = tmp_path_factory.mktemp("half") / "model"
    hs.save(model, tokenizer, folder)
    return folder


def test_defaults(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hs.load(half).model.embedding.weight.dtype == torch.float32
    assert hs.load(half, dtype=None).model.embedding.weight.dtype == torch.bfloat16
    assert chosen_device("auto") == HERE or torch.cuda.is_available()
    assert chosen_dtype("auto", torch.device("cuda")) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.bfloat16])
def test_half_precision_on_a_cpu_works_and_is_advised_against(half: Path, dtype: Any) -> None:
    with pytest.warns(Advice, match="float16 on a CPU takes half the memory of float32, and 5 to 200 times as long"):
        model, tokenizer = hs.load(half, dtype=dtype)
    assert model.embedding.weight.dtype in (torch.bfloat16, torch.float16)
    for cache in ("full", "block_memory", "quantized"):
        tokens = [*hs.generate(model, tokenizer, "The quick brown fox " * 20, cache=cache, max_new_tokens=3)]
        assert len(tokens) == 3


def test_a_copy_keeps_the_dtype_of_the_file(half: Path, tmp_path: Path) -> None:
    hs.save(*hs.load(half, dtype=None), tmp_path / "copy")
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (half / "model.safetensors").read_bytes()


def test_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert chosen_device("cuda:0").index == 0
    with pytest.raises(ValueError, match=r"device='cuda:1' is not here: PyTorch sees 1 GPUs; choose cpu or auto"):
        chosen_device("cuda:1")
    for wrong in ("gpu", "mps", ""):
        with pytest.raises(ValueError, match=f"device='{wrong}' is not known: choose cpu, cuda, cuda:1 or another"):
            chosen_device(wrong)
    with pytest.raises(ValueError, match="dtype='int8' is not known: choose float32, bfloat16, float16 or auto"):
        chosen_dtype("int8", HERE)
