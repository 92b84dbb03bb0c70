"""Three ways of hiding text from a small model, on the same real text: BERT's, ERNIE's and GLM's.

    python benchmarks/pretraining.py books/*.txt
    python benchmarks/pretraining.py en.txt zh.txt --steps 300 --plot pretraining.png --json

The files are cut into texts of a few sentences, of which the last tenth of each file is held out. One tokenizer and one
shape (4 layers, width 128, rotary positions) serve all: what differs is the objective of examples/bert.yaml, ernie.yaml
and glm.yaml, without next sentences and dialogues, and the mask that it needs. Steps, tokens of a step and optimizer
are equal. Then, on held-out texts and by language:

- "tokens": how many of single hidden tokens, 15 % of each text, are told (`handscroll eval --suite masked`);
- "spans", "ended" and "bits per byte": of spans of 2 to 4 tokens, one hidden at a time (`--suite infilling`).
"""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import arguments, show
from safetensors.torch import load_file

from handscroll.measure.suites import evaluate
from handscroll.model import Transformer, load_model
from handscroll.recipes.train import train
from handscroll.text import Tokenizer
from handscroll.training import OBJECTIVES
from handscroll.training.checkpoint import MODEL, checkpoints

EXAMPLES = Path(__file__).parent.parent / "examples"
SHAPE = [
    "model.width=128",
    "model.layers=4",
    "model.heads=4",
    "model.feedforward_width=352",
    "model.window=128",
    "train.windows_per_step=16",
    "train.seed=0",
    "optimizer={name: muon, learning_rate: 0.02, rest: {learning_rate: 0.003}}",
    "schedule={name: wsd, warmup: 20, decay: 0.3}",
]
# What examples/bert.yaml and ernie.yaml have of the first BERT, and the other one hasn't.
ENCODER = [
    *("model.norm=rms", "model.norm_placement=pre", "model.position=rope", "model.embedding={}"),
    *("model.feedforward=swiglu", "model.feedforward_bias=false", "model.qkv_bias=false", "model.output_bias=false"),
    "model.head=masked_lm",
    "evaluation=null",
]
WAYS = {
    "bert": ["objective.next_sentence=false", *ENCODER],
    "ernie": ["objective.dialogue=false", *ENCODER],
    "glm": ["objective.mix={short: 1.0, document: 0.0}"],
}
NAMES = {"bert": "masked_lm", "ernie": "ernie", "glm": "glm"}
CHARACTERS = {"en": 400, "zh": 110}
SENTENCE = re.compile(r"[^.!?。！？]*[.!?。！？]+[\"”’』」]*\s*")
# Columns of the suites' tables, and what they are called here.
ASKED = {
    "masked": {"told": "tokens"},
    "infilling": {"told": "spans", "and ended": "ended", "bits per byte": "bits per byte"},
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="plain text, English or Chinese")
    parser.add_argument("--characters", type=int, default=1_000_000, help="of each file, at most (default 1,000,000)")
    parser.add_argument("--only", default=",".join(WAYS), help=f"ways, separated by commas (default {','.join(WAYS)})")
    parser.add_argument("--vocabulary", type=int, default=1024, help="of the tokenizer (default 1,024)")
    parser.add_argument("--steps", type=int, default=2400, help="of training (default 2,400)")
    parser.add_argument("--texts", type=int, default=150, help="held-out texts of each language (default 150)")
    parser.add_argument("--points", type=int, default=4, help="of a curve, the last at the end (default 4)")
    parser.add_argument("--plot", type=Path, help="a file for the curves")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        held_out = write_texts(options.files, options.characters, folder / "texts.jsonl")
        asked = [text for texts in held_out.values() for text in spread(texts, options.texts)]
        write_rows(folder / "held_out.jsonl", asked)
        learn_tokenizer(folder, options.vocabulary)
        for way in options.only.split(","):
            for step, model, seconds in trained(folder, way, options.steps, options.points):
                found = measured(model, Tokenizer.load(folder / "tokenizer"), folder / "held_out.jsonl")
                rows.append({"side": way, "step": step, **found, "seconds": round(seconds)})
    if options.plot is not None:
        plot(rows, options.plot)
    show(rows, options.threads, options.json, steps=options.steps, files=len(options.files))


