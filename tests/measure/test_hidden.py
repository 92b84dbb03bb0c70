"""Hidden tokens and spans: the figures are those of a slow reading, token by token, and mistakes are told by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from handscroll.generation import read
from handscroll.generation.frames import Blank, Frame
from handscroll.kvcache import Full
from handscroll.measure.hidden import Blanks, Masks, make_teller, tells_hidden
from handscroll.measure.likelihood import token_bytes
from handscroll.measure.suites import SUITES, Subject, evaluate
from handscroll.model import Transformer
from handscroll.model.heads import MaskedLmOptions, ScalarOptions
from handscroll.model.position import Rope2dOptions
from handscroll.text import Tokenizer

TEXTS = "Ada lives in Paris, and her brother keeps bees by the sea.\n" * 9, "阿达住在巴黎，她的弟弟在海边养蜂。" * 9
ROLES = ("mask", "cls", "sep", "span_start", "span_end")
IDS, PLACES = np.arange(20, 44), np.array([2, 3, 11])


@pytest.fixture(scope="module")
def known() -> Tokenizer:
    return Tokenizer.train(list(TEXTS), 330, roles=ROLES)


@pytest.fixture(scope="module")
def encoder(known: Tokenizer, model: Transformer) -> Subject:
    config = replace(model.config, vocab_size=known.vocab_size, mask="bidirectional", head=MaskedLmOptions())
    return Subject(Transformer(config, seed=1), known)


@pytest.fixture(scope="module")
def filler(known: Tokenizer, model: Transformer) -> Subject:
    config = replace(model.config, vocab_size=known.vocab_size, mask="prefix", position=Rope2dOptions())
    return Subject(Transformer(config, seed=1), known)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("texts")
    # The languages of one file are told apart, too.
    (folder / "both.txt").write_text("".join(TEXTS), encoding="utf-8")
    return (str(folder / "both.txt"),)


def nll(logits_V: torch.Tensor, target: int) -> float:
    return float(-logits_V.float().log_softmax(-1)[target])


@torch.inference_mode()
def by_masks(model: Transformer, teller: Masks, hidden: list[int], place: int) -> float:
    """The surprise of one token, in a row of its own."""
    shown = [teller.mask if at in hidden else int(id_) for at, id_ in enumerate(IDS)]
    return nll(model(torch.tensor([[teller.first, *shown, teller.last]]))[0, place + 1], int(IDS[place]))


@torch.inference_mode()
def by_blank(model: Transformer, teller: Blanks, shown: list[int], place: int, span: list[int]) -> list[float]:
    """The surprise of a span's tokens and its end: part A is read into a cache, and then token after token."""
    cache = Full().start(model.config, model.position, 1)
    frame = Frame(len(shown), Blank(place, len(shown)))
    list(read(model, [shown], cache, frames=[frame]))
    found = []
    for token, target in zip([teller.start, *span], [*span, teller.end], strict=True):
        *_, last = read(model, [[token]], cache, frames=[frame])
        found.append(nll(model.logits(last.hidden_BTE)[0, -1], target))
    return found


