"""Folders in and out: what loading found is what saving gives back, and transformers reads what was written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from handscroll.model import MissingCheckpoint, ModelConfig, RopeOptions, Transformer, checkpoint
from handscroll.model.checkpoint import lay_by_columns, load_model, load_shapes, resolve, save_model
from handscroll.model.families import FAMILIES
from handscroll.model.footprint import parameter_count
from handscroll.model.position import AlibiOptions, LearnedOptions
from handscroll.model.slots import EmbeddingOptions

Make = Callable[..., Path]
SCRATCH = ModelConfig(
    vocab_size=97,
    width=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_width=20,
    feedforward_width=80,
    max_positions=77,
    position=RopeOptions(theta=123456.0),
    norm_eps=3e-5,
)


def read_tensors(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Name to dtype and bytes, of every safetensors file of a folder."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                found[name] = (str(tensor.dtype), tensor.view(torch.uint8).numpy().tobytes())
    return found


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def edit_config(folder: Path, *removed: str, **changes: Any) -> None:
    config = {key: value for key, value in read_config(folder).items() if key not in removed} | changes
    (folder / "config.json").write_text(json.dumps(config))


def assert_round_trip(folder: Path, out: Path) -> None:
    """Every tensor's name, dtype and bytes and every key, in order."""
    save_model(load_model(folder), out)
    assert read_tensors(out) == read_tensors(folder)
    assert list(read_config(out).items()) == list(read_config(folder).items())


