"""Plants facts in somebody else's text, at known depths.

Knows where a sentence of a text ends, so that a planted sentence breaks neither a word nor a quotation. Leaves to
others what the facts say (`relations.py`). The idea is the needle in a haystack
(https://github.com/gkamradt/LLMTest_NeedleInAHaystack), with needles that look alike.
"""

import random
import re
from bisect import bisect_left

from handscroll.text.chronicle.document import JOINTS, Document, PlacedFact, estimate_tokens
from handscroll.text.chronicle.names import Names
from handscroll.text.chronicle.relations import RELATIONS, draw_fact, state

# English: a period after a word in lower case ("Mr. Smith" is no end), then a space, then a sentence's beginning.
# Chinese: a full stop with the closing quotes and brackets that belong to it.
SENTENCE_ENDS = {"en": re.compile(r'[a-z]{3}\. (?=["“‘A-Z])'), "zh": re.compile(r"。[”’』」）》]*")}


def plant(text: str, seed: int, lang: str, count: int, split: str = "read", avoid: str = "") -> Document:
    """`text` with `count` facts spread evenly over its depth, each about somebody whom neither it nor `avoid` mentions.

    Raises ValueError when the text has fewer sentence ends than facts are asked for.
    """
    if lang not in SENTENCE_ENDS:
        raise ValueError(f"language is {lang!r}; facts can be planted in {', '.join(SENTENCE_ENDS)}")
    if count < 1:
        raise ValueError(f"count of planted facts is {count}; it must be at least 1")
    rng = random.Random(f"plant/{lang}/{split}/{seed}")
    names = Names(lang, split, seed)
    strangers = (name for name in names if name not in text and name not in avoid)
    pieces: list[str] = []
    facts: list[PlacedFact] = []
    copied = written = 0
    for place in _spread(text, lang, count):
        pieces.append(text[copied:place])
        written += place - copied
        copied = place
        fact = draw_fact(rng.choice(list(RELATIONS)), next(strangers), rng, names)
        stated = state(fact, rng)
        end = written + len(stated.sentence)
        facts.append(PlacedFact(fact, written, end, written + stated.answer_start))
        pieces.append(stated.sentence + JOINTS[lang])
        written = end + len(JOINTS[lang])
    pieces.append(text[copied:])
    planted = "".join(pieces)
    return Document(planted, tuple(facts), seed, split, estimate_tokens(planted))


def _spread(text: str, lang: str, count: int) -> list[int]:
    """`count` sentence ends, rising, each the nearest free one at or after its even share of the depth."""
    ends = [match.end() for match in SENTENCE_ENDS[lang].finditer(text)]
    if len(ends) < count:
        raise ValueError(
            f"{count} facts are to be planted, and the text has {len(ends)} places where a sentence ends "
            f"({lang}); give a longer text or plant fewer"
        )
    chosen: list[int] = []
    earliest = 0
    for number in range(count):
        wanted = bisect_left(ends, int((number + 0.5) / count * len(text)))
        # Room is left for the facts that follow, even when the text runs out of sentence ends.
        index = max(earliest, min(wanted, len(ends) - (count - number)))
        chosen.append(ends[index])
        earliest = index + 1
    return chosen
