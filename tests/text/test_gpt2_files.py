"""GPT-2's vocab.json and merges.txt, which its first folders have in the place of a tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from transformers import AutoTokenizer

from handscroll.text import Tokenizer

TEXTS = ["It's the 2nd time:  don't!", "天地玄黄，宇宙洪荒。", "a\n\n b\té <|endoftext|> z", ""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    learnt = tokenizers.Tokenizer(tokenizers.models.BPE())
    learnt.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    learnt.train_from_iterator(["the time of the other 2nd don't it's " * 9], trainer)
    learnt.model.save(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1024}))
    return tmp_path


def test_ids_equal_transformers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.bos_id == ours.eos_id == theirs.eos_token_id == ours.id_of("<|endoftext|>")
    for text in TEXTS:
        assert ours.encode(text, special=True) == theirs(text)["input_ids"]
        assert ours.decode(ours.encode(text)) == text
    out = tmp_path_factory.mktemp("out")
    ours.save(out)
    again = Tokenizer.load(out)
    assert [again.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    assert again.config == ours.config


@pytest.mark.parametrize("case", ["another class", "no merges"])
def test_what_is_not_gpt2s_is_refused(case: str, folder: Path) -> None:
    if case == "no merges":
        (folder / "merges.txt").unlink()
    else:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    says = "no merges" if case == "no merges" else "is of Qwen2Tokenizer: only GPT-2's is read"
    with pytest.raises(ValueError, match=rf"vocab\.json .*{says}"):
        Tokenizer.load(folder)
