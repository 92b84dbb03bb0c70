"""Common words and frequent words, as in RULER (https://arxiv.org/abs/2404.06654): what a whole text says most often.

Common words: a numbered list in which a few words stand often and all others seldom. Frequent words: coded words whose
counts follow a zeta distribution; the likeliest is written "..." and not asked for. Only one thing can be asked of such
a text, so a sample has one question, and no place in the text holds the answer.
"""

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from handscroll.text.chronicle.names import GIVEN_ZH
from handscroll.text.tasks.checks import check_count
from handscroll.text.tasks.filling import Pieces, fit
from handscroll.text.tasks.task import Asked, Measure, Sample, Task
from handscroll.text.tasks.vocabulary import distinct_words, single_words

COMMON_OPENING = {
    "en": "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n",
    "zh": "下面是一份带编号的词表，其中有些词比别的词出现得更多。请记住出现最多的那些词。\n",
}
COMMON_QUESTION = {
    "en": "What are the {count} most common words in the above list?",
    "zh": "上面的词表中出现次数最多的{count}个词是什么？",
}
FREQUENT_OPENING = {
    "en": "Read the following coded text and track the frequency of each coded word.\n",
    "zh": "请阅读下面的密文，留意每个密码词出现的次数。\n",
}
FREQUENT_QUESTION = {
    "en": "Ignore the dots '...'. What are the three most frequently appeared words in the above coded text?",
    "zh": "请忽略“...”。上面的密文中出现次数最多的三个词是什么？",
}
DOTS = "..."
FREQUENT = 3
LETTERS = {"en": string.ascii_lowercase, "zh": GIVEN_ZH}
WORD_LENGTH = {"en": 6, "zh": 3}
# RULER draws one word of its vocabulary for fifty tokens of text.
TOKENS_PER_WORD = 50
FIRST_TERMS = 1000


@dataclass(frozen=True)
class CommonWordsOptions:
    """common: how many are asked for. common_times, uncommon_times: how often each stands in the list."""

    common: int = 10
    common_times: int = 30
    uncommon_times: int = 3

    def __post_init__(self) -> None:
        check_count("common", self.common, 1, 100)
        check_count("common_times", self.common_times, 2)
        check_count("uncommon_times", self.uncommon_times, 1, self.common_times - 1)


@dataclass(frozen=True)
class FrequentWordsOptions:
    """alpha: the word of rank k stands in proportion to 1 / k^alpha. Nearer to 1 is harder."""

    alpha: float = 2.0

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not 1 < self.alpha <= 5:
            raise ValueError(f"alpha is {self.alpha!r}; it must be a number above 1 and at most 5")


def write_common(
    rng: random.Random, tokens: int, lang: str, measure: Measure, questions: int, options: CommonWordsOptions
) -> Sample:
    """As many uncommon words as fit; each number of them has an order of its own."""
    every = single_words(lang)
    # None is part of another word, so that a reply can be searched for it.
    alone = (word for word in rng.sample(every, len(every)) if sum(word in other for other in every) == 1)
    common = list(islice(alone, options.common))
    uncommon = Pieces(distinct_words(lang, rng, common))
    order = rng.getrandbits(64)

    def context(count: int) -> str:
        listed = common * options.common_times + uncommon.first(count) * options.uncommon_times
        random.Random(order).shuffle(listed)
        return COMMON_OPENING[lang] + " ".join(f"{number}. {word}" for number, word in enumerate(listed, 1))

    text = context(fit(context, tokens, measure))
    question = COMMON_QUESTION[lang].format(count=options.common)
    return Sample(text, (Asked(question, tuple(common)),), lang)


def write_frequent(
    rng: random.Random, tokens: int, lang: str, measure: Measure, questions: int, options: FrequentWordsOptions
) -> Sample:
    """The three words after the likeliest one are right; each stands oftener than the next."""
    words = Pieces(_coded(lang, rng)).first(max(FREQUENT + 1, tokens // TOKENS_PER_WORD))
    ranked = [DOTS, *words]
    whole = zeta(options.alpha)
    shares = [rank**-options.alpha / whole for rank in range(1, len(ranked) + 1)]
    order = rng.getrandbits(64)

    def context(count: int) -> str:
        listed = [word for word, share in zip(ranked, shares, strict=True) for _ in range(int(count * share))]
        random.Random(order).shuffle(listed)
        return FREQUENT_OPENING[lang] + " ".join(listed)

    # From here on the last that is asked for stands at least once more than the next, whatever rounding does.
    least = int(1 / (shares[FREQUENT] - shares[FREQUENT + 1])) + 1
    text = context(fit(context, tokens, measure, least=least))
    return Sample(text, (Asked(FREQUENT_QUESTION[lang], tuple(words[:FREQUENT])),), lang)


def zeta(alpha: float) -> float:
    """Riemann's zeta for alpha > 1: a sum, and its rest by Euler and Maclaurin."""
    terms = sum(rank**-alpha for rank in range(1, FIRST_TERMS))
    return float(terms + FIRST_TERMS ** (1 - alpha) / (alpha - 1) + FIRST_TERMS**-alpha / 2)


def _coded(lang: str, rng: random.Random) -> Iterator[str]:
    seen: set[str] = set()
    while True:
        word = "".join(rng.choices(LETTERS[lang], k=WORD_LENGTH[lang]))
        if word not in seen:
            seen.add(word)
            yield word


COMMON_WORDS = Task("common_words", CommonWordsOptions, write_common)
FREQUENT_WORDS = Task("frequent_words", FrequentWordsOptions, write_frequent)
