"""Whether a reply is right: as RULER matches strings (https://arxiv.org/abs/2404.06654), or exactly.

Full-width digits and letters count as their plain forms (Unicode NFKC), and capitals as small letters.
"""

import re
import unicodedata
from collections.abc import Sequence

from handscroll.text.tasks.task import Asked

EDGES = " \t\n.,;:!?\"'`()[]{}*。、！？；：，“”‘’「」『』《》"
# What may stand between several answers of one reply.
SEPARATOR = re.compile(r"\b(?:and|or)\b|[和与及]")


def normalize(text: str) -> str:
    """NFKC, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def string_match_all(reply: str, answers: Sequence[str]) -> float:
    """The share of the answers that the reply contains."""
    said = normalize(reply)
    return sum(normalize(answer) in said for answer in answers) / len(answers)


def string_match_part(reply: str, answers: Sequence[str]) -> float:
    """1 if the reply contains any of the answers, else 0."""
    said = normalize(reply)
    return float(any(normalize(answer) in said for answer in answers))


def score(reply: str, asked: Asked) -> float:
    """RULER's score of one reply, 0 to 1: all answers or any of them, as the question wants."""
    return (string_match_all if asked.wanted == "all" else string_match_part)(reply, asked.answers)


def exact(reply: str, asked: Asked) -> float:
    """1 if the reply says the wanted answers and nothing else, in any order, else 0."""
    answers = [_bare(answer) for answer in asked.answers]
    if asked.wanted == "any" or len(answers) == 1:
        return float(_bare(reply) in answers)
    rest = normalize(reply)
    for answer in sorted(answers, key=len, reverse=True):
        if answer not in rest:
            return 0.0
        rest = rest.replace(answer, " ", 1)
    return float(not SEPARATOR.sub(" ", rest).strip(EDGES))


def _bare(text: str) -> str:
    return normalize(text).strip(EDGES)
