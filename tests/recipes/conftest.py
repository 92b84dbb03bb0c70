"""What the tests of recipes share: a small corpus, and a recipe of a tiny model that learns it in a moment."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

TEXT = "The quick brown fox jumps over the lazy dog. 天地玄黄，宇宙洪荒。 "


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bits are compared with those of another process: both use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT * 40, encoding="utf-8")
    return path


@pytest.fixture
def recipe(tmp_path: Path, corpus: Path) -> dict[str, Any]:
    return {
        "model": {"width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "window": 32, "qkv_bias": True},
        "tokenizer": {"vocab_size": 280, "han": "isolated"},
        "data": {"files": [str(corpus)]},
        "optimizer": {"name": "muon"},
        "schedule": {"name": "wsd", "warmup": 2},
        "train": {"steps": 12, "windows_per_step": 4, "micro_batches": 2, "checkpoint_every": 5, "seed": 3},
        "out": str(tmp_path / "run"),
    }


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training these models; the command line's tests draw, and those of the page."""
    monkeypatch.setattr("handscroll.recipes.train.write_training_report", lambda path, report: None)