def test_round_trip(pair: Any, tmp_path: Path) -> None:
    assert_round_trip(pair.folder, tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_round_trip_of_half_precision(folder_of: Make, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = folder_of("qwen2-gqa3-head24", dtype)
    assert {parameter.dtype for parameter in load_model(folder).parameters()} == {dtype}
    assert_round_trip(folder, tmp_path / "out")


def test_round_trip_keeps_unknown_keys_and_derived_tensors(folder_of: Make, tmp_path: Path) -> None:
    """As early Llama checkpoints are: frequencies beside the weights, norms in float32, code named in auto_map."""
    folder = folder_of("llama", torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.rand(8)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    edit_config(folder, zeta={"日本": [1, None, 1e-30]}, auto_map={"AutoModelForCausalLM": "evil.Model"})
    assert_round_trip(folder, tmp_path / "out")


def test_tied_head_in_the_file_stays_there(folder_of: Make, load_theirs: Any, tmp_path: Path, tokens_BT: Any) -> None:
    folder = folder_of("llama-gqa2-tied")
    assert "lm_head.weight" not in read_tensors(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert_round_trip(folder, tmp_path / "out")
    with torch.no_grad():
        ours, theirs = load_model(folder)(tokens_BT), load_theirs(tmp_path / "out")(tokens_BT).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_sharded(folder_of: Make, load_theirs: Any, tmp_path: Path, tokens_BT: torch.Tensor) -> None:
    folder = folder_of("qwen2-gqa4", max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    model = load_model(folder)
    save_model(model, tmp_path / "out", shard_bytes=30_000)
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 2
    # A tensor is never cut, so only a shard of one tensor may be larger.
    assert all(path.stat().st_size < 30_000 + 4_000 or len(load_file(path)) == 1 for path in shards)
    assert read_tensors(tmp_path / "out") == read_tensors(folder)
    with torch.no_grad():
        theirs = load_theirs(tmp_path / "out")(tokens_BT).logits
        torch.testing.assert_close(model(tokens_BT), theirs, atol=1e-4, rtol=0)
        assert torch.equal(load_model(tmp_path / "out")(tokens_BT), model(tokens_BT))


def test_pickled_weights(folder_of: Make, pair_of: Any, tokens_BT: torch.Tensor) -> None:
    folder = folder_of("llama-gqa2-tied")
    state = pair_of("llama-gqa2-tied").theirs.state_dict()
    assert "lm_head.weight" in state
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with torch.no_grad():
        expected = pair_of("llama-gqa2-tied").ours(tokens_BT)
        assert torch.equal(load_model(folder)(tokens_BT), expected)


@pytest.mark.parametrize("name", ["llama-gqa2-tied", "qwen2-gqa3-head24"])
def test_config_of_transformers_4(name: str, folder_of: Make, pair_of: Any, tokens_BT: torch.Tensor) -> None:
    folder = folder_of(name)
    pair = pair_of(name)
    removed = ("rope_parameters", "dtype", "layer_types")
    edit_config(folder, *removed, rope_theta=pair.ours.config.position.theta, rope_scaling=None, torch_dtype="float32")
    model = load_model(folder)
    assert model.config == pair.ours.config
    with torch.no_grad():
        assert torch.equal(model(tokens_BT), pair.ours(tokens_BT))
    assert_round_trip(folder, folder.parent / "out")


def test_missing_keys_take_the_defaults_of_transformers(folder_of: Make, load_theirs: Any) -> None:
    folder = folder_of("llama")
    optional = ("num_key_value_heads", "head_dim", "rope_parameters", "rms_norm_eps", "attention_bias", "mlp_bias")
    edit_config(folder, *optional, "tie_word_embeddings", "max_position_embeddings", "hidden_act")
    config, theirs = load_model(folder).config, load_theirs(folder).config
    assert config.num_kv_heads == theirs.num_key_value_heads == 4
    assert config.head_width == theirs.head_dim == 16
    assert config.position.theta == theirs.rope_parameters["rope_theta"]
    assert config.norm_eps == theirs.rms_norm_eps
    assert config.max_positions == theirs.max_position_embeddings
    assert not config.tied_embeddings


def test_dtype_on_load(folder_of: Make, load_theirs: Any, tmp_path: Path, tokens_BT: torch.Tensor) -> None:
    """A bf16 file read and saved as float32 must say so: readers believe the config and would cut it down again."""
    folder = folder_of("llama-gqa4-head20-bias", torch.bfloat16)
    model = load_model(folder, dtype=torch.float32)
    with torch.no_grad():
        logits_BTV = model(tokens_BT)
        torch.testing.assert_close(logits_BTV, load_theirs(folder)(tokens_BT).logits, atol=1e-4, rtol=0)
    save_model(model, tmp_path / "out")
    assert read_config(folder)["dtype"] == "bfloat16"
    assert read_config(tmp_path / "out")["dtype"] == "float32"
    assert {dtype for dtype, _ in read_tensors(tmp_path / "out").values()} == {"torch.float32"}
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "out")(tokens_BT), logits_BTV)


MULTI_HEAD: dict[str, Any] = {"num_kv_heads": 4, "head_width": 12, "feedforward_width": 192}
BIASED = MULTI_HEAD | {"norm": "layer", "feedforward": "gelu_tanh"}
BIASED |= {"qkv_bias": True, "output_bias": True, "feedforward_bias": True}
NEW_MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "llama": ({}, "llama"),
    "llama-tied": ({"tied_embeddings": True}, "llama"),
    "llama-biases": ({"qkv_bias": True, "output_bias": True, "feedforward_bias": True}, "llama"),
    "qwen2": ({"qkv_bias": True}, "qwen2"),
    "qwen2-window": ({"qkv_bias": True, "sliding_window": 6, "windowed_from": 1}, "qwen2"),
    "mistral-window": ({"sliding_window": 6}, "mistral"),
    "qwen3": ({"qk_norm": True}, "qwen3"),
    "qwen3-window": ({"qk_norm": True, "head_width": 12, "sliding_window": 6, "tied_embeddings": True}, "qwen3"),
    "stablelm": ({"norm": "layer", "head_width": 12}, "stablelm"),
    "stablelm-tied-bias": ({"norm": "layer", "head_width": 12, "qkv_bias": True, "tied_embeddings": True}, "stablelm"),
    "glm": ({"position": RopeOptions(5e4, "adjacent", 0.5)}, "glm"),
    "glm-bias-tied": ({"position": RopeOptions(pairing="adjacent"), "qkv_bias": True, "tied_embeddings": True}, "glm"),
    "glm4": ({"position": RopeOptions(5e4, "adjacent", 0.5), "norm_placement": "sandwich"}, "glm4"),
    "phi3": ({"position": RopeOptions(share=0.5), "head_width": 12}, "phi3"),
    "stablelm-half": ({"position": RopeOptions(share=0.5), "norm": "layer", "head_width": 12}, "stablelm"),
    "gpt2": (BIASED | {"position": LearnedOptions()}, "gpt2"),
    "gpt2-narrow": (BIASED | {"position": LearnedOptions(), "feedforward_width": 60}, "gpt2"),
    "bloom": (BIASED | {"position": AlibiOptions(), "embedding": EmbeddingOptions(norm=True)}, "bloom"),
    "mpt": (MULTI_HEAD | {"position": AlibiOptions(), "feedforward": "gelu", "norm": "layer_no_bias"}, "mpt"),
    "qwen2-tied": ({"qkv_bias": True, "tied_embeddings": True, "head_width": 12}, "qwen2"),
}


@pytest.mark.parametrize(("changes", "family"), NEW_MODELS.values(), ids=NEW_MODELS.keys())
def test_new_model(changes: Any, family: str, load_theirs: Any, tmp_path: Path, tokens_BT: torch.Tensor) -> None:
    model = Transformer(dataclasses.replace(SCRATCH, **changes), seed=9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    save_model(model, tmp_path, extra_config={"eos_token_id": 5})
    assert read_config(tmp_path)["model_type"] == family
    assert ("lm_head.weight" in read_tensors(tmp_path)) != model.config.tied_embeddings
    again = load_model(tmp_path)
    assert again.config == model.config
    theirs = load_theirs(tmp_path)
    assert theirs.generation_config.eos_token_id == 5
    # Left out, they would be a Llama's 1 and 2, which are ordinary tokens here.
    assert theirs.config.bos_token_id is theirs.config.pad_token_id is None
    with torch.no_grad():
        assert torch.equal(again(tokens_BT), model(tokens_BT))
        torch.testing.assert_close(theirs(tokens_BT).logits, model(tokens_BT), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("gpt2", {"activation_function": "relu"}, r"activation_function='relu' isn't supported yet: only 'gelu_new'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx=True isn't supported"),
        ("gpt2", {"n_head": 5}, r"a model of width 64 can't have 5 heads of equal width"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, r"_post_layernorm=True isn't supported"),
        ("mpt", {"attn_config": {"alibi": False}}, r"attn_config\.alibi=False isn't supported: only True"),
        ("mpt", {"attn_config": {"clip_qkv": 6.0}}, r"attn_config\.clip_qkv=6\.0 isn't supported: only None"),
        ("mpt", {"attn_config": [1]}, r"attn_config=\[1\] is not a mapping"),
        ("glm", {"partial_rotary_factor": 0.1}, r"partial_rotary_factor=0\.1.*remove all but one"),
    ],
)
def test_what_a_family_does_not_have_is_refused(name: str, changes: Any, says: str, folder_of: Make) -> None:
    folder = folder_of(name)
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=says):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"position": RopeOptions(share=0.5)}, r"a llama checkpoint can't say pairing='halves', share=0\.5"),
        ({"position": RopeOptions(pairing="adjacent")}, r"can't say pairing='adjacent', share=1$"),
        ({"position": AlibiOptions()}, r"rotary positions are all that a llama checkpoint can say"),
    ],
)
def test_positions_that_a_llama_can_not_say(changes: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FAMILIES["llama"].write(dataclasses.replace(SCRATCH, **changes))


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
def test_names_of_the_first_files(name: str, folder_of: Make, pair_of: Any, tmp_path: Path, tokens_BT: Tensor) -> None:
    """Without a prefix, with masks among the tensors, under older keys: the same model, and all of it comes back."""
    folder, expected = folder_of(name), pair_of(name).ours
    found = load_file(folder / "model.safetensors")
    tensors = {tensor_name.removeprefix("transformer."): tensor for tensor_name, tensor in found.items()}
    if name == "gpt2":
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 8, 8).tril()
    else:
        content = read_config(folder)
        older = {"n_embed": content["hidden_size"], "num_attention_heads": content["n_head"]}
        edit_config(folder, "hidden_size", "n_head", **older)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_model(folder)
    assert model.config == expected.config
    assert torch.equal(model(tokens_BT), expected(tokens_BT))
    save_model(model, tmp_path / "out")
    assert read_config(tmp_path / "out") == read_config(folder)
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert {f"transformer.{each}" for each in tensors} == again.keys()
    assert all(torch.equal(again[f"transformer.{each}"], tensor) for each, tensor in tensors.items())


