"""A text that is read once and asked later: what is saved, what is refused, and what an answer looked at."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from handscroll.generation import read as read_ids
from handscroll.kvcache import make_policy, memory_file
from handscroll.kvcache.memory_file import Memory
from handscroll.model import ModelConfig, Transformer
from handscroll.recipes import read as reading
from handscroll.recipes.ask import Passage, ask
from handscroll.recipes.generate import Token, generate
from handscroll.recipes.read import begin, open_memory, read
from handscroll.text import Tokenizer

TEXT = "The quick brown fox jumps over the lazy dog. 天地玄黄，宇宙洪荒。 "
BLOCKS = {"policy": "block_memory", "block_size": 4, "blocks": 1, "window": 8, "tile": 4}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT * 40], 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return Transformer(ModelConfig(tokenizer.vocab_size, 32, 2, 2, 1, 16, 48, 64), seed=4).eval()


def have_read(model: Transformer, tokenizer: Tokenizer, cache: object, text: str = TEXT * 9) -> Memory:
    memory = begin(model, tokenizer, text, cache, "m")  # type: ignore[arg-type]
    assert list(read(model, tokenizer, memory))
    return memory


@pytest.mark.parametrize("cache", ["full", "sliding_window", {"policy": "block_memory", "window": 36}], ids=str)
def test_an_answer_is_what_generate_says(model: Transformer, tokenizer: Tokenizer, cache: object) -> None:
    """As long as the whole text is attended to, it doesn't matter that the question came later."""
    text, question = "The lazy dog.\n", "Who jumps?"
    memory = have_read(model, tokenizer, cache, text)
    for seed in (1, 2):
        told = ask(model, tokenizer, memory, question, max_new_tokens=9, temperature=1.0, seed=seed)
        messages = [{"role": "user", "content": question}]
        expected = generate(
            model,
            tokenizer,
            messages,
            context=text,
            cache="full",
            max_new_tokens=9,
            temperature=1.0,
            seed=seed,
        )
        assert [item for item in told if isinstance(item, Token)] == list(expected)
    assert memory.cache.lengths == (len(memory.notes["ids"]),)


def test_a_model_without_a_template_goes_on_with_the_question(model: Transformer, tokenizer: Tokenizer) -> None:
    plain = Tokenizer(tokenizer.backend, {key: tokenizer.config[key] for key in ("bos_token", "eos_token")})
    memory = have_read(model, plain, "full", "The lazy dog.\n")
    expected = generate(model, plain, "The lazy dog.\nThe quick", cache="full", max_new_tokens=9)
    assert list(ask(model, plain, memory, "The quick", max_new_tokens=9)) == list(expected)


def test_passages_are_of_the_text(model: Transformer, tokenizer: Tokenizer) -> None:
    memory = have_read(model, tokenizer, {"policy": "quantized", "inner": BLOCKS})
    told = list(ask(model, tokenizer, memory, "Who jumps?", max_new_tokens=5))
    passages = [item for item in told if isinstance(item, Passage)]
    assert 1 <= len(passages) <= 4
    ids = tokenizer.encode(TEXT * 9)
    for passage in passages:
        assert passage.text == tokenizer.decode(ids[passage.first_token : passage.first_token + 4])
    assert len({passage.first_token for passage in passages}) == len(passages)


def test_blocks_end_with_sentences_where_they_are_asked_to(model: Transformer, tokenizer: Tokenizer) -> None:
    options = BLOCKS | {"block_size": 8, "cut": "sentences"}
    memory = have_read(model, tokenizer, {"policy": "offloaded", "inner": options})
    ids = tokenizer.encode(TEXT * 9)
    told = list(ask(model, tokenizer, memory, "The lazy dog. " * 9, max_new_tokens=5))
    for passage in (item for item in told if isinstance(item, Passage)):
        assert any(passage.text == tokenizer.decode(ids[passage.first_token :][:length]) for length in range(4, 9))
    cache = make_policy(options).start(model.config, model.position, 1)
    list(read_ids(model, [ids], cache, breaks=tokenizer.sentence_ends))
    edges_N = cache.layers[0].rows[0].edges_N  # type: ignore[attr-defined]
    assert set(edges_N.diff().tolist()) > {8}
    assert memory.cache.layers[0].rows[0].edges_N.equal(edges_N)  # type: ignore[attr-defined]


def test_a_long_reading_is_saved_on_the_way_but_not_all_the_time(
    model: Transformer, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, saved = [0.0], []
    monkeypatch.setattr(reading.time, "monotonic", lambda: clock[0])

    class Step(NamedTuple):
        tokens: int
        total: int

    def steps(*_: object, **__: object) -> Iterator[Step]:
        for tokens in range(1, 41):
            clock[0] += 25
            yield Step(tokens, 40)

    def save(path: Path, memory: Memory, model: Transformer) -> None:
        saved.append(clock[0])
        clock[0] += 20

    monkeypatch.setattr(memory_file, "save", save)
    monkeypatch.setattr(reading, "read_ids", steps)
    list(read(model, tokenizer, begin(model, tokenizer, TEXT, "full", "m"), tmp_path / "book.memory"))
    # The first after a minute or more; as saving takes 20 seconds, the next ones not before 200 have passed.
    assert saved == [75.0, 295.0, 515.0, 735.0, 955.0, 1100.0]


def test_another_tokenizer_is_refused(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    memory = begin(model, tokenizer, TEXT, "full", "runs/m")
    list(read(model, tokenizer, memory, tmp_path / "book.memory"))
    assert open_memory(tmp_path / "book.memory", model, tokenizer).cache.lengths == memory.cache.lengths
    other = Tokenizer.train([TEXT * 40], 290)
    with pytest.raises(ValueError, match=r"made with another tokenizer: give the model's folder as it was, runs/m"):
        open_memory(tmp_path / "book.memory", model, other)


def test_mistakes(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the text is empty"):
        begin(model, tokenizer, " \n", "full", "m")
    with pytest.raises(ValueError, match="unknown cache policy 'fulll'"):
        begin(model, tokenizer, TEXT, "fulll", "m")
    memory = begin(model, tokenizer, TEXT, "full", "m")
    with pytest.raises(ValueError, match="is a folder: give the name of a file"):
        next(read(model, tokenizer, memory, tmp_path))
    assert memory.cache.lengths == (0,), "nothing is read that can't be saved"
    with pytest.raises(ValueError, match="a question is empty"):
        ask(model, tokenizer, memory, " ")
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        ask(model, tokenizer, memory, "Who?", max_new_tokens=0)
