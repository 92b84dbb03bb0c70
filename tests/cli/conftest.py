"""What the tests of the command line share: a way to run it in this process, and a folder with a tiny model."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import handscroll
from handscroll.cli import main
from handscroll.model import ModelConfig, Transformer
from handscroll.model.heads import MaskedLmOptions
from handscroll.model.slots import EmbeddingOptions, LearnedOptions
from handscroll.text import Tokenizer

TEXT = "The quick brown fox jumps over the lazy dog. 天地玄黄，宇宙洪荒。 " * 40
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sleeps", ".", "天"]


class Ran(NamedTuple):
    """An exit code, and what was printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bits are compared with those of another process: both use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> Run:
    """Runs `handscroll ARGUMENTS...` in a folder of its own, in which `model` is a tiny model and `text.txt` a text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("HANDSCROLL_DEBUG", raising=False)
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")

    def call(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["handscroll", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        return Ran(int(stopped.value.code or 0), shown.out, shown.err)

    return call


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, for reading only."""
    tokenizer = Tokenizer.train([TEXT], 300)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        width=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_width=16,
        feedforward_width=48,
        max_positions=64,
    )
    path = tmp_path_factory.mktemp("saved") / "model"
    handscroll.save(Transformer(config, seed=4), tokenizer, path)
    return path


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a new BERT with a vocabulary of its own, for reading only."""
    path = tmp_path_factory.mktemp("encoder")
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    config = ModelConfig(
        vocab_size=len(WORDS),
        width=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_width=8,
        feedforward_width=24,
        max_positions=24,
        position=LearnedOptions(),
        norm="layer",
        feedforward="gelu",
        qkv_bias=True,
        output_bias=True,
        feedforward_bias=True,
        mask="bidirectional",
        norm_placement="post",
        embedding=EmbeddingOptions(segments=2, norm=True),
        head=MaskedLmOptions(),
        tied_embeddings=True,
    )
    handscroll.save(Transformer(config, seed=3), Tokenizer.load(path), path / "model")
    return path / "model"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        """
model: {width: 32, layers: 1, heads: 2, window: 32}
tokenizer: {vocab_size: 280}
data: {files: text.txt}
train: {steps: 12, windows_per_step: 4, checkpoint_every: 5}
out: run
""",
        encoding="utf-8",
    )
    return path
