"""The suite `dispersion`: how far attention spreads as a text grows, and how much of it stays on what was asked for.

The query is the last token before the reply: the one that has to find the answer. Its weights' entropy (nats) and their
mass on the gold, both a mean over heads, are taken in every layer. A query that spreads evenly over S keys has the
entropy ln S, and a mass that shrinks as 1 / S. Knows weights; leaves the texts to `text/tasks/`.

Letters: H heads, S slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from handscroll.generation import read
from handscroll.kvcache import Policy, breaks_for
from handscroll.kvcache.full_layer import FullLayer
from handscroll.kvcache.window_layer import WindowLayer
from handscroll.measure.asking import prompt_ids
from handscroll.measure.attended import attended_keys
from handscroll.measure.policies import FULL_LIMIT, require_full
from handscroll.measure.probes import TokenSpans
from handscroll.measure.reading import Watch, timed
from handscroll.measure.suites.record import Measured, Record, record_table
from handscroll.measure.suites.suite import Part, Subject, Suite, Work, over_limit
from handscroll.measure.suites.tasks import Material, TaskOptions, Written, write
from handscroll.measure.table import Table
from handscroll.model import Cache, Capture, Layout, Transformer
from handscroll.text.chronicle import LANGUAGES
from handscroll.text.tasks import TASKS

FIGURES = ("entropy", "gold mass")
# The memories whose weights stand in the order of their stores; others gather what a query sees.
SLOTS_IN_STORE = (FullLayer, WindowLayer)


@dataclass(frozen=True)
class DispersionOptions:
    """`task` writes the texts. `full` reads nothing that is longer than `full_limit`."""

    tokens: int = 4096
    languages: tuple[str, ...] = LANGUAGES
    seed: int = 0
    questions: int = 10
    task: str = "needle"
    full_limit: int = FULL_LIMIT

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}: known are {', '.join(TASKS)}")
        if self.questions < 1:
            raise ValueError(f"questions={self.questions}: at least 1")


class Dispersion(NamedTuple):
    """Of one query in one layer, each a mean over heads.

    No mass where there is no gold, or where a policy does not say which token a slot holds.
    """

    entropy: float
    gold_mass: float | None


def dispersion(weights_HS: Tensor, gold_S: Tensor | None) -> Dispersion:
    """weights_HS: one query's, which sum to one per head; gold_S (bool): whether a slot holds a token of the gold."""
    weights_HS = weights_HS.double()
    entropy = torch.special.entr(weights_HS).sum(-1).mean()
    return Dispersion(float(entropy), None if gold_S is None else float(weights_HS[:, gold_S].sum(-1).mean()))


def query_dispersion(
    model: Transformer,
    cache: Cache,
    prompt: Sequence[int],
    gold: Sequence[tuple[int, int]],
    breaks: Sequence[int] = (),
) -> list[Dispersion]:
    """For each layer: that of the last token of `prompt`, which a fork of the one-row cache reads.

    gold: tokens start:end of what was read. breaks: tokens that end a sentence, as in `read`.
    """
    fork = cache.select([0])
    if len(prompt) > 1:
        list(read(model, [prompt[:-1]], fork, only_last=True, breaks=breaks))
    layout = Layout.rows([1], fork.lengths, device=model.device, capture=Capture(weights=True))
    with torch.inference_mode():
        weights = model.hidden(torch.tensor([prompt[-1:]], device=model.device), layout, fork).weights
    found = []
    for layer, weights_BHTS in zip(fork.layers, weights, strict=True):
        gold_S = None
        if gold and type(layer) in SLOTS_IN_STORE:
            assert isinstance(layer, FullLayer)
            index_S = layer.store.index_BS(weights_BHTS.device)[0]
            gold_S = torch.zeros_like(index_S, dtype=torch.bool)
            for start, end in gold:
                gold_S |= (index_S >= start) & (index_S < end)
        found.append(dispersion(weights_BHTS[0, :, -1], gold_S))
    return found


def measure(
    subject: Subject, policy: Policy, material: Material, options: DispersionOptions
) -> Iterator[Work | Measured]:
    missing = material.missing or over_limit(policy, options)
    if missing:
        yield Measured(missing=missing)
        return
    (written,) = material.written
    model, tokenizer, ids = subject.model, subject.tokenizer, written.ids
    require_full(model, policy, len(ids))
    cache, reading, answering = policy.start(model.config, model.position, 1), 0.0, 0.0
    breaks = breaks_for(policy, tokenizer)
    for seconds, progress in timed(read(model, [ids], cache, only_last=True, breaks=breaks), model.device):
        reading += seconds
        yield Work("reading", progress.tokens, progress.total)
    layers: list[list[Dispersion]] = []
    for asked, gold in zip(written.sample.asked, _gold(subject, written), strict=True):
        watch = Watch(model.device)
        layers.append(query_dispersion(model, cache, prompt_ids(tokenizer, asked.question), gold, breaks))
        answering += watch.stop()[0]
        yield Work("asking", len(layers), len(written.sample.asked), "questions")
    means = [_mean(of_layer) for of_layer in zip(*layers, strict=True)]
    held = cache.bytes()
    yield Measured(
        dict(zip(FIGURES, _mean(means), strict=True)),
        tokens=len(ids),
        asked=len(layers),
        readings=1,
        read_seconds=reading,
        answer_seconds=answering,
        device_bytes=held.device,
        host_bytes=held.host,
        attended=attended_keys(model, cache, ids),
        detail={"layers": [dict(zip(FIGURES, mean, strict=True)) for mean in means]},
    )


def _mean(found: Sequence[Dispersion]) -> Dispersion:
    masses = [each.gold_mass for each in found if each.gold_mass is not None]
    mass = sum(masses) / len(masses) if masses else None
    return Dispersion(sum(each.entropy for each in found) / len(found), mass)


def _gold(subject: Subject, written: Written) -> list[list[tuple[int, int]]]:
    """For each question the tokens of its gold."""
    opening = len(subject.tokenizer.opening_ids)
    encoding = subject.tokenizer.encode_with_offsets(written.sample.context)
    spans = TokenSpans(encoding.offsets, before=opening)
    return [[spans.span(start, end) for start, end in asked.spans] for asked in written.sample.asked]


def parts(options: DispersionOptions) -> list[Part]:
    return [Part("dispersion", lang) for lang in options.languages if lang in TASKS[options.task].languages]


def prepare(subject: Subject, part: Part, options: DispersionOptions) -> Material:
    task = TASKS[options.task]
    how = TaskOptions(options.tokens, options.languages, options.seed, questions=options.questions)
    return write(task, task.options(), subject.tokenizer, part, how)


def table(records: Sequence[Record]) -> Table:
    return record_table("Dispersion of attention", records, FIGURES, ("gold mass",))


DISPERSION = Suite(
    "dispersion", frozenset({"weights", "cache"}), FIGURES, DispersionOptions, parts, prepare, measure, table
)
