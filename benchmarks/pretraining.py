"""Three ways of hiding text from a small model, on the same real text: BERT's, ERNIE's and GLM's.

    python benchmarks/pretraining.py books/*.txt
    python benchmarks/pretraining.py en.txt zh.txt --steps 300 --plot pretraining.png --json

The files are cut into texts of a few sentences, of which the last tenth of each file is held out. One tokenizer and one
shape (4 layers, width 128, rotary positions) serve all: what differs is the objective of examples/bert.yaml, ernie.yaml
and glm.yaml, without next sentences and dialogues, and the mask that it needs. Steps, tokens of a step and optimizer
are equal. Then, on held-out texts and by language:

- "tokens": how many of single hidden tokens, 15 % of each text, are told. GLM tells one blank of each text, seeing all
  others hidden; several drawn ones are asked for in turn.
- "spans": how many spans of 2 to 4 tokens, one hidden at a time, are told whole. BERT and ERNIE are told how many
  tokens are missing and tell each without knowing the others; GLM tells one after the other. "ended": it also ended the
  span itself.
- "bits per byte" of these spans: the sum of each token's surprise, of GLM given those before it.
"""

from __future__ import annotations

import json
import math
import random
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import arguments, show
from safetensors.torch import load_file
from torch import Tensor

from handscroll.model import Layout, Transformer, load_model
from handscroll.recipes.train import train
from handscroll.text import Tokenizer
from handscroll.training import OBJECTIVES
from handscroll.training.checkpoint import MODEL, checkpoints
from handscroll.training.objectives.blanks import BlankTokens, corrupt

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
ASKED, LENGTHS, HIDDEN = 4, (2, 3, 4), 0.15


class Told(NamedTuple):
    """What a model makes of hidden tokens: whether each is its first guess, and the probability's logarithm."""

    right_N: Tensor
    logprob_N: Tensor


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
        asked = {lang: spread(texts, options.texts) for lang, texts in held_out.items()}
        learn_tokenizer(folder, options.vocabulary)
        for way in options.only.split(","):
            for step, model, seconds in trained(folder, way, options.steps, options.points):
                found = measured(model, Tokenizer.load(folder / "tokenizer"), asked, is_glm=way == "glm")
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
    out.write_text("".join(json.dumps({"text": each}, ensure_ascii=False) + "\n" for each in training))
    return held_out


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


@torch.inference_mode()
def measured(
    model: Transformer, tokenizer: Tokenizer, asked: dict[str, list[str]], *, is_glm: bool
) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for lang, texts in asked.items():
        draws = np.random.default_rng(0)
        tokens, spans, ended, bits, size = [], [], [], 0.0, 0
        for text in texts:
            ids = np.array(tokenizer.encode(text)[:96])
            if len(ids) < 16:
                continue
            places = np.sort(draws.choice(len(ids), max(1, round(HIDDEN * len(ids))), replace=False))
            single_N2 = np.stack((places, places + 1), axis=1)
            if is_glm:
                for first in draws.permutation(len(places))[:ASKED]:
                    order = np.concatenate(([first], np.delete(np.arange(len(places)), first)))
                    tokens.append(float(blank(model, tokenizer, ids, single_N2, order).right_N[0]))
            else:
                tokens += masked(model, tokenizer, ids, places).right_N.tolist()
            for length in LENGTHS:
                start = int(draws.integers(0, len(ids) - length))
                inside = np.arange(start, start + length)
                if is_glm:
                    told = blank(model, tokenizer, ids, np.array([[start, start + length]]), np.array([0]))
                    ended.append(float(told.right_N.all()))
                else:
                    told = masked(model, tokenizer, ids, inside)
                spans.append(float(told.right_N[:length].all()))
                bits -= float(told.logprob_N[:length].sum()) / math.log(2)
                size += len(tokenizer.decode(ids[inside].tolist()).encode())
        found[f"tokens {lang}"] = round(sum(tokens) / len(tokens), 3)
        found[f"spans {lang}"] = round(sum(spans) / len(spans), 3)
        found[f"ended {lang}"] = round(sum(ended) / len(ended), 3) if ended else None
        found[f"bits per byte {lang}"] = round(bits / size, 3)
    return found


def masked(model: Transformer, tokenizer: Tokenizer, ids: np.ndarray[Any, Any], places: np.ndarray[Any, Any]) -> Told:
    """All of these places hidden at once."""
    cls, sep, mask = (tokenizer.role_id(role) for role in ("cls", "sep", "mask"))
    shown = ids.copy()
    shown[places] = mask
    tokens_1T = torch.tensor([[cls, *shown, sep]])
    hidden_1TE = model.hidden(tokens_1T, Layout.rows([tokens_1T.shape[1]])).last_BTE
    return told(model.logits(hidden_1TE[0, torch.from_numpy(places) + 1]), torch.from_numpy(ids[places]))


def blank(
    model: Transformer,
    tokenizer: Tokenizer,
    ids: np.ndarray[Any, Any],
    spans_N2: np.ndarray[Any, Any],
    order: np.ndarray[Any, Any],
) -> Told:
    """The tokens of the blanks in this order, and the end of each, every one given those before it."""
    marks = BlankTokens(*(int(tokenizer.role_id(role) or 0) for role in ("mask", "span_start", "span_end")))
    row = corrupt(ids, spans_N2, order, marks)
    index_1T = torch.arange(len(row.tokens_T))[None]
    positions_1TP = torch.from_numpy(row.positions_TP)[None]
    layout = Layout(index_1T, positions_1TP, torch.zeros_like(index_1T), prefix_BT=torch.tensor([[row.prefix]]))
    hidden_1TE = model.hidden(torch.from_numpy(row.tokens_T)[None], layout).last_BTE
    return told(model.logits(hidden_1TE[0, row.prefix :]), torch.from_numpy(row.targets_T[row.prefix :]))


def told(logits_NV: Tensor, targets_N: Tensor) -> Told:
    logprobs_NV = logits_NV.float().log_softmax(-1)
    return Told(logits_NV.argmax(-1) == targets_N, logprobs_NV.gather(1, targets_N[:, None])[:, 0])


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """Told tokens and spans by step."""
    from matplotlib import pyplot

    columns = [name for name in rows[0] if name.startswith(("tokens", "spans"))]
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
