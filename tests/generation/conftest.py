"""A small Qwen2 whose next tokens are far from uniform, as Handscroll holds it and as transformers reads it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from handscroll.model import ModelConfig, Transformer, load_model, save_model

VOCABULARY, WINDOW = 97, 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ModelConfig(VOCABULARY, 48, 2, 6, 2, 8, 64, WINDOW, qkv_bias=True, tied_embeddings=True)
    model = Transformer(config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    path = tmp_path_factory.mktemp("generation") / "model"
    save_model(model, path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Transformer:
    return load_model(folder).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in (1, 7, 40, 23)]
