"""tokenizer.model folders against `sentencepiece` itself and `transformers`; the models are trained here."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers

from handscroll.text import StreamDecoder, Tokenizer

TEXTS = [
    "Where was Karen Smith born? It's the 27th.",
    "请问王伟明出生在哪里？　青州，1642年5月3日。",
    "  two  spaces\n\n\tand lines \n 青州\n",
    "emoji 👩‍👩‍👧‍👦 龘靐齉 Ελληνικά \x00 é",
    "a user types <s> and </s> and <|pause|> and <unk>",
    " ",
    "",
]


def trained(texts: list[str], **options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.splitlines()),
        model_writer=model,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def llama(chronicle_texts: list[str]) -> bytes:
    """Trained as Llama's: BPE, bytes for what it doesn't know, spaces kept, digits apart."""
    return trained(
        [chronicle_texts[0][:40_000]],
        vocab_size=1500,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        control_symbols=["<|pause|>"],
    )


def folder_of(folder: Path, model: bytes, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def folder(tmp_path: Path, llama: bytes) -> Path:
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return folder_of(tmp_path / "llama", llama, add_bos_token=True, add_eos_token=False, legacy=True, **config)


def test_ids_and_text_equal_sentencepiece(folder: Path, llama: bytes) -> None:
    ours = Tokenizer.load(folder)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=llama)
    assert ours.vocab_size == theirs.get_piece_size()
    assert (ours.bos_id, ours.eos_id, ours.unknown_id) == (theirs.bos_id(), theirs.eos_id(), theirs.unk_id())
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids) == text
        stream = StreamDecoder(ours)
        assert "".join(map(stream.feed, ids)) + stream.flush() == text
    assert ours.encode_batch(TEXTS) == theirs.encode(TEXTS)


def test_control_tokens_are_obeyed_when_asked_only(folder: Path) -> None:
    ours = Tokenizer.load(folder)
    assert list(ours.special_tokens) == ["<s>", "</s>", "<|pause|>"]
    assert not {*ours.special_tokens.values()} & {*ours.encode(TEXTS[4])}
    ids = ours.encode("<s>Karen <|pause|> 青州</s>", special=True)
    pause = ours.id_of("<|pause|>")
    assert ids == [1, *ours.encode("Karen "), pause, *ours.encode(" 青州"), 2]
    assert ours.decode(ids) == "<s>Karen <|pause|> 青州</s>"
    assert ours.decode(ids, skip_special=True) == "Karen  青州"
    assert ours.decode([ours.vocab_size + 5, *ids]) == ours.decode(ids)
    assert ours.opening_ids == [1]


def test_offsets_cover_each_character_with_all_its_bytes(folder: Path) -> None:
    ours = Tokenizer.load(folder)
    for text in (*TEXTS, "<s>龘 Karen</s>🙂"):
        ids, offsets = ours.encode_with_offsets(text, special=True)
        assert ids == ours.encode(text, special=True)
        assert {place for start, end in offsets for place in range(start, end)} == set(range(len(text)))
    place = "x龘".index("龘")
    assert ours.encode_with_offsets("x龘").offsets.count((place, place + 1)) == 3


def test_ids_equal_transformers(folder: Path) -> None:
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS[:4]:
        # Of a text that begins with a space they leave out the one that sentencepiece puts before every text.
        text = text.lstrip(" ")
        assert [*ours.opening_ids, *ours.encode(text)] == theirs(text)["input_ids"]
    assert ours.encode("<s>青州</s>", special=True) == theirs("<s>青州</s>", add_special_tokens=False)["input_ids"]


def test_a_saved_folder_behaves_the_same_and_transformers_reads_it(folder: Path, tmp_path: Path, llama: bytes) -> None:
    (folder / "added_tokens.json").write_text('{"<pad>": 1500, "<think>": 1501}')
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<pad>"}')
    ours = Tokenizer.load(folder)
    assert (ours.pad_id, ours.vocab_size) == (1500, 1502)
    assert list(ours.special_tokens) == ["<s>", "</s>", "<|pause|>", "<pad>"]
    # An added token that is no control token is one wherever it stands.
    assert ours.encode("a<think>b<pad>").count(1501) == 1
    assert 1500 not in ours.encode("a<think>b<pad>")
    ours.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.model").read_bytes() == llama
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert theirs.convert_tokens_to_ids(["<pad>", "<think>"]) == [1500, 1501]
    for again in (Tokenizer.load(tmp_path / "copy"), pickle.loads(pickle.dumps(ours))):
        assert again.config == ours.config
        assert again.fingerprint == ours.fingerprint
        for text in (*TEXTS, "a<think>b<pad>"):
            assert again.encode(text, special=True) == ours.encode(text, special=True)


def test_chatglm_has_control_tokens_behind_the_vocabulary(tmp_path: Path, llama: bytes) -> None:
    ours = Tokenizer.load(folder_of(tmp_path / "glm", llama, tokenizer_class="ChatGLMTokenizer"))
    names = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
    assert [ours.id_of(name) for name in names] == [1500, 1501, 1502, 1503, 1504]
    assert ours.opening_ids == [1501, 1503]
    assert ours.encode("a sop stops") == sentencepiece.SentencePieceProcessor(model_proto=llama).encode("a sop stops")
    assert ours.encode("[gMASK]sop王伟", special=True) == [1501, 1503, *ours.encode("王伟")]
    ours.save(tmp_path / "copy")
    assert Tokenizer.load(tmp_path / "copy").opening_ids == [1501, 1503]


def test_unigram_without_bytes_is_as_lossy_as_sentencepiece(tmp_path: Path, chronicle_texts: list[str]) -> None:
    model = trained([chronicle_texts[0][:20_000]], vocab_size=800, model_type="unigram")
    ours = Tokenizer.load(folder_of(tmp_path / "unigram", model))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


def test_a_tokenizer_model_beside_a_tokenizer_json_rides_along(tmp_path: Path, merged: Tokenizer, llama: bytes) -> None:
    merged.save(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(llama)
    ours = Tokenizer.load(tmp_path)
    assert ours.encode(TEXTS[0]) == merged.encode(TEXTS[0])
    ours.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.model").read_bytes() == llama
    assert ours.fingerprint == merged.fingerprint


@pytest.mark.parametrize("damage", [slice(0), slice(700), slice(700, None)], ids=["empty", "cut short", "beheaded"])
def test_a_damaged_tokenizer_model_is_refused(tmp_path: Path, llama: bytes, damage: slice) -> None:
    folder_of(tmp_path, llama[damage])
    with pytest.raises(
        ValueError, match=r"tokenizer\.model can't be read as a tokenizer .*Fetch or save the file again"
    ):
        Tokenizer.load(tmp_path)


def test_half_a_surrogate_pair_is_a_replacement_character(folder: Path) -> None:
    ours = Tokenizer.load(folder)
    assert ours.encode("a\ud800") == ours.encode("a?")
