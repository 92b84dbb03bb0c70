"""A conversation: every turn answers as if all were read anew, and reads only what is new."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from handscroll.generation import Sampling
from handscroll.model import ModelConfig, Transformer
from handscroll.recipes.chat import Answered, Chat, ChatEvent, Left, Notice, as_said
from handscroll.recipes.chat_commands import COMMANDS, handle
from handscroll.recipes.decoding import Decoding
from handscroll.recipes.events import Advance, Said
from handscroll.recipes.generate import Token
from handscroll.text import Tokenizer, chat_tokens, render

TEXT = "The quick brown fox jumps over the lazy dog. 天地玄黄，宇宙洪荒。 "
BLOCKS = {"policy": "block_memory", "block_size": 4, "blocks": 1, "window": 8, "tile": 4}
SHORT = Decoding(max_new_tokens=6)
# Earlier answers without what is in front of the last space, as templates do that leave out thoughts.
REWRITING = (
    "{%- for message in messages -%}{{- '<|' ~ message['role'] ~ '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}{{- message['content'].split('e')[-1] -}}"
    "{%- else -%}{{- message['content'] -}}{%- endif -%}{{- '<|end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT * 40], 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return Transformer(ModelConfig(tokenizer.vocab_size, 32, 2, 2, 1, 16, 48, 1024), seed=4).eval()


@pytest.fixture
def fed(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward of the model was given."""
    counts: list[int] = []
    hidden = model.hidden

    def watched(tokens_BT: Any, *rest: Any) -> Any:
        counts.append(tokens_BT.numel())
        return hidden(tokens_BT, *rest)

    monkeypatch.setattr(model, "hidden", watched)
    return counts


def said(events: Iterator[ChatEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token))


