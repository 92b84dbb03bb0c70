"""How many facts a GLM model fills in, exactly, after it has learnt them by heart.

python benchmarks/infilling.py chronicle [--steps 400] [--beams 4] [--out runs/infilling]

`chronicle` is a folder that `handscroll data chronicle` has written. Each sentence that states the fact of one of its
questions is a text by itself; examples/glm.yaml learns them. Then the answer is replaced by a blank, and what is filled
in counts if it is the answer, character by character. Beside it stand the commonest answer of a relation and language,
which is what guessing gives, and how many sentences are continued word for word from their first half.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from pathlib import Path

import torch

import handscroll
from handscroll.recipes.blanks import fill_blanks
from handscroll.recipes.train import train

RECIPE = Path(__file__).parents[1] / "examples" / "glm.yaml"
SMALL = ["model.width=64", "model.heads=2", "model.feedforward_width=192", "model.window=128"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chronicle", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/infilling"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts = read_facts(options.chronicle)
    rows = options.chronicle / "facts.jsonl"
    rows.write_text("".join(json.dumps({"text": each["fact"]}, ensure_ascii=False) + "\n" for each in facts))
    started = time.process_time()
    overrides = [*SMALL, f"data.files={rows}", f"train.steps={options.steps}", f"out={options.out}"]
    for progress in train(RECIPE, overrides=overrides):
        if progress.step % 50 == 0:
            print(f"step {progress.step}: loss {progress.loss:.3f}", flush=True)
    print(f"{time.process_time() - started:.0f} CPU-seconds")
    measure(facts, options.out / "model", options.beams)


def read_facts(chronicle: Path) -> list[dict[str, str]]:
    text = (chronicle / "text.txt").read_text(encoding="utf-8")
    asked = map(json.loads, (chronicle / "questions.jsonl").open(encoding="utf-8"))
    return [
        {
            "lang": row["lang"],
            "relation": row["relation"],
            "answer": row["answers"][0],
            "fact": text[row["fact_start"] : row["fact_end"]],
        }
        for row in asked
    ]


def measure(facts: list[dict[str, str]], folder: Path, beams: int) -> None:
    model, tokenizer = handscroll.load(folder)
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for each in facts:
        answers[each["lang"], each["relation"]][each["answer"]] += 1
    print("language   facts   filled exactly   ended by itself   commonest answer   continued")
    for lang in ("en", "zh"):
        some = [each for each in facts if each["lang"] == lang]
        right = whole = commonest = continued = 0
        for each in some:
            blank = each["fact"].replace(each["answer"], "[MASK]", 1)
            (filled,) = fill_blanks(model, tokenizer, blank, beams=beams)
            right += filled.text.strip() == each["answer"]
            whole += filled.is_whole
            commonest += answers[lang, each["relation"]].most_common(1)[0][0] == each["answer"]
            half = tokenizer.encode(each["fact"])
            prompt = tokenizer.decode(half[: len(half) // 2])
            tokens = handscroll.generate(model, tokenizer, prompt, max_new_tokens=64)
            continued += prompt + "".join(token.text for token in tokens) == each["fact"]
        shares = [f"{number / len(some):.0%}" for number in (right, whole, commonest, continued)]
        print(f"{lang:8}   {len(some):5}   {shares[0]:>14}   {shares[1]:>15}   {shares[2]:>16}   {shares[3]:>9}")


if __name__ == "__main__":
    main()
