"""Control tokens by role: a new vocabulary has them under our names, a loaded one under its own."""

from pathlib import Path

import pytest
import transformers

from handscroll.text import Tokenizer
from handscroll.training import Vocabulary

ROLES = ("mask", "cls", "sep", "span_start")
BERT = "[PAD] [UNK] [CLS] [SEP] [MASK] the fox . jumps".split()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_new_vocabulary_has_what_is_asked_for(kind: str, tmp_path: Path) -> None:
    learnt = Tokenizer.train(["The quick brown fox jumps. " * 9], 300, kind=kind, roles=ROLES)  # type: ignore[arg-type]
    learnt.save(tmp_path)
    loaded, theirs = Tokenizer.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = [loaded.role_id(role) for role in ROLES]
    assert ids == [learnt.role_id(role) for role in ROLES] == [learnt.id_of(f"<|{role}|>") for role in ROLES]
    assert ids[:3] == [theirs.mask_token_id, theirs.cls_token_id, theirs.sep_token_id]
    assert set(ids) <= set(learnt.special_tokens.values())
    assert learnt.id_of("<|mask|>") not in learnt.encode("<|mask|>")
    plain = Tokenizer.train(["The quick brown fox jumps. " * 9], 300, kind=kind)  # type: ignore[arg-type]
    assert plain.role_id("mask") is None


def test_a_loaded_vocabulary_has_its_own_names(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT), encoding="utf-8")
    bert = Tokenizer.load(tmp_path)
    vocabulary = Vocabulary.of(bert, ("mask", "cls", "sep"), "masked_lm", "bert")
    assert vocabulary == Vocabulary(9, {"mask": 4, "cls": 2, "sep": 3}, (0, 1, 2, 3, 4), (7,))
    with pytest.raises(ValueError, match=r"glm needs a control token as span_start, and the tokenizer of folder/bert "):
        Vocabulary.of(bert, ("mask", "span_start"), "glm", "folder/bert")


def test_a_role_that_is_not_known() -> None:
    with pytest.raises(ValueError, match="role 'hole' is not known; known: mask, cls"):
        Tokenizer.train(["x"], 300, roles=("hole",))