@pytest.mark.parametrize(
    "changes",
    [{"output_bias": True}, {"qkv_bias": True, "feedforward_bias": True}, {"sliding_window": 6, "windowed_from": 1}],
)
def test_new_model_that_no_other_family_can_express(
    changes: dict[str, bool], tmp_path: Path, tokens_BT: torch.Tensor
) -> None:
    model = Transformer(dataclasses.replace(SCRATCH, **changes))
    save_model(model, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "handscroll"
    again = load_model(tmp_path / "out")
    assert again.config == model.config
    assert torch.equal(again(tokens_BT), model(tokens_BT))


@pytest.mark.parametrize("name", ["llama-mqa-head6-mlp-bias", "qwen2-tied"])
def test_changed_config_is_written_and_the_rest_stays(
    name: str, folder_of: Make, load_theirs: Any, tmp_path: Path, tokens_BT: torch.Tensor
) -> None:
    """A model stretched, cut and resized after loading: only the keys that say so change."""
    folder = folder_of(name)
    edit_config(folder, mark="kept")
    before = load_model(folder)
    config = dataclasses.replace(
        before.config, max_positions=999, position=RopeOptions(5e5), num_layers=1, vocab_size=50
    )
    model = Transformer(config)
    model.source = before.source
    save_model(model, tmp_path / "out")
    assert load_model(tmp_path / "out").config == config
    old, new = read_config(folder), read_config(tmp_path / "out")
    changed = {"max_position_embeddings", "rope_parameters", "num_hidden_layers", "vocab_size", "layer_types"}
    assert {key for key in old if old[key] != new[key]} <= changed
    assert list(old) == list(new)
    assert new["rope_parameters"] == {"rope_theta": 5e5, "rope_type": "default"}
    tokens_BT = tokens_BT % 50
    with torch.no_grad():
        torch.testing.assert_close(load_theirs(tmp_path / "out")(tokens_BT).logits, model(tokens_BT), atol=1e-4, rtol=0)


def test_unknown_module_is_refused(tmp_path: Path) -> None:
    model = Transformer(SCRATCH)
    model.layers[0].attention.q.low_rank = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"no place for layers\.0\.attention\.q\.low_rank\.weight: merge or detach"):
        save_model(model, tmp_path / "out")