def write_texts(files: list[Path], characters: int, out: Path) -> dict[str, list[str]]:
    """Texts of a few sentences to train on, in a file; the held-out ones are returned by language."""
    training, held_out = [], defaultdict(list)
    for file in files:
        text = file.read_text(encoding="utf-8")[:characters]
        lang = "zh" if len(re.findall(r"[一-鿿]", text)) > 0.2 * len(text) else "en"
        texts = list(of_sentences(re.sub(r"\s+", " " if lang == "en" else "", text), CHARACTERS[lang]))
        first = len(texts) * 9 // 10
        training += texts[:first]
        held_out[lang] += texts[first:]
    random.Random(0).shuffle(training)
    write_rows(out, training)
    return held_out


def write_rows(out: Path, texts: list[str]) -> None:
    out.write_text("".join(json.dumps({"text": each}, ensure_ascii=False) + "\n" for each in texts), encoding="utf-8")


def of_sentences(text: str, most: int) -> Iterator[str]:
    """Sentences in a row, as many as `most` characters hold; longer ones are left out."""
    held = ""
    for sentence in SENTENCE.findall(text):
        if held and len(held) + len(sentence) > most:
            yield held.strip()
            held = ""
        if len(sentence) <= most:
            held += sentence


def spread(texts: list[str], count: int) -> list[str]:
    return texts[:: max(1, len(texts) // count)][:count]


def learn_tokenizer(folder: Path, size: int) -> None:
    texts = [json.loads(line)["text"] for line in (folder / "texts.jsonl").read_text().splitlines()]
    roles = dict.fromkeys(role for name in NAMES.values() for role in OBJECTIVES[name].needs.roles)
    learnt = Tokenizer.train(texts[:4000], size, han="isolated", roles=tuple(roles))
    (folder / "tokenizer").mkdir()
    learnt.save(folder / "tokenizer")


def trained(folder: Path, way: str, steps: int, points: int) -> Iterator[tuple[int, Transformer, float]]:
    """The model at some steps of its training, and after it, with the seconds that it took."""
    out = folder / way
    data = [f"data={{files: [{folder / 'texts.jsonl'}]}}", f"tokenizer={{from: {folder / 'tokenizer'}}}", f"out={out}"]
    kept = [f"train.steps={steps}", f"train.checkpoint_every={steps // points}", f"train.keep={points}"]
    *_, last = train(EXAMPLES / f"{way}.yaml", overrides=[*SHAPE, *WAYS[way], *data, *kept])
    model = load_model(out / "model").eval()
    for path in checkpoints(out):
        weights = {name.removeprefix("model."): each for name, each in load_file(path / MODEL).items()}
        model.load_state_dict(weights)
        yield int(path.name.removeprefix("step-")), model, last.seconds


def measured(model: Transformer, tokenizer: Tokenizer, held_out: Path) -> dict[str, float | None]:
    """The figures of both suites, by language."""
    found: dict[str, float | None] = {}
    told = {suite: evaluate(model, tokenizer, suite, files=(str(held_out),), tokens=10**9) for suite in ASKED}
    for suite, columns in ASKED.items():
        for row in told[suite].records():
            for column, name in columns.items():
                value = row[column]
                found[f"{name} {row['language']}"] = round(value, 3) if isinstance(value, float) else None
    return found


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """Told tokens, and bits per byte of spans, by step."""
    from matplotlib import pyplot

    columns = [name for name in rows[0] if name.startswith(("tokens", "bits"))]
    figure, axes = pyplot.subplots(1, len(columns), figsize=(4 * len(columns), 3), constrained_layout=True)
    for axis, column in zip(axes, columns, strict=True):
        for way in dict.fromkeys(row["side"] for row in rows):
            points = [(row["step"], row[column]) for row in rows if row["side"] == way]
            axis.plot(*zip(*points, strict=True), marker="o", label=way)
        axis.set(title=column, xlabel="step")
    axes[0].legend()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
