"""Training windows of long-context tasks: gates' keys, keys and values, needles, asked for and answered in sentences.

Knows how a sample of a task becomes one row of tokens, of which answers are supervised, and which tasks are drawn how
often. Leaves what tasks say to `text/tasks/`, and windows about people to `windows.py`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from handscroll.recipes.windows import BLOCKS_PER_WINDOW, Blocks, cut, filled
from handscroll.text import Tokenizer
from handscroll.text.chronicle.document import JOINTS
from handscroll.text.tasks import Asked, Sample, write_sample
from handscroll.text.tasks.key_value import PAIR
from handscroll.text.tasks.needle import NEEDLE, NOUNS
from handscroll.text.tasks.passkey import MANY
from handscroll.text.tasks.restating import restate
from handscroll.text.tasks.vocabulary import adjectives_and_nouns, distinct, word_pool
from handscroll.training import TokenRow

if TYPE_CHECKING:
    from handscroll.recipes.curriculum import Stage

# About what a question takes with its answer, and what there must be room for besides.
TURN_TOKENS, LEAST_TOKENS = 32, 48
# Gates have no names where one thing is hidden; a batch that looks across its windows should hold few of them.
NAMELESS = 0.2
# Fragments are of a context so many times as long as the window.
LONGER = (1, 4)
# From so many adjectives, and nouns, the keys of a context are made: two keys of three share one of the two.
POOLS, FEW = (8, 12, 24), (2, 3, 4)
SENTENCES = {"form": "sentence", "keys": "words", "values": "numbers"}
HAYSTACKS = ("noise", "chronicle", "needles")
# How a value of a key is stated, in one sentence.
STATEMENTS = {
    lang: (
        PAIR[lang],
        NEEDLE[lang].replace("{kinds}", NOUNS[lang]["numbers"]),
        *(re.sub("[.。].*", stop, texts[lang][0]).replace("{name}", "{key}") for texts in MANY.values()),
    )
    for lang, stop in (("en", "."), ("zh", "。"))
}


class Turn(NamedTuple):
    """A question with its answer in chat form, which tokens are supervised, and what they answer."""

    asked: Asked
    ids: list[int]
    supervised: list[bool]


class TaskWriter:
    """Writes the windows of tasks in some languages."""

    def __init__(self, tokenizer: Tokenizer, languages: Sequence[str]):
        self.tokenizer, self.languages = tokenizer, tuple(languages)
        control = ("<|bos|>", "<|user|>", "<|assistant|>", "<|end|>")
        self.bos, self.user, self.assistant, self.end = (tokenizer.id_of(name) for name in control)

    def row(self, stage: Stage, rng: random.Random) -> TokenRow:
        """What the stage's windows about people are, about keys and values."""
        return self._mentions(stage, rng) if stage.kind == "mentions" else self._questions(stage, rng)

    def _mentions(self, stage: Stage, rng: random.Random) -> TokenRow:
        """Each pair of key and value once, then pairs at random; all values but a first mention's are supervised."""
        lang = rng.choice(self.languages)
        among = word_pool(lang, rng, rng.choice(FEW))
        keys, values = distinct("words", lang, rng, among=among), distinct("numbers", lang, rng, among=among)
        pairs = list(islice(zip(keys, values, strict=True), stage.count))
        stated = {pair: rng.choice(STATEMENTS[lang]).format(key=pair[0], value=pair[1]) for pair in pairs}
        first, seen = pairs.copy(), set()
        ids, supervised = [self.bos], [False]
        while len(ids) < stage.length:
            pair = first.pop() if first else rng.choice(pairs)
            sentence = stated[pair] if rng.random() < 0.5 else restate(lang, [(stated[pair], pair[0])])
            start = len(JOINTS[lang]) + sentence.index(pair[1])
            encoded = self.tokenizer.encode_with_offsets(JOINTS[lang] + sentence)
            ids += encoded.ids
            supervised += [
                pair in seen and last > start and begin < start + len(pair[1]) for begin, last in encoded.offsets
            ]
            seen.add(pair)
        return TokenRow(ids[: stage.length], supervised[: stage.length])

    def _questions(self, stage: Stage, rng: random.Random) -> TokenRow:
        """A context and questions about it, as many as fit; of fragments the blocks that hold answers, and others."""
        task, options, asked = _draw(rng.randint(2, max(2, stage.count)), rng)
        room = max(LEAST_TOKENS, stage.length - 1 - TURN_TOKENS * asked)
        tokens = int(room * rng.uniform(*LONGER)) if stage.fragments else room
        sample = self._sample(task, options, asked, tokens, rng)
        encoded = self.tokenizer.encode_with_offsets(sample.context)
        size = stage.length // BLOCKS_PER_WINDOW
        blocks = cut([[each] for each in encoded.ids], size, rng) if stage.fragments else _whole(encoded.ids)
        turns = [self._turn(each) for each in rng.sample(sample.asked, len(sample.asked))]
        while True:
            room = stage.length - 1 - sum(len(turn.ids) for turn in turns)
            spans = [span for turn in turns for span in turn.asked.spans]
            held = [
                place
                for place, (start, end) in enumerate(encoded.offsets)
                if any(start < last and end > first for first, last in spans)
            ]
            needed = {block for place in held for block in blocks.holding[place]}
            if not turns or sum(len(blocks.ids[block]) for block in needed) <= room:
                break
            turns.pop()
        kept = filled(blocks.ids, needed, room, rng)
        ids = [self.bos, *(token for block in kept for token in blocks.ids[block])]
        supervised = [False] * len(ids)
        for turn in turns:
            ids += turn.ids
            supervised += turn.supervised
        return TokenRow(ids, supervised)

    def _sample(self, task: str, options: dict[str, Any], asked: int, tokens: int, rng: random.Random) -> Sample:
        return write_sample(
            task,
            tokens=tokens,
            lang=rng.choice(self.languages),
            seed=rng.getrandbits(64),
            measure=lambda text: len(self.tokenizer.encode(text)),
            questions=asked,
            options=options,
        )

    def _turn(self, asked: Asked) -> Turn:
        prompt = [self.user, *self.tokenizer.encode(asked.question), self.end, self.assistant]
        reply = [*self.tokenizer.encode(asked.restated), self.end]
        return Turn(asked, prompt + reply, [False] * len(prompt) + [True] * len(reply))


