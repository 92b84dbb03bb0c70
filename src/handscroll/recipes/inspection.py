"""A corpus as a model sees it: its first rows with what of them is learnt, and what all of them add up to.

Knows how a row of each kind becomes tokens, in the way of training (`documents.py`). Leaves colours to the command
line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handscroll.recipes.documents import BATCH, SLOW_BATCH, batches, completion_tokens, tokenised
from handscroll.recipes.events import Advance, Event, Finished
from handscroll.recipes.made import Made, Piece, make
from handscroll.text import Corpus, Located, Tokenizer, chat_tokens, kind_of, row_text
from handscroll.text.units import UnitFinder
from handscroll.training import Objective, TokenRow

# Of a longer row the middle is left out.
HEAD, TAIL = 500, 200
KILOBYTE = 1000


class View(NamedTuple):
    """What the model sees of a row: its tokens, and which of them are learnt; their units where they were found."""

    ids: list[int]
    mask: list[bool]
    units: NDArray[np.uint8] | None = None

    @property
    def shown(self) -> TokenRow:
        """Its beginning, as a row of its own."""
        units = None if self.units is None else self.units[: HEAD + TAIL]
        return TokenRow(np.array(self.ids[: HEAD + TAIL]), units=units)


class Hiding(NamedTuple):
    """An objective that hides tokens, the seed that it draws from, and what finds units where it needs them."""

    objective: Objective
    seed: int = 0
    finder: UnitFinder | None = None


def inspect(
    corpus: Corpus, tokenizer: Tokenizer | None, objective: str | None, rows: int, hiding: Hiding | None = None
) -> Iterator[Event]:
    """Reads the whole corpus; the result holds `rows` rows as pieces, and counts of all.

    Without an objective, texts are learnt whole, answers by themselves, and of a pair both answers are shown. Without
    a tokenizer rows are plain text, and characters are counted. With `hiding`, that of `objective`, the rows that are
    shown, cut where they are long, make a batch, and what is hidden is counted in these alone. Raises ValueError as
    training does.
    """
    kinds: Counter[str] = Counter()
    shown: list[dict[str, Any]] = []
    tokens = supervised = characters = 0
    longest = (0, "")
    first: list[tuple[Located, TokenRow]] = []
    finder = None if hiding is None else hiding.finder
    for batch in batches(corpus, BATCH if finder is None else SLOW_BATCH):
        for located, views in _viewed(batch, corpus, tokenizer, objective, finder):
            kinds[kind_of(located.row)] += 1
            size = sum(len(view.ids) for view in views)
            if tokenizer is None:
                characters += (size := len(row_text(located.row)))
            else:
                tokens += size
                supervised += sum(sum(view.mask) for view in views)
            longest = max(longest, (size, located.place), key=lambda each: each[0])
            if len(shown) + len(first) < rows:
                if hiding is None:
                    shown.append(_shown(located, views, tokenizer))
                else:
                    first.append((located, views[0].shown))
        yield Advance("reading", corpus.read / KILOBYTE, corpus.size / KILOBYTE, "kB")
    if not kinds:
        corpus.nothing("row that can be learnt")
    if hiding is not None and tokenizer is not None and first:
        made = make(hiding.objective, [row for _, row in first], tokenizer, hiding.seed)
        shown = [_hidden(located, each) for (located, _), each in zip(first, made, strict=True)]
    counts = {"characters": characters} if tokenizer is None else {"tokens": tokens, "supervised_tokens": supervised}
    if hiding is not None:
        del counts["supervised_tokens"]
    skipped = corpus.skipped
    yield Finished(
        {
            "files": [str(file) for file in corpus.files],
            "rows": kinds.total(),
            "kinds": dict(kinds),
            **counts,
            "longest": {"place": longest[1], "tokens" if tokenizer is not None else "characters": longest[0]},
            "skipped": {"count": skipped.count, "first": skipped.first} if skipped is not None else {"count": 0},
            "shown": shown,
        }
    )


def _viewed(
    batch: Sequence[Located],
    corpus: Corpus,
    tokenizer: Tokenizer | None,
    objective: str | None,
    finder: UnitFinder | None,
) -> Iterator[tuple[Located, list[View]]]:
    """Each row with what the model sees of it: one row of tokens, or two of a pair; none without a tokenizer."""
    for kind, group in groupby(batch, lambda located: kind_of(located.row)):
        if tokenizer is None:
            yield from ((located, []) for located in group)
        elif kind == "preference" and objective is None:
            yield from _pairs(group, corpus, tokenizer)
        else:
            how = objective or ("causal_lm" if kind == "text" else "sft")
            for located, row in tokenised([*group], tokenizer, how, corpus.fail, finder):
                yield located, [_marked(row)]


def _pairs(group: Iterator[Located], corpus: Corpus, tokenizer: Tokenizer) -> Iterator[tuple[Located, list[View]]]:
    for located in group:
        row = located.row
        try:
            views = [_answered(row["prompt"], answer, tokenizer) for answer in (row["chosen"], row["rejected"])]
        except ValueError as error:
            corpus.fail(located.place, error)
        else:
            yield located, views


def _answered(prompt: Any, answer: Any, tokenizer: Tokenizer) -> View:
    if isinstance(prompt, str):
        ids, mask = completion_tokens({"prompt": prompt, "completion": answer}, tokenizer)
    else:
        ids, mask = chat_tokens(tokenizer, prompt + answer, given=len(prompt))
    return View(ids, [bool(each) for each in mask])


def _marked(row: TokenRow) -> View:
    """The row with a mask: all but the first token, which is never predicted, where it has none."""
    mask = np.ones(len(row.ids), dtype=bool) if row.supervised is None else np.array(row.supervised)
    mask[0] = False
    return View(np.asarray(row.ids).tolist(), mask.tolist(), row.units)


def _shown(located: Located, views: Sequence[View], tokenizer: Tokenizer | None) -> dict[str, Any]:
    row: dict[str, Any] = {"place": located.place, "kind": kind_of(located.row)}
    if tokenizer is None:
        return row | {"views": [[Piece(row_text(located.row)[: HEAD + TAIL], False).as_json()]]}
    return row | {
        "tokens": sum(len(view.ids) for view in views),
        "supervised_tokens": sum(sum(view.mask) for view in views),
        "views": [[piece.as_json() for piece in _pieces(view, tokenizer)] for view in views],
    }


def _hidden(located: Located, made: Made) -> dict[str, Any]:
    return {
        "place": located.place,
        "kind": kind_of(located.row),
        "tokens": made.tokens,
        "supervised_tokens": made.supervised,
        "labels": made.labels,
        "views": [[piece.as_json() for piece in made.pieces]],
    }


def _pieces(view: View, tokenizer: Tokenizer) -> Iterator[Piece]:
    ids, mask = view.ids, view.mask
    left_out = len(ids) - HEAD - TAIL
    if left_out > 0:
        yield from _runs(ids[:HEAD], mask[:HEAD], tokenizer)
        yield Piece(f" [... {left_out:,} tokens more ...] ", False)
        ids, mask = ids[-TAIL:], mask[-TAIL:]
    yield from _runs(ids, mask, tokenizer)


def _runs(ids: Sequence[int], mask: Sequence[bool], tokenizer: Tokenizer) -> Iterator[Piece]:
    left = iter(ids)
    for supervised, run in groupby(mask):
        yield Piece(tokenizer.decode([*islice(left, len([*run]))]), supervised)
