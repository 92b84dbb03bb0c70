"""Recall: scripted replies give known figures; forks leave the text's own cache as it was."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from handscroll.generation import Emitted
from handscroll.kvcache import POLICIES, make_policy
from handscroll.kvcache.block_memory import BlockMemoryCache
from handscroll.measure import asking
from handscroll.measure.probes import Probe
from handscroll.measure.reading import read_document
from handscroll.measure.recall import Outcome, ask, normalize, recall_grid
from handscroll.model import Cache, Transformer
from handscroll.text import Tokenizer


def probe(name: str = "q", start: int = 0, *, length: int = 200, size: int = 10, lang: str = "en") -> Probe:
    return Probe(
        name, lang, "Where?", ("Delft",), ("Delft", "It was Delft."), "birthplace", "Ada", start, start + size, length
    )


def cache_of(model: Transformer, length: int, policy: str | dict[str, object] = "full") -> Cache:
    ids = torch.randint(model.config.vocab_size, (length,)).tolist()
    *_, last = read_document(model, ids, make_policy(policy), likelihood=False)
    return last.cache


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> Callable[[Sequence[str]], None]:
    """Replaces generation: row by row, the replies that are given, each with a token that ends the turn."""

    def install(replies: Sequence[str]) -> None:
        waiting = list(replies)

        def generate(
            model: Transformer, prompts: Sequence[Sequence[int]], cache: Cache, **_: object
        ) -> Iterator[Emitted]:
            assert len(cache.lengths) == len(prompts)
            for row in range(len(prompts)):
                ids = [*tokenizer.encode(waiting.pop(0)), tokenizer.id_of("<|end|>")]
                for place, token in enumerate(ids):
                    yield Emitted(row, token, place == len(ids) - 1)

        monkeypatch.setattr(asking, "generate", generate)

    return install


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Delft", True),
        (" It was Delft.\n", True),
        ("Delft。", True),
        ("delft", False),
        ("It was Delft, I think.", False),
        ("Delf", False),
        ("", False),
    ],
)
def test_only_an_exact_match_is_right(
    model: Transformer, tokenizer: Tokenizer, scripted: Callable[[Sequence[str]], None], reply: str, right: bool
) -> None:
    scripted([reply])
    (outcome,) = ask(model, tokenizer, cache_of(model, 200), [probe()])
    assert outcome.correct is right
    assert outcome.reply == reply.strip()


def test_normalisation_takes_off_space_and_full_stops_only() -> None:
    assert normalize(" 云溪。 ") == "云溪"
    assert normalize("Delft. ") == "Delft"
    assert normalize("Delft!") == "Delft!"


def test_beyond_the_window_counts_from_the_end_of_the_reply(
    model: Transformer, tokenizer: Tokenizer, scripted: Callable[[Sequence[str]], None]
) -> None:
    scripted(["Delft"] * 2)
    prompt = 3 + len(tokenizer.encode("Where?"))
    end = 200 + prompt + len(tokenizer.encode("Delft"))
    probes = [probe("last", end - 64), probe("just out", end - 65)]
    outcomes = list(ask(model, tokenizer, cache_of(model, 200), probes, window=64))
    assert [outcome.beyond_window for outcome in outcomes] == [False, True]


def test_the_trained_window_is_the_default(
    model: Transformer, tokenizer: Tokenizer, scripted: Callable[[Sequence[str]], None]
) -> None:
    scripted(["Delft"] * 2)
    outcomes = ask(model, tokenizer, cache_of(model, 200), [probe("in", 150), probe("out", 60)])
    assert [outcome.beyond_window for outcome in outcomes] == [False, True]


def test_grid_counts_each_depth_and_length() -> None:
    def outcome(start: int, length: int, correct: bool) -> Outcome:
        return Outcome(probe(start=start, length=length), "", correct, False)

    table = recall_grid(
        [outcome(0, 1000, True), outcome(50, 1000, False), outcome(990, 1000, True), outcome(40, 400, False)]
    )
    assert table.columns == ("depth", "400", "1,000")
    assert table.column("1,000") == [0.5, *[None] * 8, 1.0, 2 / 3]
    assert table.column("400") == [None, 0.0, *[None] * 8, 0.0]
    assert table.column("depth")[0] == "0-10 %"
    assert table.column("depth")[-1] == "all"


@pytest.mark.parametrize("policy", POLICIES)
def test_asked_together_equals_asked_alone_and_the_cache_stays_as_it_is(
    model: Transformer, tokenizer: Tokenizer, policy: str
) -> None:
    cache = cache_of(model, 333, policy)
    questions = ["Where was Ada born?", "请问王伟住在哪里？", "Who?", "What is the trade of Grace Lee, and since when?"]
    probes = [
        Probe(str(n), "en", text, ("x",), ("x",), "trade", "y", 40 * n, 40 * n + 9, 333)
        for n, text in enumerate(questions)
    ]
    before = cache.bytes(), cache.lengths
    together = list(ask(model, tokenizer, cache, probes, max_new_tokens=80))
    alone = [next(ask(model, tokenizer, cache, [each], max_new_tokens=80)) for each in probes]
    assert [each.reply for each in together] == [each.reply for each in alone]
    assert cache.lengths == before[1]
    assert [each.reply for each in ask(model, tokenizer, cache, probes, batch=3, max_new_tokens=80)] == [
        each.reply for each in together
    ]


def test_questions_leave_nothing_in_the_archive(model: Transformer, tokenizer: Tokenizer) -> None:
    cache = cache_of(model, 333, "block_memory")
    assert isinstance(cache, BlockMemoryCache)
    counts = [layer.store.count for layer in cache.layers]  # type: ignore[attr-defined]
    list(ask(model, tokenizer, cache, [probe(length=333)] * 5, max_new_tokens=80))
    assert [layer.store.count for layer in cache.layers] == counts  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", ["local_layers", "dense_layers", None])
def test_blocks_that_were_read_are_known(first: str | None, model: Transformer, tokenizer: Tokenizer) -> None:
    """The model has a window of 128: sinks of 8 and blocks of 8 tokens, of which it reads 4."""
    cache = cache_of(model, 333, {"policy": "block_memory"} | ({first: 1} if first else {}))
    archived = probe("archived", 8, size=240, length=333)
    in_window = probe("in the window", 322, length=333)
    in_sinks = probe("in the sinks", 0, size=8, length=333)
    outcomes = list(ask(model, tokenizer, cache, [archived, in_window, in_sinks], max_new_tokens=4))
    assert [outcome.gold_read for outcome in outcomes] == [True, None, None]
    for outcome in outcomes:
        assert outcome.block_size == 8
        assert len(outcome.blocks) >= (4 if first else 6)
        assert all(block % 8 == 0 and 8 <= block < 333 for block in outcome.blocks)
    somewhere_else = next(start for start in range(8, 240, 8) if start not in outcomes[0].blocks)
    asked = probe("not read", somewhere_else, size=8, length=333)
    (outcome,) = ask(model, tokenizer, cache, [asked], max_new_tokens=4)
    assert outcome.gold_read is False
    full = next(ask(model, tokenizer, cache_of(model, 333), [archived], max_new_tokens=4))
    assert (full.blocks, full.block_size, full.gold_read) == ((), None, None)


def test_no_batch_is_an_error(model: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="batch=0"):
        next(ask(model, tokenizer, cache_of(model, 50), [probe(length=50)], batch=0))
