"""Decoding by its flat options: stop strings across tokens and bytes, several attempts, and what is refused."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest

from handscroll.model import ModelConfig, Transformer
from handscroll.recipes.decoding import make_decoding
from handscroll.recipes.generate import Token, generate
from handscroll.text import Tokenizer

TEXT = "The quick brown fox jumps over the lazy dog. 天地玄黄，宇宙洪荒。 "


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT * 40], 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return Transformer(ModelConfig(tokenizer.vocab_size, 32, 2, 2, 1, 16, 48, 64), seed=4).eval()


def tokens(model: Transformer, tokenizer: Tokenizer, **options: Any) -> list[Token]:
    return list(generate(model, tokenizer, "The", cache="full", **{"max_new_tokens": 40, **options}))


def text(found: list[Token]) -> str:
    return "".join(token.text for token in found)


def test_a_stop_string_ends_the_text_wherever_tokens_and_bytes_are_cut(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    """Every stretch of what an untrained model says, which is full of characters in several tokens."""
    options = {"temperature": 1.0, "seed": 2, "stop_ids": ()}
    free = tokens(model, tokenizer, **options)
    whole = text(free)
    assert free[-1].ends == "max_new_tokens"
    for start in range(2, len(whole) - 4, 7):
        stop = whole[start : start + 4]
        found = tokens(model, tokenizer, stop=["\0", stop], **options)
        assert text(found) == whole[: whole.index(stop)]
        assert found[-1].ends == "stop string"
        assert [token.id for token in found] == [token.id for token in free[: len(found)]]
        assert len(found) == len(free) or len(text(free[: len(found)])) < whole.index(stop) + 4 + 8


def test_what_only_begins_like_a_stop_string_is_shown_in_the_end(model: Transformer, tokenizer: Tokenizer) -> None:
    whole = text(tokens(model, tokenizer, stop_ids=()))
    assert text(tokens(model, tokenizer, stop_ids=(), stop=whole[-3:] + "!")) == whole


def test_a_control_token_stops_by_its_name_and_a_stop_token_has_no_text(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    end = tokenizer.id_of("<|end|>")
    found = tokens(model, tokenizer, stop_ids=(), stop="<|end|>", logit_bias={end: 50.0})
    assert found == [Token(end, "", None, "stop token")]
    word = tokens(model, tokenizer)[0].id
    assert tokenizer.decode([word])
    assert tokens(model, tokenizer, stop_ids=[word]) == [Token(word, "", None, "stop token")]


def test_best_of_is_the_sample_of_the_largest_mean(model: Transformer, tokenizer: Tokenizer) -> None:
    """Against samples that are drawn one by one; stop strings end each where it says them."""
    options: dict[str, Any] = {"temperature": 1.2, "stop": ["e", "o"], "max_new_tokens": 9}
    alone = [tokens(model, tokenizer, seed=seed, logprobs=0, **options) for seed in range(5, 9)]
    means = [fmean(token.logprobs.chosen for token in each if token.logprobs) for each in alone]
    expected = alone[means.index(max(means))]
    found = tokens(model, tokenizer, seed=5, best_of=4, **options)
    assert [(token.id, token.text, token.ends) for token in found] == [(t.id, t.text, t.ends) for t in expected]
    assert found[0].logprobs is None
    assert len({tuple(token.id for token in each) for each in alone}) == 4
    assert len({each[-1].ends for each in alone}) == 2


def test_beams_go_through_the_same_door(model: Transformer, tokenizer: Tokenizer) -> None:
    greedy, found = (tokens(model, tokenizer, beams=beams, max_new_tokens=9) for beams in (1, 4))
    assert found != greedy
    assert found[-1].ends


def test_penalties_look_at_the_whole_prompt(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at what is read in chunks before the last one."""
    prompt = TEXT * 3
    options: dict[str, Any] = {"cache": "full", "repetition_penalty": 3.0, "no_repeat_ngram": 2, "max_new_tokens": 20}
    expected = list(generate(model, tokenizer, prompt, **options))
    monkeypatch.setattr("handscroll.recipes.generate.CHUNK", 16)
    assert [t.id for t in generate(model, tokenizer, prompt, **options)] == [t.id for t in expected]
    plain = list(generate(model, tokenizer, prompt, cache="full", max_new_tokens=20))
    assert [t.id for t in plain] != [t.id for t in expected]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"top_q": 1}, "there is no option 'top_q': did you mean top_"),
        ({"best_of": 0}, "best_of=0"),
        ({"best_of": 2}, "best_of=2 draws samples, which at temperature 0 are all alike"),
        ({"stop": ""}, "a stop string is empty"),
        ({"beams": 0}, "beams=0"),
        ({"beams": 2, "temperature": 1.0}, "beam search knows nothing of a temperature"),
        ({"beams": 2, "stop": "a"}, "beam search knows nothing of stop strings"),
        ({"beams": 2, "logprobs": 0}, "beam search knows nothing of logprobs"),
        ({"early_stopping": True}, "early_stopping=True says nothing without beam search"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ],
    ids=str,
)
def test_options_that_say_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_decoding(**options)


def test_samples_and_beams_need_memory_of_their_own(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handscroll.model.footprint.available_memory", lambda device="cpu": 1_000_000)
    generate(model, tokenizer, TEXT * 40, cache="full")
    with pytest.raises(MemoryError, match=r"remembering [\d,]+ tokens in 8 rows needs .* MB, but 1.0 MB"):
        generate(model, tokenizer, TEXT * 40, cache="full", beams=8)
    generate(model, tokenizer, TEXT * 160, cache={"policy": "quantized", "bits": 4})
    with pytest.raises(MemoryError, match="remembering"):
        generate(model, tokenizer, TEXT * 160, cache="full")
