"""Perplexity in windows against transformers' own losses, and bits per byte against the text itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import handscroll as hs
from handscroll.kvcache import Full, SlidingWindow
from handscroll.measure.likelihood import bits_per_byte
from handscroll.measure.strided import read_strided, windows
from handscroll.measure.suites.perplexity import _material
from handscroll.model import Transformer
from handscroll.text import Tokenizer


@pytest.fixture(scope="module")
def theirs(model: Transformer, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("strided") / "model"
    hs.save(model, tokenizer, folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def their_loss(theirs: Any, ids: list[int], window: int, stride: int) -> tuple[float, int]:
    """Sum of losses and how many, in the loop that users of transformers write: targets that were seen are -100."""
    total, count, end = 0.0, 0, 0
    for first in range(0, len(ids), stride):
        last = min(first + window, len(ids))
        tokens_BT = torch.tensor([ids[first:last]])
        labels_BT = tokens_BT.clone()
        labels_BT[:, : tokens_BT.shape[1] - (last - end)] = -100
        # Their loss shifts targets by one: the first token of a window has none.
        counted = int((labels_BT[:, 1:] != -100).sum())
        with torch.no_grad():
            total += float(theirs(tokens_BT, labels=labels_BT).loss) * counted if counted else 0.0
        count, end = count + counted, last
        if last == len(ids):
            break
    return total, count


@pytest.mark.parametrize(("window", "stride"), [(50, 20), (64, 64), (40, 39), (300, 100), (500, 1)])
def test_equals_a_loop_over_transformers(
    window: int, stride: int, model: Transformer, tokenizer: Tokenizer, theirs: Any, document: Any
) -> None:
    ids = tokenizer.encode(document.text)[:300]
    *_, last = read_strided(model, ids, Full(), window, stride)
    total, count = their_loss(theirs, ids, window, stride)
    assert last.curve.tokens == count
    assert sum(last.curve.nll_sums) == pytest.approx(total, rel=1e-5)


def test_windows_of_a_policy_forget_within_a_window(model: Transformer, tokenizer: Tokenizer, document: Any) -> None:
    """A policy reads every window anew: one that sees 8 tokens predicts as it does in a text of its own."""
    ids = tokenizer.encode(document.text)[:120]
    *_, near = read_strided(model, ids, SlidingWindow(8), 60, 30)
    *_, far = read_strided(model, ids, Full(), 60, 30)
    assert near.curve.nll_sums != far.curve.nll_sums
    assert near.cache.lengths == far.cache.lengths == (60,)


def test_every_token_but_the_first_is_counted_once() -> None:
    for total, window, stride in ((100, 10, 3), (7, 10, 10), (100, 10, 9), (101, 50, 50)):
        spans = windows(total, window, stride)
        counted = [place for span in spans for place in range(span.counted, span.last)]
        assert counted == sorted(set(counted))
        skipped = {span.first for span in spans} if stride == window else {0}
        assert set(counted) == set(range(total)) - skipped
        assert all(span.counted - span.first >= window - stride for span in spans[1:-1])


@pytest.mark.parametrize("text", ["naïve 狐狸 🦊 fox", "狐狸", "a", "🦊" * 3])
def test_bytes_of_tokens_are_those_of_the_text(text: str, tokenizer: Tokenizer) -> None:
    material = _material(tokenizer, text, 1000)
    assert material.bytes_T.sum() == len(text.encode())
    assert len(material.bytes_T) == len(material.ids)
    assert (material.bytes_T >= 0).all()


def test_bits_per_byte_compare_tokenizers(model: Transformer, tokenizer: Tokenizer) -> None:
    """A model that knows nothing pays log2 V bits a token: a byte costs less the more bytes a token stands for."""
    text = "Winter is over, and the ferry waits for nobody but Ada. " * 20
    with torch.no_grad():
        blank = Transformer(model.config, seed=1)
        blank.output_weight_VE.zero_()
    table = hs.evaluate(blank, tokenizer, "perplexity", ["full"], tokens=200, text=text)
    rows = dict(zip(table.column("positions"), table.column("full"), strict=True))
    ids = tokenizer.encode(text)[:200]
    size = len(tokenizer.decode(ids[1:]).encode())
    assert rows["all"] == pytest.approx(tokenizer.vocab_size, rel=1e-4)
    assert rows["bits per byte"] == pytest.approx(199 * math.log2(tokenizer.vocab_size) / size, rel=1e-4)
    assert bits_per_byte(0.0, 0) is None


def test_suite_in_windows(model: Transformer, tokenizer: Tokenizer, theirs: Any, document: Any, tmp_path: Path) -> None:
    options = {"tokens": 200, "text": document.text, "window": 50, "full_limit": 60}
    table = hs.evaluate(model, tokenizer, "perplexity", ["full", "block_memory"], **options)
    rows = dict(zip(table.column("positions"), table.column("full"), strict=True))
    total, count = their_loss(theirs, tokenizer.encode(document.text)[:200], 50, 25)
    assert rows["all"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert rows["tokens read"] == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window=1: at least 2 tokens"),
        ({"window": 50, "stride": 51}, "stride=51: a window of 50 tokens moves on by 1 to 50"),
        ({"stride": 5}, "stride=5: windows move on by it; give their length, too"),
    ],
)
def test_mistakes(options: dict[str, int], message: str, model: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=message):
        hs.evaluate(model, tokenizer, "perplexity", ["full"], **options)
