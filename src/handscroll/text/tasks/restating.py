"""Answers that quote what states them, from the key on, so that they say again what was asked for.

A small model finds a value by the tokens right before it: they are the same in such a reply as in the text. What opens
the reply stands before no key in a question or a context, or keys would be copied from there, too.
"""

import re
from collections.abc import Sequence

OPENING = {"en": "It says ", "zh": "据载"}
JOINTS = {"en": " ", "zh": ""}
FIRST_SENTENCE = re.compile("[^.。]*[.。]")


def restate(lang: str, statements: Sequence[tuple[str, str]]) -> str:
    """A sentence for each statement: its first sentence, from where the text that comes with it begins."""
    said = []
    for statement, begins in statements:
        match = FIRST_SENTENCE.match(statement, statement.index(begins))
        assert match is not None, statement
        said.append(OPENING[lang] + match[0])
    return JOINTS[lang].join(said)
