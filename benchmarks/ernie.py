"""What hiding whole entities teaches that hiding characters and words doesn't: names and places of facts, told whole.

    python benchmarks/ernie.py
    python benchmarks/ernie.py --people 20 --steps 200 --json
    python benchmarks/ernie.py --steps 1500 --only "single tokens"

People of a chronicle, each with a birthplace, a teacher and a home, in English and Chinese. Every text states one
person's three facts, each in one of four wordings; for half of the people it also has the fact's fifth wording, the
sentence that answers a question. The other half is asked, in a wording that was trained ("known") and in the fifth
("new"): the name or place is hidden whole, and has to be told from the person's name alone, out of the weights.
examples/ernie.yaml, with four heads and without dialogues, is trained on the same texts with the same tokenizer and
steps for each way of masking; what is shown is the share of names and places of which every token is right. "with a
dictionary" is the default with all names and places in a user dictionary, "single tokens" BERT's masked LM
(examples/bert.yaml without next sentences), which hides pieces of words, too.
"""

from __future__ import annotations

import json
import random
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import arguments, show

from handscroll.model import Layout, Transformer, load_model
from handscroll.recipes.train import train
from handscroll.text import Tokenizer
from handscroll.text.chronicle import LANGUAGES, Fact, answer_sentence
from handscroll.text.chronicle.names import Names
from handscroll.text.chronicle.relations import draw_fact, fact_sentence

EXAMPLES = Path(__file__).parent.parent / "examples"
RELATIONS = ("birthplace", "teacher", "home")
ALONE = "objective.dialogue=false"
WAYS = {
    "whole entities and phrases": ("ernie.yaml", [ALONE]),
    "characters and words": ("ernie.yaml", [ALONE, "objective.entity=0", "objective.phrase=0"]),
    "with a dictionary": ("ernie.yaml", [ALONE, "objective.dictionary=names.txt"]),
    "single tokens": ("bert.yaml", ["objective.next_sentence=false"]),
}


class Person(NamedTuple):
    facts: list[Fact]
    is_asked: bool


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--people", type=int, default=48, help="in each language (default 48)")
    parser.add_argument("--texts", type=int, default=40, help="about each of them (default 40)")
    parser.add_argument("--steps", type=int, default=500, help="of training (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of people, texts, first weights and masks (default 0)")
    parser.add_argument("--only", choices=WAYS, help="one way of masking (default: one after the other)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = random.Random(options.seed)
    people = [person for lang in LANGUAGES for person in drawn(lang, options.people, options.seed, rng)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = [said(person, rng) for person in people for _ in range(options.texts)]
        rng.shuffle(texts)
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
        (folder / "facts.jsonl").write_text("".join(lines), encoding="utf-8")
        known = sorted({each for person in people for fact in person.facts for each in (fact.subject, fact.answer)})
        (folder / "names.txt").write_text("\n".join(known), encoding="utf-8")
        for way, (recipe, changes) in WAYS.items():
            if options.only not in (None, way):
                continue
            out = folder / way.replace(" ", "-")
            given = [f"data.files=[{folder / 'facts.jsonl'}]", f"train.steps={options.steps}", f"out={out}"]
            given.append(f"train.seed={options.seed}")
            given += [change.replace("names.txt", str(folder / "names.txt")) for change in changes]
            *_, last = train(EXAMPLES / recipe, overrides=[*given, "model.heads=4"])
            rows.append({"side": way, **asked(out / "model", people), "seconds": round(last.seconds)})
    show(rows, options.threads, options.json, steps=options.steps, people=2 * options.people)


def drawn(lang: str, count: int, seed: int, rng: random.Random) -> list[Person]:
    names = Names(lang, "train", seed)
    subjects = [*islice(names, count)]
    return [
        Person([draw_fact(relation, subject, rng, names) for relation in RELATIONS], number % 2 == 1)
        for number, subject in enumerate(subjects)
    ]


def said(person: Person, rng: random.Random) -> str:
    """All facts of a person in any order; the wording that is asked for only of those of whom it isn't."""
    sentences = [
        answer_sentence(fact) if not person.is_asked and rng.random() < 0.2 else fact_sentence(fact, rng)
        for fact in person.facts
    ]
    rng.shuffle(sentences)
    return (" " if person.facts[0].lang == "en" else "").join(sentences)


@torch.inference_mode()
def asked(folder: Path, people: list[Person]) -> dict[str, float]:
    """By language, of how many facts the name or place is told whole: in a wording that was trained, and in another."""
    model, tokenizer = load_model(folder).eval(), Tokenizer.load(folder)
    rng, found = random.Random(1), {}
    for lang in LANGUAGES:
        facts = [fact for person in people if person.is_asked for fact in person.facts if fact.lang == lang]
        for name, sentences in (
            ("known", [fact_sentence(fact, rng) for fact in facts]),
            ("new", [answer_sentence(fact) for fact in facts]),
        ):
            right = [told(model, tokenizer, *each) for each in zip(sentences, facts, strict=True)]
            found[f"{name} wording {lang}"] = round(sum(right) / len(right), 3)
    return found


def told(model: Transformer, tokenizer: Tokenizer, sentence: str, fact: Fact) -> bool:
    """Whether all tokens of the answer, hidden together, are told."""
    cls, sep, mask = (tokenizer.role_id(role) for role in ("cls", "sep", "mask"))
    start = sentence.rindex(fact.answer)
    ids, offsets = tokenizer.encode_with_offsets(sentence)
    hidden = [n for n, (a, b) in enumerate(offsets) if a >= start and b <= start + len(fact.answer)]
    shown = [mask if n in hidden else id_ for n, id_ in enumerate(ids)]
    tokens_1T = torch.tensor([[cls, *shown, sep]])
    logits_TV = model.logits(model.hidden(tokens_1T, Layout.rows([len(ids) + 2])).last_BTE[0])
    return all(int(logits_TV[n + 1].argmax()) == ids[n] for n in hidden)


if __name__ == "__main__":
    main()
