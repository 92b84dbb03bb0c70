"""How many facts of short texts about people a GLM model fills in, exactly.

python benchmarks/infilling.py runs/people/model [--count 100] [--beams 4]

Each text is one of `handscroll data tasks --task chronicle --tokens 56 --questions 2 --restated`, about people that no
such file is about: some sentences, two questions, two answers that restate a fact. Of one fact the answer is replaced
by a blank, where it is stated or where it is restated, so that it can be read elsewhere in the text; or in both places,
so that it can only be guessed. What is filled in counts if it is the answer, character by character.
"""

from __future__ import annotations

import argparse

import torch

import handscroll
from handscroll.recipes.blanks import fill_blanks
from handscroll.text.chronicle.document import estimate_tokens
from handscroll.text.tasks import write_sample

TOKENS = 56


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--count", type=int, default=100, help="texts per language")
    parser.add_argument("--beams", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = handscroll.load(options.model)
    print("language   blank where the fact is   filled exactly   ended by itself")
    for lang in ("en", "zh"):
        cases = [blanks(lang, number) for number in range(options.count)]
        for case in cases[0]:
            found = [
                (fill_blanks(loaded.model, loaded.tokenizer, each[case][0], beams=options.beams)[-1], each[case][1])
                for each in cases
            ]
            right = sum(filled.text.strip() == answer for filled, answer in found) / len(found)
            whole = sum(filled.is_whole for filled, _ in found) / len(found)
            print(f"{lang:8}   {case:23}   {right:14.0%}   {whole:15.0%}")


def blanks(lang: str, number: int) -> dict[str, tuple[str, str]]:
    """A text with a blank, and the answer, by where the blank is."""
    sample = write_sample(
        "chronicle", tokens=TOKENS, lang=lang, seed=f"asked/{number}", measure=estimate_tokens, questions=2
    )
    first, asked = sample.asked
    answer, ((start, stop), *_) = asked.answers[0], asked.spans
    stated = sample.context[:start] + sample.context[start:stop].replace(answer, "[MASK]") + sample.context[stop:]
    restated = asked.restated.replace(answer, "[MASK]")
    assert "[MASK]" in stated and "[MASK]" in restated, (answer, sample)
    turns = f"\n{first.question}\n{first.restated}\n{asked.question}\n"
    return {
        "restated": (sample.context + turns + restated, answer),
        "stated": (stated + turns + asked.restated, answer),
        "stated and restated": (stated + turns + restated, answer),
    }


if __name__ == "__main__":
    main()
