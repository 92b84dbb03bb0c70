"""BERT, ALBERT and ERNIE against transformers: every class's numbers of padded rows with segments, and folders."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from handscroll.kvcache import Full
from handscroll.model import Layout, ModelConfig, Transformer, load_model, save_model
from handscroll.model.families import FAMILIES
from handscroll.model.footprint import parameter_count
from handscroll.model.heads import (
    MaskedLmOptions,
    PretrainingOptions,
    SequenceClassificationOptions,
    StatesOptions,
    TokenClassificationOptions,
)
from handscroll.model.slots import EmbeddingOptions, LearnedOptions

TOLERANCE = 1e-4
LENGTHS = (23, 9, 1)
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 40,
}
STEMS = {"bert": "Bert", "albert": "Albert", "ernie": "Ernie"}
TASKS = ["Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification", "ForTokenClassification"]
TASKS += ["ForQuestionAnswering"]
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {},
    "bert-deep-tanh": {"num_hidden_layers": 3, "hidden_act": "gelu_new", "type_vocab_size": 3, "num_labels": 4},
    "bert-one-head-relu-untied": {
        "num_attention_heads": 1,
        "hidden_act": "relu",
        "tie_word_embeddings": False,
        "layer_norm_eps": 1e-3,
    },
    "albert": {"embedding_size": 12},
    "albert-deep-gelu": {"embedding_size": 48, "num_hidden_layers": 4, "hidden_act": "gelu", "num_labels": 5},
    "albert-as-wide-untied": {"embedding_size": 32, "tie_word_embeddings": False, "type_vocab_size": 1},
    "ernie": {},
    "ernie-tasks": {"use_task_id": True, "task_type_vocab_size": 5, "num_labels": 3},
    "ernie-deep-relu": {"num_hidden_layers": 3, "hidden_act": "relu", "use_task_id": True, "hidden_size": 40},
}


class Pair(NamedTuple):
    ours: Transformer
    theirs: Any
    folder: Path


def make(name: str, task: str, folder: Path) -> Pair:
    stem, changes = STEMS[name.split("-")[0]], dict(SHAPES[name])
    if task in ("ForQuestionAnswering", "ForPreTraining"):
        changes.pop("num_labels", None)
    config = getattr(transformers, f"{stem}Config")(**{**SMALL, **changes})
    theirs = getattr(transformers, stem + task)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in theirs.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            is_norm = "norm" in key.lower() and tensor.dim() == 1
            tensor.copy_(
                1 + 0.3 * noise if is_norm else noise * (0.3 if tensor.dim() == 1 else tensor.shape[-1] ** -0.5)
            )
    theirs.save_pretrained(folder)
    return Pair(load_model(folder), theirs, folder)


def output_of(task: str, output: Any) -> list[torch.Tensor]:
    """Theirs, in the order of ours."""
    if task == "Model":
        return [output.last_hidden_state, output.pooler_output]
    if task == "ForPreTraining":
        relation = "sop_logits" if "sop_logits" in output else "seq_relationship_logits"
        return [output.prediction_logits, output[relation]]
    return [output.start_logits, output.end_logits] if task == "ForQuestionAnswering" else [output.logits]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", list(SHAPES))
def test_padded_rows_with_segments_equal_transformers(name: str, task: str, tmp_path: Path) -> None:
    ours, theirs, folder = make(name, task, tmp_path / "theirs")
    generator = torch.Generator().manual_seed(3)
    shape = (len(LENGTHS), LENGTHS[0])
    tokens_BT = torch.randint(0, 97, shape, generator=generator)
    kinds_BT = torch.randint(0, ours.config.embedding.segments, shape, generator=generator)
    mask_BT = torch.arange(LENGTHS[0]) < torch.tensor(LENGTHS)[:, None]
    inputs = {"input_ids": tokens_BT, "attention_mask": mask_BT.long(), "token_type_ids": kinds_BT}
    layout = dataclasses.replace(Layout.rows(LENGTHS), kinds_BT=kinds_BT)
    if ours.config.embedding.tasks:
        inputs["task_type_ids"] = torch.randint(0, ours.config.embedding.tasks, shape, generator=generator)
        layout = dataclasses.replace(layout, tasks_BT=inputs["task_type_ids"])
    with torch.no_grad():
        found, expected = ours(tokens_BT, layout), output_of(task, theirs(**inputs))
        plain, expected_plain = ours(tokens_BT), output_of(task, theirs(input_ids=tokens_BT))
    for given, wanted in ((found, expected), (plain, expected_plain)):
        for one, other in zip([given] if isinstance(given, torch.Tensor) else given, wanted, strict=True):
            rows = mask_BT if one.shape[:2] == mask_BT.shape else slice(None)
            torch.testing.assert_close(one[rows], other[rows], atol=TOLERANCE, rtol=0)
    assert parameter_count(ours.config) == sum(each.numel() for each in ours.parameters())
    check_round_trip(ours, theirs, folder, tmp_path / "again")


def check_round_trip(ours: Transformer, theirs: Any, folder: Path, again: Path) -> None:
    """config.json and tensors as they were, and a folder that transformers reads without a complaint."""
    save_model(ours, again)
    assert json.loads((again / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    before, after = (load_file(each / "model.safetensors") for each in (folder, again))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    loaded, told = type(theirs).from_pretrained(again, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert torch.equal(loaded.get_input_embeddings().weight, ours.embedding.weight)


def test_hidden_states_and_weights_equal_transformers(tmp_path: Path) -> None:
    ours, theirs, _ = make("albert-deep-gelu", "ForMaskedLM", tmp_path)
    theirs.set_attn_implementation("eager")
    tokens_BT = torch.randint(0, 97, (2, 11), generator=torch.Generator().manual_seed(4))
    layout = Layout.rows([11, 11])
    layout = dataclasses.replace(layout, capture=layout.capture._replace(weights=True, layers=True))
    with torch.no_grad():
        found = ours.hidden(tokens_BT, layout)
        expected = theirs(tokens_BT, output_hidden_states=True, output_attentions=True)
    assert len(found.layers) == 4
    for one, other in zip(found.layers, expected.hidden_states[1:], strict=True):
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0)
    for one, other in zip(found.weights, expected.attentions, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def base(**changes: Any) -> ModelConfig:
    """BERT-base."""
    config = ModelConfig(
        vocab_size=30522,
        width=768,
        num_layers=12,
        num_heads=12,
        num_kv_heads=12,
        head_width=64,
        feedforward_width=3072,
        max_positions=512,
        position=LearnedOptions(),
        norm="layer",
        norm_eps=1e-12,
        feedforward="gelu",
        qkv_bias=True,
        output_bias=True,
        feedforward_bias=True,
        mask="bidirectional",
        norm_placement="post",
        embedding=EmbeddingOptions(segments=2, norm=True),
        head=StatesOptions(pooler=True),
        tied_embeddings=True,
    )
    return dataclasses.replace(config, **changes)


def test_bert_base_has_109482240_parameters() -> None:
    assert parameter_count(base()) == 109_482_240
    with torch.device("meta"):
        model = Transformer(base(), seed=None)
    assert sum(each.numel() for each in model.parameters()) == 109_482_240
    assert FAMILIES["bert"].read({"model_type": "bert", "architectures": ["BertModel"]}) == base(
        attention_dropout=0.1, residual_dropout=0.1, embedding_dropout=0.1
    )


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({"head": MaskedLmOptions()}, "bert"),
        ({"head": PretrainingOptions("relu"), "feedforward": "relu"}, "bert"),
        ({"head": SequenceClassificationOptions(3, pooler=True)}, "bert"),
        ({"head": TokenClassificationOptions(9), "shared_layers": True, "embedding": "narrow"}, "albert"),
        ({"head": MaskedLmOptions(), "shared_layers": True, "embedding": "narrow"}, "albert"),
        ({"embedding": "tasks"}, "ernie"),
        ({"head": MaskedLmOptions("relu")}, "handscroll"),
        ({"head": SequenceClassificationOptions(3, pooling="mean")}, "handscroll"),
        ({"head": StatesOptions()}, "handscroll"),
        ({"mask": "causal"}, "handscroll"),
        ({"num_kv_heads": 1}, "handscroll"),
    ],
    ids=str,
)
def test_a_new_encoder_is_written_as_its_family(changes: dict[str, Any], family: str, tmp_path: Path) -> None:
    sizes = {"width": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "head_width": 16, "vocab_size": 97}
    embeddings = {"narrow": EmbeddingOptions(12, 2, norm=True), "tasks": EmbeddingOptions(None, 2, 3, norm=True)}
    changes = {
        **changes,
        "embedding": embeddings.get(changes.get("embedding", ""), EmbeddingOptions(None, 2, norm=True)),
    }
    config = base(feedforward_width=40, **{**sizes, **changes})
    model = Transformer(config)
    save_model(model, tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["model_type"] == family
    again = load_model(tmp_path)
    assert dataclasses.replace(again.config, **dict.fromkeys(dropouts(), 0.0)) == config
    if family != "handscroll":
        theirs = getattr(transformers, content["architectures"][0]).from_pretrained(tmp_path).eval()
        tokens_BT = torch.randint(0, 97, (2, 11), generator=torch.Generator().manual_seed(4))
        with torch.no_grad():
            one, other = model.hidden(tokens_BT).last_BTE, theirs(tokens_BT, output_hidden_states=True)
        torch.testing.assert_close(one, other.hidden_states[-1], atol=TOLERANCE, rtol=0)


def dropouts() -> list[str]:
    return ["attention_dropout", "residual_dropout", "embedding_dropout"]


def test_a_folder_of_pretraining_serves_as_masked_lm(tmp_path: Path) -> None:
    """As the first BERT was published: old names of norms, tensors of a head that its architecture doesn't have."""
    _, theirs, folder = make("bert", "ForPreTraining", tmp_path / "pretraining")
    tensors = load_file(folder / "model.safetensors")
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for key, tensor in tensors.items()
    }
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(content))
    ours = load_model(folder)
    assert ours.config.head == MaskedLmOptions()
    tokens_BT = torch.randint(0, 97, (2, 11), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens_BT), theirs(tokens_BT).prediction_logits, atol=TOLERANCE, rtol=0)
    save_model(ours, tmp_path / "again")
    kept = load_file(tmp_path / "again/model.safetensors")
    assert kept.keys() == tensors.keys() | {"cls.predictions.decoder.weight"}
    assert all(torch.equal(tensor, kept[key]) for key, tensor in tensors.items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["BertForMultipleChoice"]}, r"\['BertForMultipleChoice'\] isn't supported; known: ...Model"),
        ({"hidden_act": "mish"}, "hidden_act='mish' isn't supported; known: gelu, gelu_new"),
        ({"is_decoder": True}, "is_decoder=True isn't supported"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key' isn't supported"),
        ({"num_attention_heads": 7}, "hidden_size=768 is not a multiple of num_attention_heads=7"),
        ({"architectures": ["BertForQuestionAnswering"], "id2label": {"0": "a"}}, "1 labels of a ...ForQuestion"),
        ({"architectures": "BertModel"}, "architectures='BertModel' is not a list of names"),
        ({"type_vocab_size": "2"}, "type_vocab_size='2' is not of type int"),
    ],
    ids=str,
)
def test_what_isnt_supported_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FAMILIES["bert"].read({"model_type": "bert", "architectures": ["BertModel"], **changes})


def test_an_encoder_takes_no_cache(tmp_path: Path) -> None:
    ours, _, _ = make("bert", "ForMaskedLM", tmp_path)
    with pytest.raises(ValueError, match="see what comes after them"):
        ours(torch.zeros(1, 3, dtype=torch.long), cache=Full().start(ours.config, ours.position, 1))
