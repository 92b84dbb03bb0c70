"""Training windows about people: facts among fillers, mentioned again or asked for.

Knows how sentences become one row of tokens of an exact length, and which of its tokens are supervised. Leaves the
wording of sentences to `text/chronicle/` and the order of stages to `curriculum.py`.

Sentences are encoded one by one and laid side by side: the tokenizer cuts at their borders anyway.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from handscroll.text import Tokenizer
from handscroll.text.chronicle import (
    RELATIONS,
    Fact,
    Names,
    answer_sentence,
    draw_fact,
    fact_sentence,
    filler,
    question,
)
from handscroll.text.chronicle.document import JOINTS
from handscroll.text.chronicle.planting import SENTENCE_ENDS
from handscroll.text.chronicle.relations import Statement, state
from handscroll.training import TokenRow

if TYPE_CHECKING:
    from handscroll.recipes.curriculum import Stage

# About the length of a sentence, and of a question with its answer, to guess how many facts a window has room for.
SENTENCE_TOKENS, TURN_TOKENS = 12, 24
# How often a filler is followed by another, or put before a fact.
FILLERS = 0.4
LARGEST_POOL = 30
# The share of windows with as many questions as a stage has; the others have fewer.
MANY_QUESTIONS = 0.75
# A window of fragments shows blocks of a sixteenth of its length, as block memory does.
BLOCKS_PER_WINDOW = 16
# The context that fragments are taken from has a sentence for each of so many tokens of the window, twice its length.
TOKENS_PER_SENTENCE, FACTS_AROUND = 9, 0.6
# Of the facts around, so many say something else about somebody who is spoken of already.
SAME_PERSON = 0.3
# Windows of one relation are often about teachers: no other answer has two tokens that each must be found.
OFTENER = ("teacher",) * 3
LONGEST_PIECE = {"en": 160, "zh": 50}


@dataclass(frozen=True)
class Excerpts:
    """What stands between the facts of one language: pieces of a text; without any, the chronicle's fillers."""

    lang: str
    pieces: tuple[str, ...] = ()

    @classmethod
    def of(cls, lang: str, text: str) -> Excerpts:
        """The sentences of a text; of long ones the beginning."""
        ends = [0, *(match.end() for match in SENTENCE_ENDS[lang].finditer(text)), len(text)]
        pieces = (text[start:end].strip()[: LONGEST_PIECE[lang]] for start, end in pairwise(ends))
        return cls(lang, tuple(piece for piece in pieces if piece))

    def draw(self, rng: random.Random) -> str:
        return rng.choice(self.pieces) if self.pieces else filler(self.lang, rng)


class Sentence(NamedTuple):
    """A sentence of the context, with what joins it to the one before: the fact that it states, or None."""

    text: str
    fact: Fact | None = None


class Turn(NamedTuple):
    """A question with its answer in chat form, and which tokens are supervised: the answer and what ends it."""

    fact: Fact
    ids: list[int]
    supervised: list[bool]


