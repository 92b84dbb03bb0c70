"""Names and noun phrases of English by rules, without a tagger: capitals, lists of function words, and suffixes.

A run of capitalised words is an entity, with titles before it and "of the" within it. The first word of a sentence is
capitalised anyway: it belongs to one if it is a title, if the text has it capitalised elsewhere, or if another
capitalised word follows it and it is no function word. A phrase has two words or more: a determiner, adjectives and a
noun, or adjectives and a noun; further nouns are known by their suffixes. What is none of these stays single words.

Other languages that write words apart and names with capitals get names by the same rules, and no phrases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from handscroll.text.jieba_words import HAN
from handscroll.text.units.marks import ENTITY, PHRASE, Span

LETTER = rf"[^\W{HAN}_]"
# Hyphens and apostrophes join, but not that of a possessive.
WORD = re.compile(rf"{LETTER}+(?:['\u2019-](?![sS]\b){LETTER}+)*")
SENTENCE_END = re.compile('[.!?:\u2026\u3002\uff01\uff1f\n]|["\u201c]')
TITLES = frozenset(
    "Mr Mrs Ms Miss Dr Prof Professor Sir Lady Lord Dame King Queen Prince Princess Count Countess Duke Duchess Baron "
    "Baroness Emperor Empress President Chancellor Minister Senator Governor Mayor Judge General Colonel Major Captain "
    "Lieutenant Sergeant Admiral Commander Saint St Father Mother Brother Sister Uncle Aunt Bishop Pope".split()
)
JOINERS = frozenset("of de la le du der van von den da di al bin".split())
DETERMINERS = frozenset(
    "a an the this these those my your his her its our their some any each every no another such both all two three "
    "four five six seven eight nine ten many several few".split()
)
ADJECTIVES = frozenset(
    "old new young big small large little great good bad long short high low early late first second third last next "
    "own same other red blue green black white grey gray brown yellow dark light bright deep warm cold hot cool dry "
    "wet rich poor full empty open wide narrow thick thin heavy soft hard sweet quiet loud slow quick fast strong weak "
    "fine fair dear sick dead free whole half main certain strange wild true false".split()
)
ADJECTIVE = re.compile(r"(?:ous|ful|less|able|ible|ical|ial|ish|ive|ern|ary|ient|ional|ural)$")
NOUN = re.compile(r"(?:tion|sion|ment|ness|ity|ship|ance|ence|ism|ist|hood|ology|age|ture|dom)s?$")
FUNCTION = DETERMINERS | frozenset(
    "i you he she it we they me him us them mine yours hers ours theirs myself himself herself itself themselves who "
    "whom whose which what that there here when where why how if whether because since although though while until "
    "unless as than so and or but nor yet for of in on at by to from with without within into onto upon over under "
    "above below between among against during before after about around through across behind beside beyond near off "
    "out up down is are was were be been being am has have had having do does did doing done will would shall should "
    "can could may might must not very too also just only even still then now again once ever never always often "
    "perhaps maybe yes indeed however therefore thus s t ll ve re d m let one more most much less least said says "
    "asked went came made took gave got today yesterday tomorrow later soon meanwhile".split()
)


def words_in(text: str) -> list[re.Match[str]]:
    """The words of scripts that write them apart, numbers among them, in order."""
    return [*WORD.finditer(text)]


def english_spans(text: str, words: Sequence[re.Match[str]]) -> Iterator[Span]:
    """Entities and phrases of the text that has these words, in order."""
    sentence = _Words(text, words)
    place = 0
    while place < len(words):
        stop, level = sentence.entity(place), ENTITY
        if stop == place:
            stop, level = sentence.phrase(place), PHRASE
        if stop > place:
            yield Span(words[place].start(), words[stop - 1].end(), level)
        place = max(stop, place + 1)


class _Words:
    """Words with what stands between them."""

    def __init__(self, text: str, words: Sequence[re.Match[str]]) -> None:
        self.words = [word.group() for word in words]
        edges = [0, *(word.end() for word in words)]
        self.gaps = [text[edge : word.start()] for edge, word in zip(edges, words, strict=False)]
        self.begins = [self._begins_sentence(place) for place in range(len(words))]
        self.known = {
            word for word, is_first in zip(self.words, self.begins, strict=True) if not is_first and _is_capital(word)
        }

    def entity(self, place: int) -> int:
        """Where the name that begins here ends; `place` where none does."""
        if not self._may_name(place):
            return place
        stop = place + 1
        while stop < len(self.words):
            following = stop
            while following < len(self.words) and self.words[following] in (JOINERS | {"the"}) and following < stop + 2:
                following += 1
            if following > stop and self.words[stop] == "the":
                break
            if following >= len(self.words) or not _is_capital(self.words[following]):
                break
            if not all(self._is_joined(each) for each in range(stop, following + 1)):
                break
            stop = following + 1
        return stop

    def phrase(self, place: int) -> int:
        """Where the noun phrase that begins here ends; `place` where none does."""
        stop = place + (self.words[place].lower() in DETERMINERS)
        while self._goes_on(stop, place) and self._is_adjective(stop):
            stop += 1
        if stop == place:
            return place
        if self._goes_on(stop, place):
            stop += 1
        while self._goes_on(stop, place) and NOUN.search(self.words[stop]):
            stop += 1
        return stop if stop >= place + 2 else place

    def _may_name(self, place: int) -> bool:
        word = self.words[place]
        if not _is_capital(word):
            return False
        if not self.begins[place] or word in TITLES or word in self.known:
            return word in TITLES or word.lower() not in FUNCTION
        if word.lower() in FUNCTION or place + 1 == len(self.words):
            return False
        return self._is_joined(place + 1) and _is_capital(self.words[place + 1])

    def _goes_on(self, place: int, first: int) -> bool:
        """Whether a word continues a phrase that began with `first`."""
        if place >= len(self.words) or (place > first and self.gaps[place] != " "):
            return False
        word = self.words[place]
        is_plain = word.islower() and word.isalpha()
        return (is_plain or (place == first and word.isalpha())) and not (
            word.lower() in FUNCTION or word.endswith("ly")
        )

    def _is_adjective(self, place: int) -> bool:
        word = self.words[place].lower()
        return word in ADJECTIVES or (len(word) > 5 and ADJECTIVE.search(word) is not None)

    def _is_joined(self, place: int) -> bool:
        gap = self.gaps[place]
        return gap == " " or (gap == ". " and self._is_short(place - 1))

    def _begins_sentence(self, place: int) -> bool:
        if place == 0 or SENTENCE_END.search(self.gaps[place]) is None:
            return place == 0
        return not (self.gaps[place] == ". " and self._is_short(place - 1))

    def _is_short(self, place: int) -> bool:
        """A title or an initial, behind which a point ends no sentence."""
        word = self.words[place]
        return word in TITLES or (len(word) == 1 and word.isupper() and word != "I")


def _is_capital(word: str) -> bool:
    return word[0].isupper() and word.lower() != "i"
