"""How scores under rotary positions change with distance: RoFormer's bound, and the scores of vectors, like and unlike.

    python benchmarks/rope_decay.py
    python benchmarks/rope_decay.py --head-width 128 --theta 1000000 --distances 0,1024,131072 --figure decay.png
    python benchmarks/rope_decay.py --model quickstart/model

"bound" is that of equations 35 to 37 (arXiv 2104.09864, section 3.4.3), as share of its value at distance 0; "same
vector" the score of a vector with itself, likewise; the last columns are means of |q . k| / sqrt(D) over normal q and k
with this correlation between their features. `--figure` draws all of it against distance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from extension import show

from handscroll.measure.rotary_decay import bound, mean_sizes, same_content
from handscroll.measure.table import Table
from handscroll.model.checkpoint import read_config, resolve
from handscroll.model.position import make_position
from handscroll.model.position.rotary import Rotary, frequencies

LIKENESSES = (0.0, 0.5, 1.0)
POINTS = 400


def main() -> None:
    options = arguments()
    if options.model is None:
        turns = frequencies(options.head_width, options.theta)
    else:
        position = make_position(read_config(resolve(options.model))[1])
        if not isinstance(position, Rotary):
            raise SystemExit(f"{options.model} has no rotary positions: name another model")
        turns = position.frequencies
    distances = torch.tensor([int(each) for each in options.distances.split(",")])
    columns = curves(distances, turns)
    rows = zip(distances.tolist(), *(curve.tolist() for curve in columns.values()), strict=True)
    show(Table("Scores by distance", ("distance", *columns), tuple(rows)), options)
    if options.figure is not None:
        draw(int(distances.max()), turns, options.figure)


def curves(distances: torch.Tensor, turns: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {
        "bound": bound(distances, turns) / bound(torch.zeros(1), turns),
        "same vector": same_content(distances, turns),
    }
    return found | {f"|score|, {each:g} alike": mean_sizes(distances, turns, each) for each in LIKENESSES}


def draw(farthest: int, turns: torch.Tensor, path: Path) -> None:
    from matplotlib.figure import Figure

    distances = torch.logspace(0, torch.tensor(max(farthest, 2)).log10().item(), POINTS).round().unique()
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, curve in curves(distances, turns).items():
        (right if name.startswith("|") else left).plot(distances, curve, label=name)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="distance")
        axes.legend(frameon=False)
    figure.savefig(path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder, whose positions are looked at, stretched ones too")
    parser.add_argument("--head-width", type=int, default=64, help="without a model: features (default 64)")
    parser.add_argument("--theta", type=float, default=10000.0, help="without a model: rope_theta (default 10000)")
    parser.add_argument("--distances", default="0,1,4,16,64,256,1024,4096,16384", help="in tokens, by commas")
    parser.add_argument("--figure", type=Path, help="a file to draw to: png, svg or pdf")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
