"""Vocabularies whose entries keep to Chinese words."""

from pathlib import Path

import transformers

from handscroll.text import Tokenizer
from handscroll.text.jieba_words import words_of

TEXT = "话说天下大势，分久必合，合久必分。He said 曹操 came in 208年，刘备不知。"


def test_words_are_jiebas_and_every_character_is_kept() -> None:
    assert "".join(words_of(TEXT)) == TEXT
    # The examples of jieba's own page: https://github.com/fxsjy/jieba
    assert words_of("我来到北京清华大学") == ["我", "来到", "北京", "清华大学"]
    assert words_of("他来到了网易杭研大厦") == ["他", "来到", "了", "网易", "杭研", "大厦"]
    assert words_of("He said 曹操") == ["He said ", "曹操"]
    assert words_of("") == []


def test_no_entry_that_is_learnt_crosses_the_end_of_a_word(tmp_path: Path) -> None:
    # Jieba's words here are 北京大学 and 学生; the end of one and the beginning of the other stand together each time.
    texts = ["北京大学学生"] * 50
    assert words_of(texts[0]) == ["北京大学", "学生"]
    merged, bounded = (Tokenizer.train(texts, 300, han=han) for han in ("merged", "jieba"))
    assert len(merged.encode(texts[0])) == 1
    assert [bounded.decode([token]) for token in bounded.encode(texts[0])] == words_of(texts[0])
    # What is saved says nothing of jieba, and gives the same ids everywhere.
    bounded.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (TEXT, texts[0], "大学生 学学生"):
        assert bounded.encode(text) == Tokenizer.load(tmp_path).encode(text) == theirs(text)["input_ids"]
        assert bounded.decode(bounded.encode(text)) == text
