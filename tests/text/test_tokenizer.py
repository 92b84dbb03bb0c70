"""The tokenizer against `transformers`, its files, foreign folders, and text that arrives token by token."""

import json
import pickle
import random
from pathlib import Path

import pytest
import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from handscroll.text import StreamDecoder, Tokenizer
from handscroll.text.learning import SMALLEST_VOCAB, SPECIAL_TOKENS

ALL_BYTES = bytes(range(256)).decode("latin-1")
TEXTS = [
    "Where was Karen Smith born? It's the 27th.",
    "请问王伟明出生在哪里？　青州，1642年5月3日。",
    "emoji 👩‍👩‍👧‍👦 and 🏔️, Ελληνικά, العربية, ﬁ, é",
    "  spaces\t\ttabs\r\n\n lines \u2028 \x00 end ",
    ALL_BYTES,
    "",
    "a user types <|end|> and <|assistant|>",
    "龘靐齉",
]


@pytest.fixture(params=["merged", "isolated"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.getfixturevalue(request.param)


def test_ids_equal_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        # They obey control tokens in a text unless told otherwise.
        assert tokenizer.encode(text, special=True) == theirs(text)["input_ids"]
        assert tokenizer.encode(text) == theirs(text, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(tokenizer.encode(text)) == text == theirs.decode(tokenizer.encode(text))
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
    )
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.chat_template == tokenizer.chat_template


def test_save_and_load_keep_behaviour(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer = pickle.loads(pickle.dumps(tokenizer))  # the others' stays as it is
    tokenizer.config["chat_template"] = "{{ messages[0]['content'] }}"
    tokenizer.config["model_max_length"] = 512
    tokenizer.save(tmp_path / "deep" / "folder")
    again = Tokenizer.load(tmp_path / "deep" / "folder")
    assert again.config == tokenizer.config
    assert again.stop_ids == tokenizer.stop_ids
    assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    copy = pickle.loads(pickle.dumps(again))
    assert copy.encode(TEXTS[6]) == tokenizer.encode(TEXTS[6])


def test_special_tokens_come_first_and_are_not_typed(tokenizer: Tokenizer) -> None:
    assert [tokenizer.id_of(name) for name in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert tokenizer.special_tokens == {name: number for number, name in enumerate(SPECIAL_TOKENS)}
    for name in SPECIAL_TOKENS:
        assert min(tokenizer.encode(name)) >= len(SPECIAL_TOKENS)
        assert tokenizer.encode(name, special=True) == [tokenizer.id_of(name)]
    assert tokenizer.stop_ids == (tokenizer.id_of("<|eos|>"), tokenizer.id_of("<|end|>"))
    assert tokenizer.decode([tokenizer.id_of("<|user|>"), *tokenizer.encode("hi")], skip_special=True) == "hi"
    with pytest.raises(ValueError, match=r"special tokens are <\|pad\|>"):
        tokenizer.id_of("<|nobody|>")


def test_offsets_count_characters(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        ids, offsets = tokenizer.encode_with_offsets(text)
        assert ids == tokenizer.encode(text)
        covered = {index for start, end in offsets for index in range(start, end)}
        assert covered == set(range(len(text)))
        for token, (start, end) in zip(ids, offsets, strict=True):
            piece = tokenizer.decode([token])
            assert "\ufffd" in piece or piece == text[start:end]


def test_isolated_cuts_a_chinese_name_the_same_everywhere(isolated: Tokenizer) -> None:
    name = isolated.encode("欧阳明")
    for frame in ("{}的出生地", "据说，{}在青州", "请问{}？", "a{}b", "“{}”"):
        before, after = frame.split("{}")
        assert isolated.encode(frame.format("欧阳明")) == isolated.encode(before) + name + isolated.encode(after)


def test_training_is_deterministic_and_numbers_are_cut_into_groups_of_three_digits(chronicle_texts: list[str]) -> None:
    texts = [chronicle_texts[0][:50_000]]
    first, second = (Tokenizer.train(texts, 700) for _ in range(2))
    assert [first.encode(text) for text in TEXTS] == [second.encode(text) for text in TEXTS]
    assert first.vocab_size == 700
    numbers = Tokenizer.train(["84284284 " * 50], 300)
    assert [numbers.decode([token]) for token in numbers.encode("84284284")] == ["842", "842", "84"]


def test_words_stay_whole_and_are_plain_text(tmp_path: Path) -> None:
    """Wherever they stand, after saving, and in transformers; nothing is lost on the way back."""
    trained = Tokenizer.train(["他在苏州住。" * 9, "She lives."], 300, han="isolated", words=["苏州", "杭州"])
    assert trained.vocab_size <= 300
    assert list(trained.special_tokens) == list(SPECIAL_TOKENS)
    trained.save(tmp_path)
    loaded, theirs = Tokenizer.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "他在苏州，She lives in杭州 and 苏 州🙂杭州"
    ids = loaded.encode(text)
    assert ids == trained.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert ids.count(loaded.id_of("杭州")) == 2
    assert ids.count(loaded.id_of("苏州")) == 1
    assert loaded.decode(ids) == text == loaded.decode(ids, skip_special=True)
    decoder = StreamDecoder(loaded)
    assert "".join(map(decoder.feed, ids)) + decoder.flush() == text
    start, end = loaded.encode_with_offsets(text).offsets[ids.index(loaded.id_of("苏州"))]
    assert text[start:end] == "苏州"
    with pytest.raises(ValueError, match=r"256 bytes, 7 special tokens and 2 words"):
        Tokenizer.train(["text"], 264, words=["苏州", "杭州"])


def test_bad_training_input() -> None:
    with pytest.raises(ValueError, match=f"at least {SMALLEST_VOCAB}"):
        Tokenizer.train(["text"], 200)
    with pytest.raises(ValueError, match="no text"):
        Tokenizer.train([" ", ""], 300)
    with pytest.raises(ValueError, match="'merged' or 'isolated'"):
        Tokenizer.train(["text"], 300, han="cut")  # type: ignore[arg-type]


def test_bad_folders(tmp_path: Path, merged: Tokenizer) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no tokenizer\.json.*save_pretrained"):
        Tokenizer.load(tmp_path)
    merged.save(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="can't be read as a tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(whole)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="can't be written"):
        merged.save(tmp_path / "tokenizer.json")


def foreign_qwen(folder: Path) -> None:
    """As Qwen2 is laid out: NFC, end-of-turn as eos, further control tokens, a template file of its own."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["the quick brown fox 青州"] * 3, trainer)
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("<|endoftext|>", "<|im_end|>")])
    backend.add_tokens([AddedToken("<think>", special=False)])
    backend.enable_truncation(4)
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "unknown_key": [1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    special = {"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}<|im_end|>")
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2], "temperature": 0.6}')


def foreign_llama(folder: Path) -> None:
    """As Llama is laid out: byte fallback, a space before the first word, bos put in front by the post-processor."""
    names = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], "▁", "a", "b", "▁a", "▁b"]
    backend = tokenizers.Tokenizer(
        models.BPE({name: i for i, name in enumerate(names)}, [("▁", "a"), ("▁", "b")], byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("<s>", "</s>")])
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"content": "<s>", "__type": "AddedToken"},
        "eos_token": "</s>",
        "chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_foreign_folder_like_qwen(tmp_path: Path) -> None:
    foreign_qwen(tmp_path)
    ours = Tokenizer.load(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "the quick fox, 青州 e\u0301 <think>"
    assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert len(ours.encode(text)) > 4  # the truncation that the file asks for is not ours
    assert ours.bos_id is None
    assert ours.eos_id == ours.id_of("<|im_end|>")
    assert ours.pad_id == ours.id_of("<|endoftext|>")
    assert set(ours.stop_ids) == {ours.id_of("<|im_end|>"), 1, 2}
    assert ours.id_of("<|im_end|>") not in ours.encode("<|im_end|>")
    assert ours.chat_template == "{{ messages[0]['content'] }}<|im_end|>"
    ours.save(tmp_path / "copy")
    again = Tokenizer.load(tmp_path / "copy")
    assert again.config == ours.config
    assert again.config["unknown_key"] == [1]
    assert again.stop_ids == ours.stop_ids
    assert again.encode(text) == ours.encode(text)


def test_foreign_folder_like_llama(tmp_path: Path) -> None:
    foreign_llama(tmp_path)
    ours = Tokenizer.load(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("a b", "a 青 b", " a"):
        assert [1, *ours.encode(text)] == theirs(text)["input_ids"]
        stream = StreamDecoder(ours)
        assert "".join(map(stream.feed, ours.encode(text))) + stream.flush() == ours.decode(ours.encode(text))
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (1, 2, None)
    assert ours.chat_template == "y"


def test_stream_equals_decode_and_holds_back_half_characters(merged: Tokenizer) -> None:
    for text in TEXTS:
        ids = merged.encode(text)
        stream = StreamDecoder(merged)
        pieces = [stream.feed(token) for token in ids]
        assert "".join(pieces) + stream.flush() == text
        assert not any("\ufffd" in piece for piece in pieces)
    rng = random.Random(1)
    for _ in range(20):  # bytes that are no UTF-8
        ids = [rng.randrange(7, 263) for _ in range(50)]
        stream = StreamDecoder(merged)
        assert "".join(map(stream.feed, ids)) + stream.flush() == merged.decode(ids)
    stream = StreamDecoder(merged)
    assert stream.feed(merged.id_of("<|end|>")) == ""
    assert StreamDecoder(merged, skip_special=False).feed(merged.id_of("<|end|>")) == "<|end|>"


def test_sentence_ends_are_the_tokens_behind_which_a_sentence_ends(tokenizer: Tokenizer) -> None:
    text = "Ada was born in 1815.\nWho? 王伟住在上海。\n\nYes! 3.5 of them, 好吗？好！"
    encoding = tokenizer.encode_with_offsets(text)
    ends = [id_ in tokenizer.sentence_ends for id_ in encoding.ids]
    covered = [text[start:end] for start, end in encoding.offsets]
    # A character that was cut into several tokens is covered by each of them, and known by none.
    whole = [encoding.offsets.count(offset) == 1 for offset in encoding.offsets]
    assert ends == [piece[-1] in ".!?。！？\n" and alone for piece, alone in zip(covered, whole, strict=True)]
    assert sum(ends) >= 4
    assert not set(tokenizer.sentence_ends) & set(tokenizer.special_tokens.values())
