"""WordPiece: what is learnt here, and vocab.txt of BERT's folders, against `transformers`."""

import pickle
from pathlib import Path

import pytest
import transformers

from handscroll.text import Tokenizer
from handscroll.text.learning import SPECIAL_TOKENS, UNKNOWN

TEXTS = ["Where was Karen Smith born? It's the 27th.", "请问王伟明出生在哪里？", "a\n\n b\t龘 <|end|>", ""]


@pytest.fixture(scope="module")
def wordpiece(chronicle_texts: list[str]) -> Tokenizer:
    return Tokenizer.train(chronicle_texts, 2500, kind="wordpiece")


def test_ids_equal_transformers_after_saving(wordpiece: Tokenizer, tmp_path: Path) -> None:
    wordpiece.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again = Tokenizer.load(tmp_path)
    for text in TEXTS:
        ids = wordpiece.encode(text, special=True)
        assert ids == again.encode(text, special=True) == theirs(text)["input_ids"]
        assert pickle.loads(pickle.dumps(again)).decode(ids) == wordpiece.decode(ids) == theirs.decode(ids)
    assert wordpiece.vocab_size == len(theirs) == 2500
    assert [wordpiece.id_of(name) for name in (*SPECIAL_TOKENS, UNKNOWN)] == list(range(8))
    assert wordpiece.unknown_id == theirs.unk_token_id == 7
    assert wordpiece.backend.kind == "WordPiece"


def test_what_is_lost_is_white_space_and_unknown_characters(wordpiece: Tokenizer, chronicle_texts: list[str]) -> None:
    text = chronicle_texts[0][:5000]
    assert "".join(wordpiece.decode(wordpiece.encode(text)).split()) == "".join(text.split())
    assert wordpiece.decode(wordpiece.encode("Who?\n\nKaren  Smith")) == "Who? Karen Smith"
    assert wordpiece.encode("龘") == [wordpiece.unknown_id]


def test_learning_is_the_same_each_time_and_keeps_to_its_size(chronicle_texts: list[str]) -> None:
    texts = [chronicle_texts[0][:20_000]]
    first, second = (Tokenizer.train(texts, 300, kind="wordpiece", words=["青州市"]) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.vocab_size == 300
    assert first.decode(first.encode("在青州市。")) == "在 青州市 。"


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="kind is 'word'; it must be 'bpe' or 'wordpiece'"):
        Tokenizer.train(["text"], 300, kind="word")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"han is 'merged'; with kind='wordpiece' it must be 'isolated'; WordPiece cuts"
    ):
        Tokenizer.train(["text"], 300, kind="wordpiece", han="merged")
    with pytest.raises(ValueError, match=r"at least 72 \(64 entries to learn, 8 special tokens and 0 words\)"):
        Tokenizer.train(["text"], 71, kind="wordpiece")
    with pytest.raises(ValueError, match="no text"):
        Tokenizer.train([" "], 300, kind="wordpiece")


@pytest.mark.parametrize("is_cased", [True, False])
def test_a_vocab_txt_alone_is_read_as_transformers_does(tmp_path: Path, is_cased: bool) -> None:
    entries = (
        "[PAD] [UNK] [CLS] [SEP] [MASK] the quick fox The cafe café ##s ##es un ##know ##n , . ' 王 伟 2 ##7".split()
    )
    (tmp_path / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    if is_cased:
        (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}')
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    for text in ("The quick foxes, unknown.", "Cafés café 王伟 27 x", "the [MASK] fox"):
        assert ours.encode(text, special=True) == theirs(text, add_special_tokens=False)["input_ids"]
    assert 4 not in ours.encode("the [MASK] fox")
    assert (ours.pad_id, ours.unknown_id, ours.opening_ids) == (0, 1, [])
    ours.save(tmp_path / "copy")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert again("The quick fox")["input_ids"] == theirs("The quick fox")["input_ids"]
    assert Tokenizer.load(tmp_path / "copy").encode("The foxes") == ours.encode("The foxes")


def test_a_vocab_txt_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"vocab\.txt has no entry \[UNK\]"):
        Tokenizer.load(tmp_path)
