"""Answers that quote what states them, from the key on, so that they say again what was asked for.

A small model finds a value by the tokens right before it: they are the same in such a reply as in the text. What opens
the reply stands before no key in a question or a context, or keys would be copied from there, too.
"""

import re
from collections.abc import Sequence

OPENING = {"en": "It says ", "zh": "据载"}
JOINTS = {"en": " ", "zh": ""}
FIRST_SENTENCE = re.compile("[^.。]*[.。]")


def restate(lang: str, statements: Sequence[tuple[str, str]], question: str = "") -> str:
    """A sentence for each statement: its first sentence, from where the text that comes with it begins.

    What it begins with is its key. Where a statement is about another key than the one before, its sentence begins with
    that one and what follows it in the question: "A, and B is ...". Which key is next is then found as values are, by
    the tokens right before it; a small model that is to begin with B by itself takes any key.
    """
    said, last = [], ""
    for statement, begins in statements:
        match = FIRST_SENTENCE.match(statement, statement.index(begins))
        assert match is not None, statement
        leads = OPENING[lang]
        if last not in ("", begins):
            listed = question[question.index(last) :]
            leads = listed[: listed.index(begins, len(last))]
        said.append(leads + match[0])
        last = begins
    return JOINTS[lang].join(said)