def _draw(asked: int, rng: random.Random) -> tuple[str, dict[str, Any], int]:
    """A task, its options, and how often something is asked: mostly several times, of keys that belong to gates."""
    task, pool = rng.choice(("passkey", "number", "kv", "kv", "needle", "needle")), rng.choice(POOLS)
    if task == "kv":
        return task, SENTENCES | {"pool": pool}, asked
    if task == "needle":
        return task, {"haystack": rng.choice(HAYSTACKS), "keys": asked + rng.randint(0, 2), "pool": pool}, asked
    return task, {}, 1 if rng.random() < NAMELESS else asked


def _whole(ids: Sequence[int]) -> Blocks:
    """One block."""
    return Blocks([list(ids)], [range(1)] * len(ids))


def task_texts(languages: Sequence[str], count: int = 100) -> Iterator[str]:
    """What a vocabulary has to be learnt from besides, so that no word or number of the tasks falls into pieces."""
    rng = random.Random("tasks")
    yield from (f" {number}" for number in range(100, 1000))
    yield from (f"{number:0{digits}}" for digits in (2, 3) for number in range(10**digits))
    for lang in languages:
        if lang == "en":
            words = adjectives_and_nouns(lang)
            yield from (f" {word}" for word in words.adjectives)
            yield from (f"-{word}" for word in words.nouns)
        for _ in range(count):
            task, options, asked = _draw(2, rng)
            seed = rng.getrandbits(64)
            sample = write_sample(task, tokens=300, lang=lang, seed=seed, questions=asked, options=options)
            yield sample.context
            yield from (text for each in sample.asked for text in (each.question, each.restated))


def undivided_words(lang: str) -> list[str]:
    """Chinese keys' words, and what stands between a key and its value, which English says in two or three tokens."""
    if lang != "zh":
        return []
    between = [re.split("{key}|{value}", statement)[1] for statement in STATEMENTS[lang]]
    return list(dict.fromkeys((*between, *(word for words in adjectives_and_nouns(lang) for word in words))))
