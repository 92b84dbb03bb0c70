"""The Python front door: the list of names is held, and each does what it says, transformers being the judge."""

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import handscroll as hs
from handscroll.generation.engine import CHUNK
from handscroll.kvcache import BlockMemory, SlidingWindow
from handscroll.kvcache.block_memory import BlockMemoryCache
from handscroll.measure import Table
from handscroll.model import ModelConfig, Transformer
from handscroll.recipes.folders import Loaded
from handscroll.recipes.generate import Token
from handscroll.text import Tokenizer
from handscroll.training import Progress

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps. " * 9,
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。" * 9,
]
WINDOW = 64
ENDS = (".", "!", "?", "。", "！", "？", "\n")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 320)


def make_model(vocab_size: int, **changes: Any) -> Transformer:
    sizes = {"width": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_width": 8, "feedforward_width": 48}
    return Transformer(ModelConfig(vocab_size=vocab_size, max_positions=WINDOW, **{**sizes, **changes}), seed=4)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return make_model(tokenizer.vocab_size, qkv_bias=True)


@pytest.fixture(scope="module")
def folder(model: Transformer, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    hs.save(model, tokenizer, path)
    return path


def test_the_public_names_and_what_they_take() -> None:
    assert hs.__all__ == ["evaluate", "generate", "load", "save", "train"]
    asked = {name: [*inspect.signature(getattr(hs, name)).parameters] for name in hs.__all__}
    assert asked == {
        "evaluate": ["model", "tokenizer", "suite", "policies", "options"],
        "generate": [
            "model",
            "tokenizer",
            "prompt",
            "context",
            "cache",
            "max_new_tokens",
            "temperature",
            "seed",
            "stop_ids",
            "on_read",
            "options",
        ],
        "load": ["folder_or_hub_id", "dtype", "device", "finite"],
        "save": ["model", "tokenizer", "folder"],
        "train": ["recipe", "resume"],
    }


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, handscroll; assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_load_gives_what_was_saved(folder: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    loaded = hs.load(folder)
    assert isinstance(loaded, Loaded)
    again, words = loaded
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert words.encode("狐狸 and fox") == tokenizer.encode("狐狸 and fox")
    assert (words.bos_id, words.eos_id, words.pad_id) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    assert set(words.stop_ids) == set(tokenizer.stop_ids)
    tokens_BT = torch.tensor([words.encode("The quick brown fox")])
    logits_BTV = again(tokens_BT)
    assert logits_BTV.shape == (1, tokens_BT.shape[1], tokenizer.vocab_size)
    assert logits_BTV.dtype == torch.float32


@pytest.mark.parametrize("changes", [{"qkv_bias": True}, {"tied_embeddings": True, "num_kv_heads": 1}], ids=str)
def test_transformers_reads_the_folder_and_writes_the_same(
    changes: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = make_model(tokenizer.vocab_size, **changes)
    hs.save(model, tokenizer, tmp_path / "model")
    their_model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    their_words = AutoTokenizer.from_pretrained(tmp_path / "model")
    prompt = "The quick brown 天地"
    encoded = their_words(prompt, return_tensors="pt")
    assert encoded["input_ids"][0].tolist() == tokenizer.encode(prompt)
    with torch.no_grad():
        theirs = their_model.generate(**encoded, max_new_tokens=24, do_sample=False)[0, encoded["input_ids"].shape[1] :]
    for cache in ({"policy": "full"}, {"policy": "block_memory", "window": 24}):
        ours = [*hs.generate(model, tokenizer, prompt, cache=cache, max_new_tokens=24)]
        assert [token.id for token in ours] == theirs.tolist()
        assert "".join(token.text for token in ours) == their_words.decode(theirs, skip_special_tokens=True)


def test_transformers_stops_at_the_same_tokens(folder: Path, tokenizer: Tokenizer) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(folder).generation_config
    assert set(theirs.eos_token_id) == set(tokenizer.stop_ids)
    assert (theirs.bos_token_id, theirs.pad_token_id) == (tokenizer.bos_id, tokenizer.pad_id)


def test_a_loaded_folder_goes_back_with_all_that_it_held(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"unknown_key": [1, {"deep": True}]}
    hs.save(hs.load(folder).model, tokenizer, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    (tmp_path / "copy" / "README.md").write_text("mine")
    (tmp_path / "copy" / "generation_config.json").write_text('{"top_p": 0.9}')
    hs.save(*hs.load(tmp_path / "copy"), tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "config.json").read_text()) == config
    assert (tmp_path / "copy" / "README.md").read_text() == "mine"
    generation = json.loads((tmp_path / "copy" / "generation_config.json").read_text())
    assert generation["top_p"] == 0.9
    assert generation["eos_token_id"] == [*tokenizer.stop_ids]
    weights = [path / "model.safetensors" for path in (folder, tmp_path / "copy")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_save_refuses_a_file_and_leaves_it(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("mine")
    with pytest.raises(ValueError, match="is a file: give a folder"):
        hs.save(model, tokenizer, path)
    assert path.read_text() == "mine"
    assert [*tmp_path.iterdir()] == [path]


def test_model_and_tokenizer_must_belong_together(folder: Path, model: Transformer, tmp_path: Path) -> None:
    for size in (400, 265):
        other = Tokenizer.train([" ".join(TEXTS), "another vocabulary with more words to merge " * 20], size)
        with pytest.raises(ValueError, match="they don't belong together"):
            hs.save(model, other, tmp_path / "model")
        assert not (tmp_path / "model").exists()
    hs.save(*hs.load(folder), tmp_path / "model")
    other.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"the tokenizer has 265 tokens and .*model embeddings for 320"):
        hs.load(tmp_path / "model")


def test_what_is_not_there_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        hs.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        hs.load(tmp_path)


def test_texts_of_tokens_are_whole_characters(model: Transformer, tokenizer: Tokenizer) -> None:
    """An untrained model writes single bytes; what is shown of them is what all of them together decode to."""
    tokens = [*hs.generate(model, tokenizer, "天地", max_new_tokens=60, temperature=1.5, seed=1, stop_ids=())]
    assert all(isinstance(token, Token) for token in tokens)
    assert len(tokens) == 60
    expected = tokenizer.decode([token.id for token in tokens], skip_special=True)
    assert "".join(token.text for token in tokens) == expected


def test_a_seed_decides_what_is_drawn(model: Transformer, tokenizer: Tokenizer) -> None:
    def ids(**options: Any) -> list[int]:
        return [token.id for token in hs.generate(model, tokenizer, "The", max_new_tokens=20, **options)]

    assert ids(temperature=1.0, seed=1) == ids(temperature=1.0, seed=1)
    assert ids(temperature=1.0, seed=1) != ids(temperature=1.0, seed=2)
    assert ids(seed=1) == ids(seed=2)


def test_a_stop_token_ends_the_text(model: Transformer, tokenizer: Tokenizer) -> None:
    free = [token.id for token in hs.generate(model, tokenizer, "The", max_new_tokens=9, stop_ids=())]
    stopped = [*hs.generate(model, tokenizer, "The", max_new_tokens=9, stop_ids=[free[3]])]
    assert [token.id for token in stopped] == free[: free.index(free[3]) + 1]


def test_ways_of_remembering_are_named_in_three_ways(model: Transformer, tokenizer: Tokenizer) -> None:
    def ids(cache: Any) -> list[int]:
        return [token.id for token in hs.generate(model, tokenizer, TEXTS[0], cache=cache, max_new_tokens=8)]

    assert ids({"policy": "sliding_window", "window": 8}) == ids(SlidingWindow(window=8))
    assert ids("sliding_window") == ids(SlidingWindow(window=WINDOW))
    assert ids(SlidingWindow(window=8)) != ids("full")


def test_a_long_prompt_is_told_of_and_read_as_in_one_go(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handscroll.recipes.generate.CHUNK", 10**9)
    text = "".join(TEXTS) * 14
    expected = [*hs.generate(model, tokenizer, text, max_new_tokens=8)]
    monkeypatch.undo()
    told: list[tuple[int, int]] = []
    assert [*hs.generate(model, tokenizer, text, max_new_tokens=8, on_read=lambda *each: told.append(each))] == expected
    total = len(tokenizer.encode(text))
    assert total > CHUNK
    assert told[0] == (CHUNK, total)
    assert told[-1] == (total, total)


def test_blocks_that_end_with_sentences_are_told_where_these_end(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the last chunk of the prompt, in it, and while writing."""
    started: list[BlockMemoryCache] = []
    start = BlockMemory.start

    def watched(*given: Any) -> BlockMemoryCache:
        started.append(start(*given))
        return started[-1]

    monkeypatch.setattr(BlockMemory, "start", watched)
    monkeypatch.setattr("handscroll.recipes.generate.CHUNK", 128)
    text = "The dog sleeps. " * 32
    policy = BlockMemory(cut="sentences", block_size=12, blocks=2, window=12)
    written = [*hs.generate(model, tokenizer, text, cache=policy, max_new_tokens=40)]
    ids = [*tokenizer.encode(text), *(token.id for token in written)]
    edges = started[0].layers[0].rows[0].edges_N.tolist()  # type: ignore[attr-defined]
    assert len(ids) > edges[-1] > len(ids) - 40
    for first, end in pairwise(edges):
        inside = [n + 1 for n in range(first + 5, first + 12) if tokenizer.decode(ids[n : n + 1]).endswith(ENDS)]
        assert end == (inside[-1] if inside else first + 12)
    assert len({end - first for first, end in pairwise(edges)}) > 1


def test_a_conversation_is_answered_after_its_context(model: Transformer, tokenizer: Tokenizer) -> None:
    message = {"role": "user", "content": "Who?"}
    answer = [*hs.generate(model, tokenizer, [message], context="A fox.", cache="full", max_new_tokens=5)]
    chat = [tokenizer.id_of("<|user|>"), *tokenizer.encode("Who?")]
    ids = [*tokenizer.encode("A fox.\n"), *chat, tokenizer.id_of("<|end|>"), tokenizer.id_of("<|assistant|>")]
    for token in answer:
        assert token.id == int(model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token.id)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": []}, "there are no messages"),
        (
            {"cache": "blok_memory"},
            "unknown cache policy 'blok_memory': known are full, sliding_window, attention_sinks, heavy_hitters",
        ),
        ({"cache": {"policy": "full", "window": 3}}, "full has no option 'window'"),
        ({"cache": {"policy": "sliding_window", "window": -3}}, "window=-3"),
        ({"cache": {"policy": "block_memory", "blocks": 99}}, "but the model was trained on 64"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0"),
    ],
    ids=str,
)
def test_impossible_options_are_refused_at_once(
    options: dict[str, Any], says: str, model: Transformer, tokenizer: Tokenizer
) -> None:
    with pytest.raises(ValueError, match=says):
        hs.generate(model, tokenizer, **{"prompt": "The", **options})


def test_a_text_that_cannot_be_remembered_is_refused(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handscroll.model.footprint.available_memory", lambda device="cpu": 3_000_000)
    text = "fox " * 9000
    hs.generate(model, tokenizer, text, cache={"policy": "sliding_window", "window": 64})
    with pytest.raises(MemoryError, match=r"remembering .* tokens needs .* MB, but 3.0 MB of memory is free"):
        hs.generate(model, tokenizer, text, cache="full")
    # Elsewhere, or in few bits, the same text may fit.
    hs.generate(model, tokenizer, text, cache={"policy": "offloaded", "to": "file"})


def test_train_takes_a_mapping_and_tells_of_every_step(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(TEXTS), encoding="utf-8")
    recipe = {
        "model": {"width": 16, "layers": 1, "heads": 2, "window": 16},
        "tokenizer": {"vocab_size": 270},
        "data": {"files": str(tmp_path / "text.txt")},
        "train": {"steps": 3, "windows_per_step": 2},
        "out": str(tmp_path / "run"),
    }
    steps: Iterator[Progress] = hs.train(recipe)
    assert [each.step for each in steps] == [1, 2, 3]
    assert hs.load(tmp_path / "run" / "model").model.config.max_positions == 16


def test_evaluate_gives_a_table(model: Transformer, tokenizer: Tokenizer) -> None:
    table = hs.evaluate(model, tokenizer, suite="recall", policies=["full", "block_memory"], tokens=300, questions=1)
    assert isinstance(table, Table)
    assert table.column("policy") == ["full", "block_memory"]
    with pytest.raises(ValueError, match="unknown suite 'recal'"):
        hs.evaluate(model, tokenizer, suite="recal")
