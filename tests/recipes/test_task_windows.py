"""Windows of long-context tasks: what is answered stands in them, nothing else is supervised, no word is in pieces."""

import random
import re
from dataclasses import replace

import pytest

from handscroll.recipes.curriculum import STAGES, Curriculum, Stage, with_tasks
from handscroll.recipes.task_windows import TaskWriter, task_texts, undivided_words
from handscroll.recipes.windows import Excerpts
from handscroll.text import Tokenizer
from handscroll.text.tasks import write_sample
from handscroll.text.tasks.vocabulary import adjectives_and_nouns

TAUGHT = [stage for stage in with_tasks(STAGES) if stage.tasks]
MENTIONS, QUESTIONS = ([stage for stage in TAUGHT if stage.kind == kind] for kind in ("mentions", "questions"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(task_texts(("en", "zh"), 20), 9000, han="isolated", words=undivided_words("zh"))


def test_no_word_or_number_falls_into_pieces(tokenizer: Tokenizer) -> None:
    english, chinese = adjectives_and_nouns("en"), adjectives_and_nouns("zh")
    whole = [f" {word}" for word in english.adjectives] + [f"-{word}" for word in english.nouns]
    whole += [*chinese.adjectives, *chinese.nouns, " 100", "000", "999", "07"]
    assert [text for text in whole if len(tokenizer.encode(text)) > 1] == []
    assert len(tokenizer.encode("古老灯塔的值是1234567")) == 3 + 3
    assert len(tokenizer.encode("古老灯塔门的通行密钥是12345")) == 3 + 2
    assert len(tokenizer.encode("古老灯塔的一个特殊魔法数字是：1234567")) == 3 + 3


@pytest.mark.parametrize("stage", QUESTIONS, ids=lambda stage: stage.name)
def test_answers_stand_in_the_window(tokenizer: Tokenizer, stage: Stage) -> None:
    writer, rng = TaskWriter(tokenizer, ["en", "zh"]), random.Random(1)
    for _ in range(40):
        row = writer.row(stage, rng)
        assert row.supervised is not None
        assert len(row.ids) == len(row.supervised) <= stage.length
        context, *turns = tokenizer.decode(row.ids).split("<|user|>")
        replies = [turn.split("<|assistant|>")[1] for turn in turns]
        assert tokenizer.decode([t for t, is_said in zip(row.ids, row.supervised, strict=True) if is_said]) == "".join(
            replies
        )
        for reply in replies:
            numbers = re.findall(r"\d+", reply)
            assert numbers
            assert all(number in context for number in numbers), (reply, context)
            assert re.match("It says [a-z]|据载", reply)


@pytest.mark.parametrize("stage", MENTIONS, ids=lambda stage: stage.name)
def test_values_that_were_stated_before_are_supervised(tokenizer: Tokenizer, stage: Stage) -> None:
    writer, rng = TaskWriter(tokenizer, ["en", "zh"]), random.Random(1)
    for _ in range(20):
        row = writer.row(stage, rng)
        assert row.supervised is not None
        assert len(row.ids) == len(row.supervised) == stage.length
        first = list(row.supervised).index(True)
        before = tokenizer.decode(row.ids[:first])
        # A value has three tokens.
        assert tokenizer.decode(row.ids[first : first + 3]).strip() in before
        assert len(set(re.findall(r"\d{7}", before))) == stage.count
        assert sum(row.supervised) > 6


def test_only_stages_with_room_have_tasks(tokenizer: Tokenizer) -> None:
    assert [stage.name for stage in TAUGHT] == [
        "rewording",
        "near misses",
        "longer questions",
        "full windows",
        "retrieved blocks",
    ]
    stage = replace(TAUGHT[-1], steps=1)
    source = Curriculum([stage], tokenizer, [Excerpts("en"), Excerpts("zh")], 3, ["The sky is blue. " * 200])
    texts = [tokenizer.decode(row.ids) for [row] in source.windows(0, 0)]
    assert len(texts) == stage.windows
    assert source.windows(0, 0) == source.windows(0, 0) != source.windows(0, 1)


def test_keys_of_a_pool_are_alike() -> None:
    options = {"form": "sentence", "keys": "words", "values": "numbers"}

    def words(pool: int) -> set[str]:
        sample = write_sample("kv", tokens=600, lang="en", options={**options, "pool": pool})
        return {word for key in re.findall("of ([a-z-]+) is", sample.context) for word in key.split("-")}

    assert len(words(4)) == 8
    assert len(words(0)) > 40