def test_masks_are_those_of_single_rows(encoder: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    teller = make_teller(encoder.model, encoder.tokenizer)
    assert isinstance(teller, Masks)
    together = [by_masks(encoder.model, teller, PLACES.tolist(), place) for place in PLACES.tolist()]
    assert [told.nll[0] for told in teller.together(IDS, PLACES)] == pytest.approx(together, abs=1e-5)
    spans = np.array([[0, 2], [9, 13]])
    for _ in range(2):
        for told, (start, stop) in zip(teller.alone(IDS, spans), spans.tolist(), strict=True):
            inside = list(range(start, stop))
            assert told.nll == pytest.approx([by_masks(encoder.model, teller, inside, at) for at in inside], abs=1e-5)
            assert told.is_ended is None
        # Row by row the same.
        monkeypatch.setattr("handscroll.measure.hidden.TOKENS_AT_ONCE", 1)


def test_blanks_are_those_of_a_reading_token_by_token(filler: Subject) -> None:
    teller = make_teller(filler.model, filler.tokenizer)
    assert isinstance(teller, Blanks)
    ids = IDS.tolist()
    for told, (start, stop) in zip(teller.alone(IDS, np.array([[0, 2], [9, 13]])), ((0, 2), (9, 13)), strict=True):
        shown = [*ids[:start], teller.mask, *ids[stop:]]
        slow = by_blank(filler.model, teller, shown, start, ids[start:stop])
        assert told.nll == pytest.approx(slow[:-1], abs=1e-5)
        assert told.is_ended is not None
    shown = [teller.mask if at in PLACES else id_ for at, id_ in enumerate(ids)]
    slow = [by_blank(filler.model, teller, shown, place, [ids[place]])[0] for place in PLACES.tolist()]
    assert [told.nll[0] for told in teller.together(IDS, PLACES)] == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("suite", ["masked", "infilling"])
@pytest.mark.parametrize("kind", ["encoder", "filler"])
def test_both_languages_are_measured_once_and_alike(
    suite: str, kind: str, files: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    subject: Subject = request.getfixturevalue(kind)
    # Of all texts nothing is left to chance but what is drawn by the seed.
    first, again, other = (
        evaluate(subject.model, subject.tokenizer, suite, ["full", "sliding_window"], files=files, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first.column("language") == ["en", "zh"]
    told = [[value for name, value in row.items() if name != "seconds"] for row in first.records()]
    assert told == [[value for name, value in row.items() if name != "seconds"] for row in again.records()]
    assert first.column("bits per byte") != other.column("bits per byte")


def test_pseudo_likelihood_of_a_whole_text(encoder: Subject, tmp_path: Path) -> None:
    """With all tokens hidden, one at a time, bits per byte are those of the text."""
    (tmp_path / "a.txt").write_text(TEXTS[0][:59], encoding="utf-8")
    found = evaluate(encoder.model, encoder.tokenizer, "masked", files=(str(tmp_path / "a.txt"),), hidden=1.0)
    teller = make_teller(encoder.model, encoder.tokenizer)
    ids = np.array(encoder.tokenizer.encode(TEXTS[0][:59]))
    spans = np.stack((np.arange(len(ids)), np.arange(len(ids)) + 1), axis=1)
    bits = sum(told.nll[0] for told in teller.alone(ids, spans)) / np.log(2) / 59
    assert found.column("bits per byte") == [pytest.approx(bits), "no text of this language"]


def test_bytes_of_a_text_are_its_tokens(known: Tokenizer) -> None:
    for text in (*TEXTS, "naïve 🐝 ümläut"):
        encoded = known.encode_with_offsets(text)
        assert token_bytes(text, encoded.offsets).sum() == len(text.encode())
    assert token_bytes("", []).tolist() == []


def test_a_model_whose_head_tells_no_tokens_tells_no_hidden_ones(encoder: Subject, filler: Subject) -> None:
    for subject in (encoder, filler):
        assert tells_hidden(subject.model.config)
        assert not tells_hidden(replace(subject.model.config, head=ScalarOptions()))


def test_what_is_not_measured_is_not_read(encoder: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, encode, encoded = [], Tokenizer.encode_with_offsets, []
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text(TEXTS[0], encoding="utf-8")
        files.append(str(tmp_path / f"{number}.txt"))
    monkeypatch.setattr(Tokenizer, "encode_with_offsets", lambda *given: encoded.append(given) or encode(*given))
    evaluate(encoder.model, encoder.tokenizer, "masked", files=tuple(files), tokens=20, languages=("en",))
    assert len(encoded) == 1


def test_models_that_cannot_are_named(encoder: Subject, model: Transformer, tokenizer: Tokenizer) -> None:
    for suite in ("masked", "infilling"):
        with pytest.raises(
            ValueError, match=f"the suite {suite} can't measure.*tells no hidden tokens.*mask is causal"
        ):
            evaluate(model, tokenizer, suite)
    for suite in (name for name, each in SUITES.items() if "cache" in each.needs):
        with pytest.raises(
            ValueError, match=f"the suite {suite} can't.*continues no text.*--suite masked or infilling"
        ):
            evaluate(encoder.model, encoder.tokenizer, suite)
    with pytest.raises(ValueError, match="tokenizer has no control token for mask"):
        evaluate(encoder.model, tokenizer, "masked")
    with pytest.raises(ValueError, match=r"hidden=0.0: a share of the tokens"):
        evaluate(encoder.model, encoder.tokenizer, "masked", hidden=0)
    with pytest.raises(ValueError, match=r"spans=\(\): lengths from 1 to 15"):
        evaluate(encoder.model, encoder.tokenizer, "infilling", spans=())
    with pytest.raises(ValueError, match=r"languages are \['fr'\]; give one or more of en, zh"):
        evaluate(encoder.model, encoder.tokenizer, "masked", languages=("fr",))
    with pytest.raises(ValueError, match=r"tokens=3, window=96: a piece has 16 tokens at least"):
        evaluate(encoder.model, encoder.tokenizer, "infilling", tokens=3)
