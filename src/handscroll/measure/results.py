"""The result of one policy, which survives as JSON, and several side by side in a table.

Knows what is measured and what is estimated, and keeps them apart. Leaves the measuring to `policies.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from handscroll.measure.extrapolation import Extrapolation, extrapolate_chunks
from handscroll.measure.likelihood import PositionCurve
from handscroll.measure.reading import Chunk
from handscroll.measure.recall import Outcome
from handscroll.measure.table import Table, Value

TABLE_COLUMNS = (
    "policy",
    "tokens read",
    "recall",
    "recall beyond window",
    "recall inside window",
    "perplexity",
    "attended keys",
    "device MB",
    "host MB",
    "seconds",
    "tokens/s",
)


@dataclass(frozen=True)
class Recall:
    """How many replies were right, of how many."""

    right: int
    asked: int

    @property
    def share(self) -> float | None:
        """0 to 1; None where nothing was asked."""
        return self.right / self.asked if self.asked else None

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Recall:
        answers = [outcome.correct for outcome in outcomes]
        return cls(sum(answers), len(answers))


@dataclass(frozen=True)
class PolicyResult:
    """What one policy measured.

    `recall` and `recall_by_lang` are those at the greatest length at which questions were asked, over the questions
    that are spread over the whole depth. Inside and beyond the window, the questions of all lengths count, extra ones
    too: few facts of a long text stand inside. `attended`: the most keys that a query attended to, per kv head. Bytes
    are the cache's at the end of reading, seconds those of reading alone. `speeds`: at each length that was asked at,
    tokens per second over the chunks right before it. `extrapolated` holds estimates; nothing else in here does.
    """

    policy: dict[str, Any]
    recall: Recall
    recall_by_lang: dict[str, Recall]
    recall_beyond_window: Recall
    recall_inside_window: Recall
    perplexity: float | None
    device_bytes: int
    host_bytes: int
    seconds: float
    cpu_seconds: float
    tokens: int
    document_tokens: int
    speeds: tuple[tuple[int, float], ...]
    attended: int
    likelihood: PositionCurve | None
    chunks: tuple[Chunk, ...]
    outcomes: tuple[Outcome, ...]
    extrapolated: Extrapolation | None = None

    @property
    def name(self) -> str:
        """The policy's name, followed by the options that were not left to their defaults."""
        return policy_name(self.policy)

    def summary(self) -> dict[str, Any]:
        """The figures alone, as plain data; estimates under "extrapolated", where there are any."""
        figures: dict[str, Any] = {
            "policy": self.policy,
            "recall": self.recall.share,
            "recall_beyond_window": self.recall_beyond_window.share,
            "recall_inside_window": self.recall_inside_window.share,
            "recall_by_lang": {lang: recall.share for lang, recall in self.recall_by_lang.items()},
            "questions": self.recall.asked,
            "questions_beyond_window": self.recall_beyond_window.asked,
            "questions_inside_window": self.recall_inside_window.asked,
            "perplexity": self.perplexity,
            "device_bytes": self.device_bytes,
            "host_bytes": self.host_bytes,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "tokens_per_second": {str(tokens): speed for tokens, speed in self.speeds},
            "attended": self.attended,
        }
        if self.extrapolated is not None:
            figures["extrapolated"] = dataclasses.asdict(self.extrapolated)
        return figures

    def to_json(self) -> dict[str, Any]:
        """Plain data without loss: `from_json` gives an equal result."""
        return dataclasses.asdict(self) | {"chunks": [list(chunk) for chunk in self.chunks]}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> PolicyResult:
        curve, estimate = row["likelihood"], row["extrapolated"]
        recalls = {
            name: Recall(**value) for name, value in row.items() if name.startswith("recall") and "by" not in name
        }
        return cls(
            **{
                **row,
                **recalls,
                "recall_by_lang": {lang: Recall(**value) for lang, value in row["recall_by_lang"].items()},
                "speeds": tuple((tokens, speed) for tokens, speed in row["speeds"]),
                "likelihood": curve and PositionCurve(**{name: tuple(values) for name, values in curve.items()}),
                "chunks": tuple(Chunk(*chunk) for chunk in row["chunks"]),
                "outcomes": tuple(Outcome.from_json(outcome) for outcome in row["outcomes"]),
                "extrapolated": estimate and Extrapolation(**estimate),
            }
        )


def extrapolate(result: PolicyResult, tokens: int) -> PolicyResult:
    """The same result with estimates for `tokens` tokens under `extrapolated`; what was measured stays as it is."""
    return dataclasses.replace(result, extrapolated=extrapolate_chunks(result.chunks, tokens))


def policy_name(options: Mapping[str, Any]) -> str:
    """`describe`'s options in one line: "block_memory", "block_memory blocks=8"."""
    return " ".join(
        [str(options["policy"]), *(f"{name}={value}" for name, value in options.items() if name != "policy")]
    )


def policy_table(results: Iterable[PolicyResult]) -> Table:
    """One row per policy; estimates stand in rows of their own."""
    rows: list[tuple[Value, ...]] = []
    for result in results:
        recalls = (result.recall.share, result.recall_beyond_window.share, result.recall_inside_window.share)
        rows.append(
            (
                result.name,
                result.tokens,
                *recalls,
                result.perplexity,
                result.attended,
                result.device_bytes / 1e6,
                result.host_bytes / 1e6,
                result.seconds,
                result.tokens / max(1e-9, result.seconds),
            )
        )
        if (guess := result.extrapolated) is not None:
            held = (guess.device_bytes / 1e6, guess.host_bytes / 1e6)
            speed = guess.tokens / max(1e-9, guess.seconds)
            unknown = (None,) * 5
            rows.append((f"{result.name}, extrapolated", guess.tokens, *unknown, *held, guess.seconds, speed))
    return Table("Ways of remembering", TABLE_COLUMNS, tuple(rows), frozenset(TABLE_COLUMNS[2:5]))
