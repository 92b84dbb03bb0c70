"""What needles are hidden in: repeated noise, sentences of the chronicle, the user's own texts, or other needles.

The kinds are RULER's (https://arxiv.org/abs/2404.06654): its essays are the texts that a user names, and the
chronicle's fillers stand beside them for those who have none. Needles as hay are the needle task's own.
"""

import random
from collections.abc import Collection, Iterator
from itertools import cycle, repeat

from handscroll.text.chronicle.document import JOINTS
from handscroll.text.chronicle.fillers import filler
from handscroll.text.chronicle.planting import SENTENCE_ENDS
from handscroll.text.corpus import read_texts

HAYSTACKS = ("noise", "chronicle", "essay")
# The words of the passkey task, in which they are always the same.
NOISE = {
    "en": ("The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again."),
    "zh": ("草是绿的。", "天是蓝的。", "太阳是黄的。", "我们出发吧。", "去了又回来。"),
}

__all__ = ["HAYSTACKS", "JOINTS", "NOISE", "hay"]


def hay(
    kind: str, lang: str, rng: random.Random, files: tuple[str, ...] = (), without: Collection[str] = ()
) -> Iterator[str]:
    """Sentences without end, none of which contains one of `without`, as noise never does.

    files: the texts of "essay", read from a random sentence on and again from the beginning when they are used up.
    """
    if kind == "noise":
        return cycle(NOISE[lang])
    if kind == "chronicle":
        return _without((filler(lang, rng) for _ in repeat(None)), without)
    if not files:
        raise ValueError(
            "the haystack 'essay' is made of texts of yours, and none is given; name txt, md or jsonl files in "
            f"haystack_files, or choose another haystack: {', '.join(kind for kind in HAYSTACKS if kind != 'essay')}"
        )
    every = (sentence for text in read_texts(files) for sentence in _sentences(text, lang))
    sentences = list(_without(every, without))
    if not sentences:
        raise ValueError(f"the haystack files hold no sentence to hide anything in: {', '.join(files)}")
    start = rng.randrange(len(sentences))
    return cycle(sentences[start:] + sentences[:start])


def _without(sentences: Iterator[str], words: Collection[str]) -> Iterator[str]:
    return (sentence for sentence in sentences if not any(word in sentence for word in words))


def _sentences(text: str, lang: str) -> Iterator[str]:
    """Lines are joined first, since a book's sentence runs over several."""
    flowing = JOINTS[lang].join(line.strip() for line in text.split("\n") if line.strip())
    position = 0
    for end in SENTENCE_ENDS[lang].finditer(flowing):
        yield flowing[position : end.end()].strip()
        position = end.end()
    if rest := flowing[position:].strip():
        yield rest