class Writer:
    """Writes the windows of one language."""

    def __init__(self, tokenizer: Tokenizer, excerpts: Excerpts, seed: int):
        self.tokenizer, self.excerpts, self.lang = tokenizer, excerpts, excerpts.lang
        self.names, self.joint = Names(excerpts.lang, "train", seed), JOINTS[excerpts.lang]
        control = ("<|bos|>", "<|user|>", "<|assistant|>", "<|end|>")
        self.bos, self.user, self.assistant, self.end = (tokenizer.id_of(name) for name in control)

    def mentions(self, stage: Stage, rng: random.Random) -> TokenRow:
        """Each fact once, then facts at random; the answers of all but a fact's first mention are supervised."""
        relations = _relations(stage, rng)
        facts = [draw_fact(rng.choice(relations), name, rng, self.names) for name in self._people(stage, rng)]
        first = facts.copy()
        rng.shuffle(first)
        ids, supervised, seen = [self.bos], [False], set()
        while len(ids) < stage.length:
            fact = first.pop() if first else rng.choice(facts)
            encoded, is_answer = self._mention(fact, stage, rng)
            ids += encoded
            supervised += is_answer if fact in seen else [False] * len(encoded)
            seen.add(fact)
        return TokenRow(ids[: stage.length], supervised[: stage.length])

    def questions(
        self, stage: Stage, rng: random.Random, company: Sequence[Writer] = (), ending: Sequence[int] = ()
    ) -> TokenRow:
        """Facts among fillers, then questions about some of them, as many as fit together with their facts.

        Fragments stand among what `company`, writers of any language, have to say; without any, this one's own.
        `ending` are tokens that stand between the context and the first question, whatever they say.
        """
        # Now and then a few, so that a question may also follow a context that nearly fills the window.
        count = stage.count if rng.random() < MANY_QUESTIONS else rng.randint(1, stage.count)
        facts = self._facts(stage, count, rng)
        asked = rng.sample(facts, min(count, len(facts)))
        sentences = self._context(facts, stage, rng)
        if stage.fragments:
            number = (stage.length - TURN_TOKENS * len(asked)) // TOKENS_PER_SENTENCE
            self._surround(sentences, number, rng, company or [self])
        encoded = self.tokenizer.encode_batch([sentence.text for sentence in sentences])
        turns = self._turns(asked, rng)
        blocks = cut(encoded, stage.length // BLOCKS_PER_WINDOW, rng) if stage.fragments else _whole(encoded)
        places = {sentence.fact: place for place, sentence in enumerate(sentences) if sentence.fact}
        while True:
            room = stage.length - 1 - len(ending) - sum(len(turn.ids) for turn in turns)
            needed = {block for turn in turns for block in blocks.holding[places[turn.fact]]}
            if not turns or sum(len(blocks.ids[block]) for block in needed) <= room:
                break
            turns.pop()
        kept = filled(blocks.ids, needed, room, rng)
        context = self._padded([token for block in kept for token in blocks.ids[block]], room, rng)
        ids = [self.bos, *context, *ending]
        supervised = [False] * len(ids)
        for turn in turns:
            ids += turn.ids
            supervised += turn.supervised
        return TokenRow(ids, supervised)

    def _mention(self, fact: Fact, stage: Stage, rng: random.Random) -> tuple[list[int], list[bool]]:
        """A sentence that states the fact, and which of its tokens are the answer."""
        if rng.random() < stage.verbatim:
            sentence = answer_sentence(fact)
            stated = Statement(sentence, sentence.rindex(fact.answer))
        else:
            stated = state(fact, rng)
        ids, offsets = self.tokenizer.encode_with_offsets(self.joint + stated.sentence)
        start = len(self.joint) + stated.answer_start
        end = start + len(fact.answer)
        return ids, [last > start and first < end for first, last in offsets]

    def _people(self, stage: Stage, rng: random.Random) -> list[str]:
        if stage.families is not None:
            families, given = rng.randint(*stage.families), rng.randint(*stage.families)
            return self.names.pool(stage.count, rng, families=families, given=given)
        people: dict[str, None] = {}
        while len(people) < stage.count:
            people[self.names.draw(rng)] = None
        return list(people)

    def _facts(self, stage: Stage, asked: int, rng: random.Random) -> list[Fact]:
        """About as many facts as the window has room for; (subject, relation) is unique."""
        relations = _relations(stage, rng)
        room = stage.length - TURN_TOKENS * asked
        number = max(asked, int(room * (1 - FILLERS) / SENTENCE_TOKENS) + 1)
        if stage.families is None:
            pool = list(dict.fromkeys(self.names.draw(rng) for _ in range(number)))
        else:
            families, given = rng.randint(*stage.families), rng.randint(*stage.families)
            size = max(4, min(families * given // 2, LARGEST_POOL))
            pool = self.names.pool(size, rng, families=families, given=given)
        pairs = dict.fromkeys((name, relation) for name in pool for relation in relations)
        while len(pairs) < number:
            pairs |= dict.fromkeys((name, relation) for name in self.names.pool(8, rng) for relation in relations)
        return [draw_fact(relation, name, rng, self.names) for name, relation in rng.sample(list(pairs), number)]

    def _context(self, facts: Sequence[Fact], stage: Stage, rng: random.Random) -> list[Sentence]:
        sentences = []
        fillers = rng.choice((0.0, FILLERS))
        for fact in facts:
            while rng.random() < fillers:
                sentences.append(Sentence(self.joint + self.excerpts.draw(rng)))
            is_verbatim = rng.random() < stage.verbatim
            stated = answer_sentence(fact) if is_verbatim else fact_sentence(fact, rng)
            sentences.append(Sentence(self.joint + stated, fact))
        return sentences

    def _surround(self, sentences: list[Sentence], number: int, rng: random.Random, company: Sequence[Writer]) -> None:
        """Adds further facts and fillers at random places until there are `number` sentences (mutates)."""
        stated = {(sentence.fact.subject, sentence.fact.relation): None for sentence in sentences if sentence.fact}
        subjects, relations = (list(dict.fromkeys(each)) for each in zip(*stated, strict=True))
        while len(sentences) < number:
            writer = rng.choice(company)
            text = writer.excerpts.draw(rng)
            if rng.random() < FACTS_AROUND:
                # What a memory retrieves resembles what is asked for: mostly others of whom the same is said.
                name, relation = writer.names.draw(rng), rng.choice(relations)
                if rng.random() < SAME_PERSON:
                    writer, name, relation = self, rng.choice(subjects), rng.choice(list(RELATIONS))
                if (name, relation) not in stated:
                    stated[name, relation] = None
                    text = fact_sentence(draw_fact(relation, name, rng, writer.names), rng)
            sentences.insert(rng.randrange(len(sentences) + 1), Sentence(writer.joint + text))

    def _turns(self, asked: Sequence[Fact], rng: random.Random) -> list[Turn]:
        texts = [text for fact in asked for text in (question(fact, rng), answer_sentence(fact))]
        encoded = self.tokenizer.encode_batch(texts)
        turns = []
        for fact, question_ids, answer_ids in zip(asked, encoded[::2], encoded[1::2], strict=True):
            prompt = [self.user, *question_ids, self.end, self.assistant]
            reply = [*answer_ids, self.end]
            turns.append(Turn(fact, prompt + reply, [False] * len(prompt) + [True] * len(reply)))
        return turns

    def _padded(self, context: list[int], room: int, rng: random.Random) -> list[int]:
        """Exactly `room` tokens: fillers are put before the context."""
        while len(context) < room:
            context = self.tokenizer.encode(self.joint + self.excerpts.draw(rng)) + context
        return context[len(context) - room :]


class Blocks(NamedTuple):
    """The pieces that a context is kept or dropped in, and for each sentence those that hold it."""

    ids: list[list[int]]
    holding: list[range]


def _whole(sentences: list[list[int]]) -> Blocks:
    """Every sentence is a block."""
    return Blocks(sentences, [range(place, place + 1) for place in range(len(sentences))])


def cut(sentences: list[list[int]], size: int, rng: random.Random) -> Blocks:
    """Blocks of `size` tokens from a random phase on, as if the text before were longer."""
    phase = rng.randrange(size)
    ids = [token for sentence in sentences for token in sentence]
    cuts = range(-phase, len(ids), size)
    ends = list(accumulate(len(sentence) for sentence in sentences))
    holding = [
        range((end - len(sentence) + phase) // size, (end - 1 + phase) // size + 1)
        for sentence, end in zip(sentences, ends, strict=True)
    ]
    return Blocks([ids[max(0, cut) : cut + size] for cut in cuts], holding)


def filled(blocks: Sequence[Sequence[int]], needed: set[int], room: int, rng: random.Random) -> list[int]:
    """The needed blocks and as many others, at random, as there is room for; in order."""
    others = [block for block in range(len(blocks)) if block not in needed]
    rng.shuffle(others)
    total, kept = sum(len(blocks[block]) for block in needed), set(needed)
    for block in others:
        if total + len(blocks[block]) <= room:
            total += len(blocks[block])
            kept.add(block)
    return sorted(kept)


def _relations(stage: Stage, rng: random.Random) -> list[str]:
    every = list(RELATIONS)
    count = rng.choice(stage.relations) if stage.relations else len(every)
    return [rng.choice([*every, *OFTENER])] if count == 1 else rng.sample(every, count)
