"""What few bits cost: perplexity and bytes of a cache in 8 and 4 bits, against the whole one.

    python benchmarks/quantized.py quickstart/model quickstart/document.txt
    python benchmarks/quantized.py quickstart/model novel.txt --recent 16 --pieces 64 --json

Pieces of the text, as long as the model's window, are read a few tokens at a time, so that nearly all keys and values
that a token sees have been rounded already: all but the `--recent` latest ones, an eighth of the window or less.
"""

from __future__ import annotations

import json
import math

import torch
from common import arguments

import handscroll
from handscroll.kvcache import make_policy
from handscroll.measure.likelihood import token_nll
from handscroll.measure.table import Table

STEP = 8


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("model", help="a folder")
    parser.add_argument("text", help="a text file; its end is read")
    parser.add_argument("--recent", type=int, default=32, help="tokens that stay whole (default 32)")
    parser.add_argument("--pieces", type=int, default=32, help="texts of a window's length (default 32)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = handscroll.load(options.model, dtype=torch.float32)
    window = model.config.max_positions
    with open(options.text, encoding="utf-8") as file:
        ids = tokenizer.encode(file.read())[-options.pieces * window :]
    pieces_BT = torch.tensor(ids[: len(ids) // window * window]).view(-1, window)
    names = {
        "full": "full",
        **{f"{bits} bits": {"policy": "quantized", "bits": bits, "recent": options.recent} for bits in (8, 4)},
    }
    rows, whole = [], 0.0
    for name, policy in names.items():
        cache = make_policy(policy).start(model.config, model.position, len(pieces_BT))
        hidden = []
        with torch.inference_mode():
            for part_BT in pieces_BT.split(STEP, dim=1):
                hidden.append(model.hidden(part_BT, cache=cache).last_BTE)
            nll_N = token_nll(model, torch.cat(hidden, 1)[:, :-1].flatten(0, 1), pieces_BT[:, 1:].flatten())
        perplexity = math.exp(float(nll_N.double().mean()))
        whole = whole or perplexity
        held = cache.bytes()
        rows.append((name, perplexity, perplexity / whole - 1, (held.device + held.host) / 1e6))
    table = Table("Fewer bits", ("cache", "perplexity", "more", "MB"), tuple(rows), frozenset({"more"}))
    if options.json:
        print(json.dumps({"model": options.model, "tokens": pieces_BT.numel(), "rows": table.records()}, indent=2))
        return
    print(f"{pieces_BT.numel():,} tokens in pieces of {window}, {options.recent} latest ones whole")
    for name, perplexity, more, megabytes in rows:
        print(f"{name:8} perplexity {perplexity:8.4f} ({100 * more:+.2f} %), {megabytes:6.2f} MB")


if __name__ == "__main__":
    main()