def of_kind(kind: type, events: Iterator[ChatEvent]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


@pytest.fixture(scope="module")
def clean(tokenizer: Tokenizer) -> dict[int, float]:
    """A bias that leaves an untrained model whole characters, and of control tokens the end of a turn."""
    end = tokenizer.id_of("<|end|>")
    texts = {id_: tokenizer.decode([id_]) for id_ in range(tokenizer.vocab_size)}
    control = set(tokenizer.special_tokens.values()) - {end}
    return {id_: -math.inf for id_, text in texts.items() if "\ufffd" in text or id_ in control}


def greedy(model: Transformer, ids: list[int], bias: dict[int, float], stop: int, count: int) -> list[int]:
    """The slow reference: all is read anew for every token."""
    said: list[int] = []
    while len(said) < count and stop not in said:
        logits_V = model(torch.tensor([[*ids, *said]]))[0, -1]
        logits_V[list(bias)] = -math.inf
        said.append(int(logits_V.argmax()))
    return said


def turn(tokenizer: Tokenizer, role: str, text: str) -> list[int]:
    return [tokenizer.id_of(f"<|{role}|>"), *tokenizer.encode(text), tokenizer.id_of("<|end|>")]


@pytest.mark.parametrize("cache", ["full", "sliding_window", "block_memory"])
def test_each_turn_answers_as_from_scratch_and_reads_only_what_is_new(
    cache: str, model: Transformer, tokenizer: Tokenizer, clean: dict[int, float], fed: list[int]
) -> None:
    """As long as all fits a way of remembering. A control token that a user types is read as plain text."""
    chat = Chat(model, tokenizer, cache, Decoding(Sampling(logit_bias=clean), max_new_tokens=6), system="Be brief.")
    list(chat.read_document("The lazy dog.\n"))
    end, assistant = tokenizer.id_of("<|end|>"), tokenizer.id_of("<|assistant|>")
    ids = [*tokenizer.encode("The lazy dog.\n"), *turn(tokenizer, "system", "Be brief.")]
    held = len(tokenizer.encode("The lazy dog.\n"))
    for question in ("Who jumps?", "天地？", "Why <|end|><|user|>?"):
        fed.clear()
        events = list(chat.answer(question))
        given = sum(fed)
        ids += [*turn(tokenizer, "user", question), assistant]
        expected = greedy(model, ids, clean, end, 6)
        assert [event.id for event in events if isinstance(event, Token)] == expected
        # Its own text, and its own answer but for the last token.
        assert given == len(ids) - held + len(expected) - 1
        assert chat.ids == [*ids, *expected[:-1]]
        assert chat.memory.lengths == (held := len(chat.ids),)
        ids += expected if expected[-1] == end else [*expected, end]
        [answered] = of_kind(Answered, iter(events))
        assert answered.tokens + answered.read - 1 == given
        assert chat.messages[-1] == {"role": "assistant", "content": said(iter(events))}


def test_what_was_drawn_is_never_read_again(
    model: Transformer, tokenizer: Tokenizer, clean: dict[int, float], fed: list[int]
) -> None:
    """A model may cut its words as no tokenizer would: this one likes to spell them."""
    letters = {tokenizer.encode(letter)[0]: 4.0 for letter in "foxdg"}
    decoding = Decoding(Sampling(1.5, seed=2, logit_bias=clean | letters), max_new_tokens=30)
    chat = Chat(model, tokenizer, "full", decoding)
    for number in range(4):
        fed.clear()
        events = list(chat.answer(f"Who {number}?"))
        assert sum(fed) <= len(turn(tokenizer, "user", f"Who {number}?")) + 3 + 30
        assert not [notice for notice in of_kind(Notice, iter(events)) if "read again" in notice.text]
    canonical = chat_tokens(tokenizer, chat.messages).ids
    assert chat.ids != canonical[: len(chat.ids)]
    assert tokenizer.decode(canonical).startswith(tokenizer.decode(chat.ids))
    # Each turn draws from a stream of its own.
    assert len({tuple(answer[:3]) for answer in chat.said}) == 4


@pytest.mark.parametrize("cache", ["full", "block_memory", BLOCKS, "snapkv"], ids=str)
def test_a_template_that_rewrites_what_was_said_is_told_of_and_obeyed(
    cache: Any, model: Transformer, tokenizer: Tokenizer, clean: dict[int, float]
) -> None:
    rewriting = Tokenizer(tokenizer.backend, tokenizer.config | {"chat_template": REWRITING})
    chat = Chat(model, rewriting, cache, Decoding(Sampling(1.0, seed=1, logit_bias=clean), max_new_tokens=20))
    list(chat.read_document("A fox."))
    told: list[str] = []
    for question in ("The e?", "Where?", "Why?"):
        messages = [*chat.messages, {"role": "user", "content": question}]
        events = list(chat.answer(question))
        told += [notice.text for notice in of_kind(Notice, iter(events)) if "read again" in notice.text]
        text = rewriting.decode(chat.ids)
        assert text.startswith("A fox.\n" + render(REWRITING, messages, True).text)
        assert chat.memory.lengths == (len(chat.ids),)
    assert told
    assert "the chat template now writes what was said otherwise" in told[0]


def test_as_said_takes_answers_of_the_same_text_only(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "fox dog"}]
    ids, mask = chat_tokens(tokenizer, messages)
    letters = [id_ for letter in "fox dog" for id_ in tokenizer.encode(letter)]
    end = tokenizer.id_of("<|end|>")
    assert tokenizer.encode("fox dog") != letters
    place = mask.index(1)
    assert as_said(tokenizer, ids, mask, [letters]) == [*ids[:place], *letters, end]
    assert tokenizer.decode(as_said(tokenizer, ids, mask, [tokenizer.encode("fox do")])) == tokenizer.decode(ids)
    assert as_said(tokenizer, ids, mask, [tokenizer.encode("fix dog")]) == ids
    assert as_said(tokenizer, ids, mask, []) == ids


def test_a_document_is_read_once(
    model: Transformer, tokenizer: Tokenizer, clean: dict[int, float], fed: list[int], tmp_path: Path
) -> None:
    (tmp_path / "book.txt").write_text(TEXT * 4, encoding="utf-8")
    chat = Chat(model, tokenizer, BLOCKS, Decoding(Sampling(logit_bias=clean), max_new_tokens=6))
    events = list(handle(chat, f"/file {tmp_path / 'book.txt'}"))
    length = len(chat.document)
    assert of_kind(Advance, iter(events))[-1].done == length == sum(fed)
    assert of_kind(Said, iter(events))[-1].text.startswith(f"{length:,} tokens")
    first = said(handle(chat, "Who jumps?"))
    list(handle(chat, "Why?"))
    list(handle(chat, "/reset"))
    assert chat.messages == []
    fed.clear()
    assert said(handle(chat, "Who jumps?")) == first
    assert sum(fed) < 40 < length
    # Another way of remembering reads it again, and what was said with the next message.
    fed.clear()
    list(handle(chat, "/cache sliding_window window=400"))
    assert sum(fed) == length
    end, assistant = tokenizer.id_of("<|end|>"), tokenizer.id_of("<|assistant|>")
    talk = [*turn(tokenizer, "user", "Who jumps?"), assistant, *chat.said[0], end]
    for document, question in ((chat.document, "Where?"), (tokenizer.encode("A fox.\n"), "Here?")):
        if chat.document != document:
            list(chat.read_document("A fox."))  # takes the other's place
        talk += [*turn(tokenizer, "user", question), assistant]
        expected = greedy(model, document + talk, clean, end, 6)
        assert [each.id for each in of_kind(Token, handle(chat, question))] == expected
        talk += [*chat.said[-1], end]