def test_saving_over_the_folder_that_is_mapped(folder_of: Make, tmp_path: Path, tokens_BT: torch.Tensor) -> None:
    folder = folder_of("llama", max_shard_size="40KB")
    (folder / "tokenizer.json").write_text("{}")
    model, reader = load_model(folder), load_model(folder)
    with torch.no_grad():
        expected = reader(tokens_BT)
        for parameter in model.parameters():
            parameter.mul_(1.5)
        trained = model(tokens_BT)
        # Training changes this process's copy, never the file.
        assert torch.equal(load_model(folder)(tokens_BT), expected)
        save_model(model, folder)
        assert torch.equal(reader(tokens_BT), expected)
        assert torch.equal(load_model(folder)(tokens_BT), trained)
    # The old shards and their index would only mislead.
    files = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == files


@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_save_changes_nothing(
    exists: bool, folder_of: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = folder_of("llama") if exists else tmp_path / "new"
    before = {path.name: path.read_bytes() for path in folder.iterdir()} if exists else None

    def fail(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", fail)
    with pytest.raises(ValueError, match=r"can't be written \(No space left on device\): give another folder"):
        save_model(Transformer(SCRATCH), folder)
    if exists:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    else:
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_output_that_is_no_folder(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"can't be written"):
        save_model(Transformer(SCRATCH), tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_loading_draws_nothing(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_rng_state()
    monkeypatch.setattr("handscroll.model.transformer.initialize", None)
    load_model(pair.folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.requires_grad for parameter in load_model(pair.folder).parameters())


def test_resolve_leaves_a_folder_alone(tmp_path: Path) -> None:
    assert resolve(tmp_path) == resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(("asked", "revision"), [("", None), ("@v1.0", "v1.0"), ("@refs/pr/7", "refs/pr/7")])
def test_resolve_fetches_an_id(
    asked: str, revision: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def fetch(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repo, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    # Without safetensors the older weights are fetched, too.
    assert resolve(f"org/name-1.5B{asked}") == tmp_path
    assert [call[2][-1] for call in calls] == ["vocab.txt", "pytorch_model*.bin"]
    calls.clear()
    (tmp_path / "model.safetensors").touch()
    assert resolve(f"org/name-1.5B{asked}") == tmp_path
    ((repo, fetched, patterns),) = calls
    assert (repo, fetched) == ("org/name-1.5B", revision)
    assert {"*.json", "*.safetensors", "*.model"} <= set(patterns)
    assert not any(pattern.endswith((".py", ".bin")) for pattern in patterns)


def test_resolve_without_network() -> None:
    with pytest.raises(MissingCheckpoint, match=r"no-org/no-model is neither a folder here nor .* path of the folder"):
        resolve("no-org/no-model")


@pytest.mark.parametrize("given", ["", "missing", "./org/name", "/no/such/folder", "a/b/c", "../x/y"])
def test_resolve_refuses_a_missing_folder(given: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    monkeypatch.chdir(tmp_path)
    if given:
        with pytest.raises(FileNotFoundError, match=r"is not a folder: give a folder that holds config\.json"):
            resolve(given)
    else:
        assert resolve(given) == Path()


def test_matrices_are_laid_out_for_single_tokens(tmp_path: Path) -> None:
    """Only where numbers lie changes: weights and files are equal bit for bit."""
    model = Transformer(ModelConfig(50, 16, 2, 2, 1, 8, 24, 64, qkv_bias=True), seed=1)
    save_model(model, tmp_path / "a")
    loaded = load_model(tmp_path / "a")
    lay_by_columns(loaded)
    matrix = loaded.layers[0].attention.q.weight
    assert matrix.t().is_contiguous()
    assert all(torch.equal(left, right) for left, right in zip(model.parameters(), loaded.parameters(), strict=True))
    save_model(loaded, tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def assert_shapes(folder: Path, model: Transformer) -> None:
    shapes = load_shapes(folder)
    assert shapes.config == model.config
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    assert {name: (each.shape, each.dtype) for name, each in shapes.parameters.items()} == expected
    assert all(each.is_meta for each in shapes.parameters.values())
    assert sum(each.numel() for each in shapes.parameters.values()) == parameter_count(model.config)


def test_shapes_are_those_of_the_files(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "read_weights", None)
    assert_shapes(pair.folder, pair.ours)
    stored = load_shapes(pair.folder).stored_bytes
    assert stored == sum(len(content) for _, content in read_tensors(pair.folder).values())


def test_shapes_of_shards_and_of_older_files(folder_of: Make, tmp_path: Path) -> None:
    folder = folder_of("qwen2-gqa4", torch.bfloat16, max_shard_size="40KB")
    assert_shapes(folder, load_model(folder))
    whole = folder_of("llama-gqa2-tied")
    torch.save(load_file(whole / "model.safetensors"), whole / "pytorch_model.bin")
    model = load_model(whole)
    (whole / "model.safetensors").unlink()
    assert_shapes(whole, model)
    torch.save(
        load_file(next(folder.glob("model-*"))), whole / "pytorch_model.bin", _use_new_zipfile_serialization=False
    )
    with pytest.raises(ValueError, match=r"the weights don't belong to its config\.json"):
        load_shapes(whole)
