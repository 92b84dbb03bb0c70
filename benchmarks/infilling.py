"""How many facts of a chronicle a GLM model fills in, exactly: each with its answer hidden, alone or in its context.

python benchmarks/infilling.py runs/glm/model chronicle [--beams 4]

Every question of questions.jsonl names the sentence that states its fact. Its answer is replaced by a blank, and what
the model fills in counts if it is that answer, character by character. Beside it stands what guessing gives: the
commonest answer of the relation.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

import torch

import handscroll
from handscroll.recipes.blanks import fill_blanks

# Characters of the text on either side of a fact.
CONTEXTS = (0, 60, 120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("chronicle", type=Path)
    parser.add_argument("--beams", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = handscroll.load(options.model)
    text = (options.chronicle / "text.txt").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in (options.chronicle / "questions.jsonl").open(encoding="utf-8")]
    print("context, characters   language   facts   filled exactly   ended by itself")
    for context in CONTEXTS:
        right: Counter[str] = Counter()
        whole: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for row in rows:
            start, stop = row["fact_start"], row["fact_end"]
            fact, answer = text[start:stop], row["answers"][0]
            before, found, after = fact.partition(answer)
            assert found, f"{answer} is not in {fact}"
            blank = f"{text[max(0, start - context) : start]}{before}[MASK]{after}{text[stop : stop + context]}"
            (filled,) = fill_blanks(loaded.model, loaded.tokenizer, blank, beams=options.beams)
            total[row["lang"]] += 1
            right[row["lang"]] += filled.text.strip() == answer
            whole[row["lang"]] += filled.is_whole
        for lang, count in total.items():
            print(f"{context:19}   {lang:8}   {count:5}   {right[lang] / count:14.1%}   {whole[lang] / count:15.1%}")
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in rows:
        answers[row["lang"], row["relation"]][row["answers"][0]] += 1
    commonest = sum(counts.most_common(1)[0][1] for counts in answers.values())
    print(f"the commonest answer of each relation: {commonest / len(rows):.1%}")


if __name__ == "__main__":
    main()