def test_an_answer_that_was_stopped_is_part_of_the_conversation(
    model: Transformer, tokenizer: Tokenizer, fed: list[int]
) -> None:
    chat = Chat(model, tokenizer, "full", Decoding(Sampling(1.0, seed=3), max_new_tokens=100, stop_ids=()))
    events = chat.answer("Who?")
    texts = [next(events).text for _ in range(7)]  # type: ignore[union-attr]
    events.close()  # type: ignore[attr-defined]
    assert chat.messages[-1]["content"].startswith("".join(texts)[:3])
    assert len(chat.said[-1]) == 7
    assert chat.last is not None and chat.last.tokens == 7
    chat.decoding = SHORT
    fed.clear()
    messages = [*chat.messages, {"role": "user", "content": "Go on."}]
    answer = list(chat.answer("Go on."))
    assert not [notice for notice in of_kind(Notice, iter(answer)) if "again" in notice.text]
    assert fed[0] < 20
    whole = as_said(tokenizer, *chat_tokens(tokenizer, messages, add_generation_prompt=True), chat.said[:1])
    assert chat.ids[: len(whole)] == whole


def test_an_interruption_in_the_middle_of_a_forward_loses_nothing_that_was_said(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers may then hold different numbers of tokens."""
    chat = Chat(model, tokenizer, "full", replace(SHORT, stop_ids=()))
    list(chat.read_document("A fox."))
    list(chat.answer("Who?"))
    layer, calls = model.layers[1], [0]
    forward = layer.forward

    def interrupted(*given: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return forward(*given, **options)

    monkeypatch.setattr(layer, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(chat.answer("Where?"))
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert len(chat.said[-1]) == 3
    assert chat.ids == chat.document
    monkeypatch.undo()
    messages = [*chat.messages, {"role": "user", "content": "Why?"}]
    list(chat.answer("Why?"))
    whole = as_said(tokenizer, *chat_tokens(tokenizer, messages, add_generation_prompt=True), chat.said[:2])
    assert chat.ids[: len(chat.document) + len(whole)] == chat.document + whole


@pytest.mark.parametrize("cache", ["full", BLOCKS, {"policy": "quantized", "bits": 8, "inner": BLOCKS}], ids=str)
def test_a_saved_conversation_goes_on_with_its_memory(
    cache: Any, model: Transformer, tokenizer: Tokenizer, tmp_path: Path, fed: list[int]
) -> None:
    chat = Chat(model, tokenizer, cache, Decoding(Sampling(1.2, 7), max_new_tokens=9), system="Be brief.", maker="m")
    list(chat.read_document(TEXT * 3))
    list(chat.answer("Who jumps?"))
    [saved] = list(handle(chat, f"/save {tmp_path / 'talks' / 'first'}"))
    assert saved == Said(f"saved as {tmp_path / 'talks' / 'first.json'}")
    expected = said(chat.answer("Where?"))
    other = Chat(model, tokenizer, "sliding_window", chat.decoding)
    [loaded] = list(handle(other, f"/load {tmp_path / 'talks' / 'first.json'}"))
    assert loaded == Said("3 messages, with their memory")
    fed.clear()
    assert said(other.answer("Where?")) == expected
    assert fed[0] < 20
    assert (other.policy, other.messages, other.said) == (chat.policy, chat.messages, chat.said)
    # The document is part of that memory: what was said can be forgotten without it.
    other.reset()
    assert said(other.answer("Who jumps?")) == chat.messages[2]["content"]
    assert other.ids[: len(chat.document)] == chat.document


def test_a_conversation_without_its_memory(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    chat = Chat(model, tokenizer, "full", SHORT, maker="m")
    list(chat.answer("Who?"))
    list(handle(chat, f"/save {path}"))
    (tmp_path / "talk.memory").unlink()
    other = Chat(model, tokenizer, "full", SHORT)
    [loaded] = list(handle(other, f"/load {path}"))
    assert "without a memory" in loaded.text  # type: ignore[union-attr]
    assert said(other.answer("Where?")) == said(chat.answer("Where?"))
    list(chat.read_document("A fox."))
    list(handle(chat, f"/save {path}"))
    (tmp_path / "talk.memory").unlink()
    before = list(other.messages)
    for content, says in (
        (None, "is about a document, whose memory .*talk.memory is missing"),
        ("{", "is not a conversation"),
        ("[1]", "is not a conversation"),
        ('{"format": 9, "messages": [], "said": [], "document_tokens": 0}', "is of format 9"),
    ):
        if content is not None:
            path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=says):
            list(handle(other, f"/load {path}"))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json does not exist"):
        list(handle(other, f"/load {tmp_path / 'nowhere'}"))
    assert other.messages == before


def test_the_memory_of_another_model_is_refused(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    chat = Chat(model, tokenizer, "full", SHORT, maker="runs/one")
    list(chat.answer("Who?"))
    list(handle(chat, f"/save {tmp_path / 'talk'}"))
    assert json.loads((tmp_path / "talk.json").read_text())["model"] == "runs/one"
    another = Chat(Transformer(model.config, seed=5).eval(), tokenizer, "full", SHORT)
    with pytest.raises(ValueError, match="was made by another model, runs/one"):
        list(handle(another, f"/load {tmp_path / 'talk'}"))
    assert another.messages == []


def test_stats_and_help(model: Transformer, tokenizer: Tokenizer) -> None:
    chat = Chat(model, tokenizer, {"policy": "sliding_window", "window": 16}, SHORT)
    assert "tokens read       0," in next(handle(chat, "/stats")).text  # type: ignore[union-attr]
    list(chat.read_document(TEXT * 3))
    list(chat.answer("Who?"))
    lines = dict(line.split("  ", 1) for line in next(handle(chat, "/stats")).text.splitlines())  # type: ignore[union-attr]
    assert lines["tokens read"].strip() == f"{len(chat.ids)}, of which {len(chat.document)} of the document"
    assert lines["tokens attended"].strip().startswith("16 ")
    assert lines["memory"].strip() == "sliding_window window=16"
    assert f"{chat.last.tokens} written at" in lines["last answer"]  # type: ignore[union-attr]
    shown = next(handle(chat, "/help")).text  # type: ignore[union-attr]
    assert all(f"/{name}" in shown for name in COMMANDS)
    assert list(handle(chat, "/quit")) == [Left()]


def test_mistakes_leave_the_conversation_as_it_was(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = Chat(model, tokenizer, "full", SHORT)
    list(chat.answer("Who?"))
    before = (list(chat.messages), list(chat.ids), chat.policy)
    for entry, says in {
        "/sats": "no command /sats; perhaps /stats is meant",
        "/save": "/save needs the name of a file",
        "/file": "/file needs",
        "/cache": "/cache needs one of full, sliding_window",
        "/cache blok": "unknown cache policy 'blok'",
        "/cache sliding_window window": "options are written window=256",
        "/cache block_memory blocks=999": "the model was trained on 1024",
        "  ": "the message is empty",
    }.items():
        with pytest.raises(ValueError, match=says):
            list(handle(chat, entry))
    monkeypatch.setattr("handscroll.model.footprint.available_memory", lambda device="cpu": 1000)
    with pytest.raises(MemoryError, match="remembering"):
        list(chat.answer("Where?"))
    with pytest.raises(MemoryError, match="remembering"):
        list(chat.read_document(TEXT))
    assert (chat.messages, chat.ids, chat.policy) == before


def test_what_a_chat_needs_is_checked_at_once(model: Transformer, tokenizer: Tokenizer) -> None:
    plain = Tokenizer(tokenizer.backend, {"eos_token": "<|eos|>"})
    with pytest.raises(ValueError, match=r"this model has no chat template.*handscroll generate"):
        Chat(model, plain)
    with pytest.raises(ValueError, match="leave out beams and best_of"):
        Chat(model, tokenizer, decoding=Decoding(Sampling(1.0), best_of=2))
    with pytest.raises(ValueError, match="logit_bias names token 5000"):
        Chat(model, tokenizer, decoding=Decoding(Sampling(logit_bias={5000: 1.0})))
