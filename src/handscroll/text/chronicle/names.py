"""Full names of the chronicle's people, from the first and last names that `faker` collects.

Its Chinese given names are made of a hundred characters, and six people of a long text would share each: others that
are common in names stand beside them, so that both languages have as many given names.

Knows which names exist, and that training and reading never share one. Leaves to others who does what under a name.

The split is a property of the name itself: a stable hash of it decides between "train" and "read", so the two are
disjoint for any seeds, lengths and releases. Beyond that, no name may occur inside another of the other split:

- English: first and last name, ASCII letters, no word of an answer (Amber, York); no last name begins
  with another (Johns, Johnson).
- Chinese: a surname and one given character, as English has two parts; no given character is also a surname; no
  character that the chronicle's other words have (于 in 诞于, 青 in 青州), so that nothing looks like half a name.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Literal, NamedTuple

from faker.providers.person.en_US import Provider as English
from faker.providers.person.zh_CN import Provider as Chinese

from handscroll.text.chronicle import fillers, wordings
from handscroll.text.chronicle.answers import EVENTS, STREETS, TOWNS, TRADES

Language = Literal["en", "zh"]
Split = Literal["train", "read"]

LANGUAGES: tuple[Language, ...] = ("en", "zh")
SPLITS: tuple[Split, ...] = ("train", "read")
# Rarer names would spend vocabulary on words that are seen a few times.
COMMON_FAMILIES = 300
COMMON_GIVEN = 300
GIVEN_ZH = (
    "昊睿轩涵怡昕皓奕翔诚谦哲泽沐宸煜烨炜栋栩霖骏骁驰毅韬彦恺恒恩悦愉忱怀懿璇琪瑶瑾瑛珊琛珂珏琬琰璟璋琨玥玮琦瑄"
    "妍娴婉嫣姝娅妮妙婕娥婵媛嫒妤姗姣姿娇婧媚婳菲蓉蕾薇芷芸茜茵莎萱蓓蔓蕊蕴薰苓荔菁菡萌蔚芙芹苒茉曦晖晗晴昱晟曜旻"
    "昶昭晓晞暄旦映昀晔铭锋锐钧钰铮铠锴铎浚沛泓洵浠涓淇淳淼渊滢漪潇澜澄润泳沁沅汐洛棠桐楷榕槿樱杉枫栎桦榆骞腾跃翊"
    "翎翰翠羽祺祥禧祯禄勉厚孝弘雅韵诗颂馨馥振擎峻峥嵘岚崇嵩屹群宏宥寅威坚逸遥迪迅慈纯素缤绮缨彪彤茂启喆咏培垚坦亨"
)
# Of 256 hash values: below it the name is for reading.
READ_SHARE = 128


class NameParts(NamedTuple):
    """What a language's names are made of."""

    families: tuple[str, ...]
    given: tuple[str, ...]


class Names:
    """The names of one language and one split."""

    def __init__(self, lang: str, split: str, seed: int = 0) -> None:
        if lang not in LANGUAGES:
            raise ValueError(f"language is {lang!r}; the chronicle speaks {', '.join(LANGUAGES)}")
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
        self.lang = lang
        self.split = split
        self.seed = seed
        self._families, self._given = name_parts(lang)

    def draw(self, rng: random.Random) -> str:
        """One name, which may come again."""
        families, given = self._families, self._given
        # int(random() * n) is several times faster than choice, and names are drawn by the million.
        uniform = rng.random
        while True:
            name = full_name(self.lang, families[int(uniform() * len(families))], given[int(uniform() * len(given))])
            if split_of(name) == self.split:
                return name

    def __iter__(self) -> Iterator[str]:
        """Every name at most once, in an order that follows from the seed."""
        rng = random.Random(f"{self.seed}/{self.lang}/{self.split}")
        seen: set[str] = set()
        misses = 0
        while misses < 200:  # so many repetitions in a row mean that some 98 % are used
            name = self.draw(rng)
            if name in seen:
                misses += 1
                continue
            misses = 0
            seen.add(name)
            yield name
        raise ValueError(
            f"the {len(seen)} {self.lang} names of the {self.split} split are used up; "
            "ask for a shorter document or spread it over more languages"
        )

    def take(self, count: int) -> list[str]:
        """The first `count` names of the seed's order."""
        return list(islice(self, count))

    def pool(
        self, count: int, rng: random.Random, *, families: int | None = None, given: int | None = None
    ) -> list[str]:
        """`count` different names from few surnames and few given names, so that near misses abound.

        families, given: how many of each to combine; by default about as many as give twice the names needed.
        Where the split leaves too few combinations, more are taken in.
        """
        side = max(2, round(2 * count**0.5))
        families, given = families or side, given or side
        while True:
            some_families = rng.sample(self._families, min(families, len(self._families)))
            some_given = rng.sample(self._given, min(given, len(self._given)))
            every = (full_name(self.lang, family, first) for family in some_families for first in some_given)
            names = [name for name in every if split_of(name) == self.split]
            if len(names) >= count:
                return rng.sample(names, count)
            if families >= len(self._families) and given >= len(self._given):
                raise ValueError(
                    f"a pool of {count} {self.lang} names is asked for; there are {len(names)}; ask for fewer"
                )
            families, given = families + 1, given + 1


def full_name(lang: str, family: str, given: str) -> str:
    """Both parts in the order of the language: "Karen Smith", "王伟"."""
    return f"{given} {family}" if lang == "en" else family + given


def split_of(name: str) -> Split:
    """The split that a full name belongs to, whatever the seed."""
    digest = hashlib.blake2b(name.encode(), digest_size=1).digest()
    return "read" if digest[0] < READ_SHARE else "train"


@cache
def name_parts(lang: str) -> NameParts:
    """Surnames and given names of a language, in a fixed order."""
    if lang == "en":
        taken = {*TOWNS["en"], *" ".join(STREETS["en"]).split(), *EVENTS["en"]}
        families = [name for name in English.last_names if re.fullmatch("[A-Z][a-z]+", name) and name not in taken]
        families = [name for name in families if not any(name != o and name.startswith(o) for o in families)]
        # Families are listed by how common they are, given names alphabetically with their share.
        given = sorted(English.first_names, key=lambda name: -English.first_names[name])
        given = [name for name in given if re.fullmatch("[A-Z][a-z]+", name) and name not in {*taken, *families}]
        return NameParts(tuple(dict.fromkeys(families))[:COMMON_FAMILIES], tuple(given[:COMMON_GIVEN]))
    words = _chinese_words()
    given = [name for name in dict.fromkeys("".join(Chinese.first_names) + GIVEN_ZH) if name not in words]
    surnames = [name for name in Chinese.last_names if len(name) == 1 and name not in {*words, *given}]
    return NameParts(tuple(dict.fromkeys(surnames)), tuple(given[:COMMON_GIVEN]))


def _chinese_words() -> str:
    """All that the chronicle writes besides names."""
    worded = [value for value in vars(wordings).values() if isinstance(value, wordings.Wording)]
    templates = [template for each in worded for template in (*each.facts, *each.questions, each.answer)]
    slots = [word for words in fillers.SLOTS["zh"].values() for word in words]
    return "".join(
        (*templates, *fillers.TEMPLATES["zh"], *slots, *TOWNS["zh"], *STREETS["zh"], *TRADES["zh"], *EVENTS["zh"])
    )
