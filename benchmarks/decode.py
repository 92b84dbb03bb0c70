"""Generation: Handscroll against transformers' `generate` in float32, same weights, same prompt, one row, greedy.

    python benchmarks/decode.py
    python benchmarks/decode.py --rounds 9 --new-tokens 128 --json

A round reads a prompt and continues it, on each side in turn. Decoding is counted from the first new token to the last;
prefill is the time to the first. Both sides must give the same tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import VOCABULARY, Clock, Run, arguments, compare, in_turns, load_theirs, save_tiny_model, show

from handscroll.generation import generate
from handscroll.kvcache import Full
from handscroll.model import load_model
from handscroll.model.checkpoint import lay_by_columns

POSITIONS = 4096
CACHED = (64, 2048)
DECODE_BAR, PREFILL_BAR = 1.5, 1.1


def prompt(length: int) -> list[int]:
    ids: list[int] = torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    return ids


def ours(folder: Path, length: int, new_tokens: int) -> Callable[[], list[Run]]:
    model = load_model(folder).eval()
    lay_by_columns(model)
    ids = prompt(length)

    def work() -> list[Run]:
        clock = Clock()
        cache = Full().start(model.config, model.position, 1)
        stream = generate(model, [ids], cache, max_new_tokens=new_tokens)
        said = [next(stream).token]
        prefill, clock = clock.run(length), Clock()
        said += [emitted.token for emitted in stream]
        return [prefill, clock.run(new_tokens - 1, said)]

    return work


def theirs(folder: Path, length: int, new_tokens: int) -> Callable[[], list[Run]]:
    model = load_theirs(folder).eval()
    ids_1T = torch.tensor([prompt(length)])

    class FirstToken:
        """A streamer, as `generate` takes it: first it gets the prompt, then each token."""

        def __init__(self) -> None:
            self.calls, self.clock, self.prefill = 0, Clock(), Run(0, 0, 0)

        def put(self, value: Any) -> None:
            self.calls += 1
            if self.calls == 2:
                self.prefill, self.clock = self.clock.run(length), Clock()

        def end(self) -> None:
            pass

    def work() -> list[Run]:
        streamer = FirstToken()
        options: dict[str, Any] = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None}
        mask_1T = torch.ones_like(ids_1T)
        out_1T = model.generate(ids_1T, attention_mask=mask_1T, pad_token_id=0, streamer=streamer, **options)
        return [streamer.prefill, streamer.clock.run(new_tokens - 1, out_1T[0, length:].tolist())]

    return work


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds of each side (default 7)")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens generated in a round (default 64)")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        save_tiny_model(Path(folder) / "model", POSITIONS)
        for length in CACHED:
            work = (Path(folder) / "model", length, options.new_tokens)
            sides = {"Handscroll": (ours, work), "transformers": (theirs, work)}
            rounds = in_turns(sides, options.rounds, options.threads)
            prefills = {side: [prefill for prefill, _ in each] for side, each in rounds.items()}
            decodes = {side: [decode for _, decode in each] for side, each in rounds.items()}
            first, second = (each[0].result for each in decodes.values())
            if first != second:
                place = next(place for place, pair in enumerate(zip(first, second, strict=True)) if len(set(pair)) > 1)
                raise SystemExit(f"the sides don't say the same: they part at new token {place} of {len(first)}")
            rows.append(compare(f"decode at {length:,}", decodes, options.threads, DECODE_BAR))
            rows.append(compare(f"prefill {length:,}", prefills, options.threads, PREFILL_BAR if length > 64 else None))
    show(rows, options.threads, options.json, new_tokens=options.new_tokens, rounds=options.rounds)


if __name__ == "__main__":
    main()
