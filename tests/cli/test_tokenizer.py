"""`handscroll tokenizer`: what it writes is what the library reads, and what it shows is what there is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handscroll.cli.tokenizer import COLOURS, _shown
from handscroll.text import Tokenizer
from handscroll.text.pieces import pieces

Run = Callable[..., Any]


@pytest.mark.parametrize("options", [(), ("--reference",), ("--kind", "wordpiece"), ("--han", "isolated")])
def test_train_writes_a_folder(run: Run, options: tuple[str, ...]) -> None:
    ran = run("tokenizer", "train", "text.txt", "--vocab-size", "280", "--out", "learnt", "--json", *options)
    told = json.loads(ran.out)
    learnt = Tokenizer.load("learnt")
    assert told["entries"] == learnt.vocab_size <= 280
    assert told["reference"] == ("--reference" in options)
    assert learnt.backend.kind == ("WordPiece" if "wordpiece" in options else "byte-level BPE")
    if "--reference" in options:
        assert "joining: 280 of 280 entries" in ran.err
        text = Path("text.txt").read_text(encoding="utf-8")
        assert learnt.fingerprint == Tokenizer.train([text], 280).fingerprint


def test_encode_separates_tokens_and_gives_their_ids(run: Run) -> None:
    tokenizer = Tokenizer.load("model")
    ran = run("tokenizer", "encode", "model", "The fox.\n<|end|>")
    assert ran.out.splitlines()[0].startswith("The")
    assert ran.out.replace("|", "").startswith("The fox.⏎\n<end>")
    ids = tokenizer.encode("The fox.\n<|end|>")
    assert f"{len(ids)} tokens, 16 characters" in ran.out
    assert run("tokenizer", "encode", "model", "The fox.\n<|end|>", "--ids").out.split()[: len(ids)] == list(
        map(str, ids)
    )
    told = json.loads(run("tokenizer", "encode", "model", "天 <|end|>", "--special", "--json").out)
    assert [token["id"] for token in told["tokens"]] == tokenizer.encode("天 <|end|>", special=True)
    assert told["bytes"] == len("天 <|end|>".encode())
    assert told["gives_the_text_back"] is True
    assert len(json.loads(run("tokenizer", "encode", "model", "--file", "text.txt", "--json").out)["tokens"]) > 100
    assert run("tokenizer", "encode", "model").code == 2


def test_neighbours_have_different_colours_on_a_terminal(folder: Path) -> None:
    found = pieces(Tokenizer.load(folder), "The quick brown fox")
    styles = [span.style for span in _shown(found, True).spans]
    assert styles == [COLOURS[place % len(COLOURS)] for place in range(len(found))]
    assert _shown(found, True).plain == "The quick brown fox"


def test_inspect_tells_what_it_is(run: Run) -> None:
    told = json.loads(run("tokenizer", "inspect", "model", "--json").out)
    assert (told["kind"], told["entries"], told["bos_id"]) == ("byte-level BPE", 300, 1)
    assert told["control_tokens"]["<|end|>"] == 6
    assert sum(told["made_of"].values()) == 300 - 7
    shown = run("tokenizer", "inspect", "model").out
    assert "byte-level BPE" in shown
    assert "<|end|> 6" in shown


def test_compare_counts_by_hand(run: Run) -> None:
    """A tokenizer of bytes alone has a token for each byte, three for each of these Han characters."""
    Path("corpus.txt").write_text("It's a fox, 天地 12!", encoding="utf-8")
    Tokenizer.train(["x"], 263).save("bytes")
    told = json.loads(run("tokenizer", "compare", "model", "bytes", "--corpus", "corpus.txt", "--json").out)
    columns = {name: [row[place] for row in told["rows"]] for place, name in enumerate(told["columns"])}
    assert columns["tokenizer"] == ["model", "bytes"]
    assert columns["entries"] == [300, 263]
    assert columns["tokens"][1] == len("It's a fox, 天地 12!".encode())
    assert columns["bytes/token"][1] == 1
    assert columns["tokens/word"][1] == pytest.approx((4 + 1 + 3) / 3)
    assert columns["tokens/Han character"][1] == 3
    assert columns["gives the text back"] == [True, True]
    assert all(speed > 0 for speed in columns["MB/s"])
    assert "tokens/word" in run("tokenizer", "compare", "model", "bytes", "--corpus", "corpus.txt").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "empty.txt"), "the corpus is empty"),
        (("train", "text.txt", "--vocab-size", "100"), "vocab_size is 100; it must be at least 263"),
        (("train", "text.txt", "--kind", "unigram"), "kind is 'unigram'; it must be 'bpe' or 'wordpiece'"),
        (("inspect", "hollow"), "hollow has no tokenizer.json, tokenizer.model, vocab.txt or vocab.json"),
        (("inspect", "damaged"), "damaged/tokenizer.model can't be read as a tokenizer"),
        (("compare", "nowhere", "--corpus", "text.txt"), "nowhere is not a folder"),
    ],
)
def test_mistakes_are_one_line(run: Run, words: tuple[str, ...], message: str) -> None:
    Path("empty.txt").write_text(" \n")
    Path("hollow").mkdir()
    Path("damaged").mkdir()
    Path("damaged/tokenizer.model").write_bytes(b"\x0a\x05abc")
    ran = run("tokenizer", *words)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1
