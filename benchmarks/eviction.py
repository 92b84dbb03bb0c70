"""What policies that keep some tokens only cost a trained model, inside its window, against `full`.

    python benchmarks/eviction.py quickstart/model
    python benchmarks/eviction.py quickstart/model --share 0.5 --questions 100 --json

A chronicle that the model has not seen is cut in two ways. Pieces as long as the window are read from their beginning:
"perplexity" is over all of their tokens but the first, "second half" over those that no budget covers. And pieces of
400 tokens are each followed by a question about a fact in them, as one prompt: "recall" is the share of replies that
match exactly. "opened" is the same with the reply's words up to the answer in the prompt: the queries that look the
answer up are then among those that vote on what stays. Policies that drop at a prompt's end lose nothing while they
read, so that they have no perplexity of their own.

`--share` of the window or prompt is what every policy may keep; heavy_hitters and attention_sinks read a tile more
before they drop.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

import handscroll
from handscroll.generation import generate
from handscroll.kvcache import Policy, make_policy
from handscroll.measure import Probe, TokenSpans
from handscroll.measure.likelihood import token_nll
from handscroll.measure.probes import make_probes
from handscroll.measure.recall import is_right
from handscroll.measure.table import Table
from handscroll.model import Transformer
from handscroll.text import Tokenizer, chat_tokens
from handscroll.text.chronicle import answer_sentence, ask, write_document

CONTEXT = 400
BATCH = 32


class Asked(NamedTuple):
    """A context and a question about it; the words that a right reply begins with; what counts as right."""

    prompt: list[int]
    opening: list[int]
    probe: Probe


def policies(window: int, share: float) -> dict[str, tuple[dict[str, Any], bool]]:
    """By name: options, and whether something is dropped while a text is read."""
    budget = round(share * window)
    half = budget // 2
    at_end = {
        "snapkv": {"policy": "snapkv"},
        "snapkv, average pooling": {"policy": "snapkv", "pooling": "average"},
        "per_head_budget, observed": {"policy": "per_head_budget"},
        "per_head_budget, received": {"policy": "per_head_budget", "scorer": "received"},
        "per_head_budget, key_norm": {"policy": "per_head_budget", "scorer": "key_norm"},
    }
    heavy = {"policy": "heavy_hitters", "heavy": budget - half, "recent": half}
    return {
        "full": ({"policy": "full"}, True),
        "sliding_window": ({"policy": "sliding_window", "window": budget}, True),
        "attention_sinks": ({"policy": "attention_sinks", "sinks": 4, "window": budget - 4}, True),
        "heavy_hitters": (heavy, True),
        "heavy_hitters, positions text": ({**heavy, "positions": "text"}, True),
        **{name: ({**options, "share": share}, False) for name, options in at_end.items()},
    }


def perplexity(model: Transformer, policy: Policy, pieces_BT: torch.Tensor) -> tuple[float, float]:
    """Of all tokens but each piece's first, and of those in the second half of the pieces."""
    nll_BT = []
    for tokens_BT in pieces_BT.split(BATCH // 4):
        with torch.inference_mode():
            cache = policy.start(model.config, model.position, len(tokens_BT))
            hidden_BTE = model.hidden(tokens_BT, cache=cache).last_BTE[:, :-1]
            nll = token_nll(model, hidden_BTE.flatten(0, 1), tokens_BT[:, 1:].flatten())
        nll_BT.append(nll.double().view(len(tokens_BT), -1))
    nll = torch.cat(nll_BT)
    return math.exp(nll.mean()), math.exp(nll[:, nll.shape[1] // 2 :].mean())


def recall(model: Transformer, tokenizer: Tokenizer, policy: Policy, asked: Sequence[Asked], *, opened: bool) -> float:
    """The share of questions that are answered right, each behind its context in one prompt."""
    right = 0
    for first in range(0, len(asked), BATCH):
        together = asked[first : first + BATCH]
        replies = [list(each.opening) if opened else [] for each in together]
        prompts = [each.prompt + reply for each, reply in zip(together, replies, strict=True)]
        cache = policy.start(model.config, model.position, len(together))
        for emitted in generate(model, prompts, cache, max_new_tokens=48, stop_ids=tokenizer.stop_ids):
            if emitted.token not in tokenizer.stop_ids:
                replies[emitted.row].append(emitted.token)
        for reply, each in zip(replies, together, strict=True):
            right += is_right(tokenizer.decode(reply, skip_special=True), each.probe)
    return right / len(asked)


def questions(tokenizer: Tokenizer, seed: int, number: int) -> tuple[list[int], list[Asked]]:
    """A chronicle as tokens, and questions about pieces of it, one for each fact that lies within a piece."""
    document = write_document(seed, size=number * 200, measure=lambda text: len(tokenizer.encode(text)))
    encoding, rng = tokenizer.encode_with_offsets(document.text), random.Random(seed)
    spans, begin = TokenSpans(encoding.offsets), tokenizer.opening_ids
    asked = []
    for fact in document.facts:
        (probe,) = make_probes([ask(fact, rng)], spans, len(encoding.ids))
        first = probe.fact_start_token // CONTEXT * CONTEXT
        if probe.fact_end_token <= first + CONTEXT and len(asked) < number:
            turn = chat_tokens(tokenizer, [{"role": "user", "content": probe.question}], add_generation_prompt=True)
            sentence, answer = answer_sentence(fact.fact), fact.fact.answer
            opening = tokenizer.encode(sentence[: sentence.rindex(answer)].rstrip())
            asked.append(Asked([*begin, *encoding.ids[first : first + CONTEXT], *turn.ids], opening, probe))
    return encoding.ids, asked


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    model, tokenizer = handscroll.load(options.model, dtype=torch.float32)
    window = model.config.max_positions
    ids, asked = questions(tokenizer, options.seed, options.questions)
    begin = tokenizer.opening_ids
    body = window - len(begin)
    texts = [begin + ids[start : start + body] for start in range(0, len(ids) - body, body)][: options.pieces]
    rows: list[tuple[Any, ...]] = []
    for name, (settings, while_reading) in policies(window, options.share).items():
        start, policy = time.process_time(), make_policy(settings)
        costs: tuple[float | None, float | None] = (None, None)
        if while_reading:
            costs = perplexity(model, policy, torch.tensor(texts))
        shares = [recall(model, tokenizer, policy, asked, opened=opened) for opened in (False, True)]
        rows.append((name, *costs, *shares))
        print(f"{name}: {rows[-1][1:]}, {time.process_time() - start:.0f} CPU-seconds", file=sys.stderr)
    show(rows, len(texts), len(asked), options)


def show(rows: Sequence[tuple[Any, ...]], texts: int, asked: int, options: argparse.Namespace) -> None:
    columns = ("policy", "perplexity", "second half", "recall", "opened")
    lines = [(row[0], *(against(row[place], rows[0][place]) for place in range(1, 5))) for row in rows]
    setting = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        **{name: value for name, value in vars(options).items() if name != "json"},
        "texts": texts,
        "asked": asked,
    }
    table = Table("Keeping some tokens only", columns, tuple(lines))
    if options.json:
        print(json.dumps({"setting": setting, "rows": table.records()}, indent=2))
        return
    from rich.console import Console

    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    Console().print(table.to_rich())


def against(value: float | None, full: float) -> str | None:
    """A figure, and what part it is of `full`'s."""
    return None if value is None else f"{value:.3f} ({value / full:.1%})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model with a chat template")
    parser.add_argument("--share", type=float, default=0.25, help="of the window that is kept (default 0.25)")
    parser.add_argument("--pieces", type=int, default=64, help="pieces whose perplexity is taken (default 64)")
    parser.add_argument("--questions", type=int, default=400, help="as many are asked at most (default 400)")
    parser.add_argument("--seed", type=int, default=1, help="of the chronicle (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="(default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
