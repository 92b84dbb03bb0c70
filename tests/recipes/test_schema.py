"""Recipes are read strictly: every mistake is one line that names the key, and every key reaches what it is for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from handscroll.model import ModelConfig, RopeOptions
from handscroll.model.families import family_for
from handscroll.model.routing import ExpertOptions
from handscroll.model.slots import NormStatistics
from handscroll.recipes.model_section import FromFolder, FromModel, NewModel
from handscroll.recipes.reading import read_recipe, to_yaml
from handscroll.recipes.schema import NewTokenizer
from handscroll.recipes.sections import options_of
from handscroll.recipes.values import parse_value
from handscroll.training import OPTIMIZERS, SCHEDULES, AdamWOptions, MuonOptions, WarmupStableDecay

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

# What is changed in a good recipe, and the line that must come of it.
MISTAKES = {
    "mistyped section": ("trian.steps=3", "trian is not a key of a recipe; did you mean train?"),
    "mistyped key": ("train.stepz=3", "train.stepz is not a key of a recipe; did you mean train.steps?"),
    "key of another section": (
        "learning_rate=1",
        "learning_rate is not a key of a recipe; did you mean optimizer.learning_rate?",
    ),
    "mistyped key of a kind": (
        "optimizer.momentun=0.9",
        "optimizer.momentun is not a key of a recipe; did you mean optimizer.momentum?",
    ),
    "mistyped nested key": (
        "optimizer.rest.beta=0.9",
        "optimizer.rest.beta is not a key of a recipe; did you mean optimizer.rest.beta2?",
    ),
    "nothing near": (
        "tokenizer.xyz=1",
        "tokenizer.xyz is not a key of a recipe; known in tokenizer are vocab_size, kind, han",
    ),
    "mistyped key of an optional section": (
        "train.skip_positions={tto: 64}",
        "train.skip_positions.to is missing: a recipe must give it\n"
        "recipe: train.skip_positions.tto is not a key of a recipe; did you mean train.skip_positions.to?",
    ),
    "mistyped key of a section in a section": (
        "train.dropout.atention=0.1",
        "train.dropout.atention is not a key of a recipe; did you mean train.dropout.attention?",
    ),
    "mistyped key of another section": (
        "train.lerning_rate=1",
        "train.lerning_rate is not a key of a recipe; did you mean optimizer.learning_rate?",
    ),
    "key of a section in another section": (
        "train.residual=0.1",
        "train.residual is not a key of a recipe; did you mean train.dropout.residual?",
    ),
    "everything dropped": ("train.dropout.residual=1", "train.dropout.residual=1: it must be less than 1"),
    "two texts to evaluate on": (
        "data={files: a.txt, eval: b.txt, held_out: 0.1}",
        "data: eval=['b.txt'] and held_out=0.1: give one of them",
    ),
    "nothing to evaluate on": (
        "evaluation.patience=3",
        "evaluation has nothing to evaluate on: give data.eval, files, or data.held_out, a share such as 0.01",
    ),
    "unknown precision": (
        "train.precision=fp16",
        "train.precision=fp16 is unknown; known are float32, bfloat16, float16",
    ),
    "negative size": ("model.width=-8", "model.width=-8: it must be at least 1"),
    "negative steps": ("train.steps=-1", "train.steps=-1: it must be at least 1"),
    "negative rate": ("optimizer.learning_rate=-0.1", "optimizer.learning_rate=-0.1: it must be at least 0"),
    "negative nested rate": (
        "optimizer.rest.learning_rate=-1",
        "optimizer.rest.learning_rate=-1: it must be at least 0",
    ),
    "text for a size": ("model.width=wide", "model.width=wide: it must be a whole number"),
    "a number in quotes": ('train.steps="3"', 'train.steps="3": it must be a whole number'),
    "true for a number": ("train.seed=true", "train.seed=true: it must be a whole number"),
    "a fraction for a size": ("model.layers=1.5", "model.layers=1.5: it must be a whole number"),
    "text for a number": ("train.clip=high", "train.clip=high: it must be a number"),
    "a number for a switch": ("model.tied=1", "model.tied=1: it must be true or false"),
    "infinity": ("train.clip=.inf", "train.clip=Infinity: it must be a finite number"),
    "a number for a section": ("model=3", "model=3: it must be a section with keys of its own"),
    "WordPiece with merged Han": (
        "tokenizer={kind: wordpiece, han: merged}",
        "tokenizer: han is 'merged'; with kind='wordpiece' it must be 'isolated'; WordPiece cuts every Han character "
        "from its neighbours",
    ),
    "no files": ("data.files=[]", "data.files: no file is named: give at least one"),
    "a number for a file": ("data.files=[3]", "data.files.0=3: it must be text"),
    "no folder": ("out=''", 'out="": it must not be empty'),
    "unknown objective": (
        "objective=stf",
        "objective.name=stf is unknown; did you mean sft? Known are causal_lm, sft, masked_lm, prefix_lm, glm, ernie",
    ),
    "an option of another objective": (
        "objective.crossbatch=[0]",
        "objective.crossbatch is an option of objective.name=sft: choose that, or leave it out",
    ),
    "no list of layers": (
        "objective={name: sft, crossbatch: 1}",
        "objective.crossbatch=1: it must be a list, such as [a, b]",
    ),
    "unknown optimizer": (
        "optimizer.name=adam",
        "optimizer.name=adam is unknown; did you mean adamw? Known are adamw, muon",
    ),
    "unknown schedule": ("schedule.name=linear", "schedule.name=linear is unknown; known are constant, cosine, wsd"),
    "steps and epochs": (
        "train.epochs=2",
        "train: steps=12 and epochs=2.0: give one of them, and null for the other",
    ),
    "neither": ("train.steps=null", "train: steps is missing: say how long to train, by steps or by epochs"),
    "uneven micro batches": (
        "train.micro_batches=3",
        "train: windows_per_step=4 can't be divided into micro_batches=3 equal parts: make it a multiple",
    ),
    "heads": ("model.heads=3", "model: width=32 is no multiple of heads=3: change one, or give head_width"),
    "kv heads": ("model.kv_heads=4", "model: heads=2 is no multiple of kv_heads=4: each serves as many heads"),
    "theta of alibi": (
        "model={width: 32, layers: 1, heads: 2, position: alibi, rope_theta: 5e5}",
        "model: rope_theta=500000.0 is for position=rope, not alibi: leave it out",
    ),
    "statistics of nothing": (
        "model.norm_statistics.momentum=0.5",
        "model: norm_statistics are for norms batch and power, and this model has none: leave them out",
    ),
    "queries by batch": (
        "model={width: 32, layers: 1, heads: 2, norm: batch, qk_norm: true}",
        "model: qk_norm=True with norm='batch': queries and keys are normalized one by one, by rms or layer; choose "
        "one of these, or qk_norm=False",
    ),
    "unknown attention": (
        "model.attention=flashy",
        "model: attention='flashy' is not known; known: grouped_query, sparse, low_rank, linear, pooled, "
        "or {kind: one of them, ...}",
    ),
    "unknown option of an attention": (
        "model.attention={kind: sparse, windw: 8}",
        "model: attention sparse has no option 'windw': known are block, window, dilation, global_tokens, "
        "random_blocks, seed, whole_blocks",
    ),
    "attention of another mask": (
        "model.attention=low_rank",
        "model: mask='causal': low-rank attention is for mask=bidirectional; use grouped_query attention",
    ),
    "unknown position": (
        "model.position=learnt",
        "model: position='learnt' is not known; known: rope, linear, ntk, dynamic, yarn, llama3, longrope, "
        "rope_2d, alibi, dynamic_alibi, learned, learned_2d, sinusoidal, none, relative, or {kind: one of them, ...}",
    ),
    "unknown head": (
        "model.head=mlm",
        "model: head='mlm' is not known; known: lm, normalized, masked_lm, pretraining, sequence_classification, "
        "token_classification, span, scalar, states, or {kind: one of them, ...}",
    ),
    "experts without a count": ("model.experts={top_k: 2}", "model.experts.count is missing: a recipe must give it"),
    "too many experts for a token": (
        "model.experts={count: 2, top_k: 3}",
        "model: experts.top_k=3: a token takes 1 to 2 of 2 experts",
    ),
    "a mistyped option of experts": (
        "model.experts={count: 4, topk: 1}",
        "model.experts.topk is not a key of a recipe; did you mean model.experts.top_k?",
    ),
    "a width that no layer has": (
        "model={width: 16, layers: 1, heads: 2, feedforward_width: 32, experts: {count: 4, width: 8}}",
        "model: feedforward_width=32 is for layers without experts, and there are none: give experts.width alone, or "
        "name experts.dense_layers",
    ),
    "unknown option of a position": (
        "model.position={kind: alibi, slope: 2}",
        "model: position alibi has no option 'slope': known are none",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_key(case: str, recipe: dict[str, Any]) -> None:
    override, line = MISTAKES[case]
    with pytest.raises(ValueError, match=r"^recipe: ") as caught:
        read_recipe(recipe, [override])
    assert str(caught.value) == f"recipe: {line}"


def test_experts_of_a_recipe(recipe: dict[str, Any]) -> None:
    def config(*overrides: str) -> ModelConfig:
        model = read_recipe(recipe, overrides).model
        assert isinstance(model, NewModel)
        return model.config(100)

    dense = config("model.feedforward_width=48")
    assert dense.experts is None
    as_wide = config("model.feedforward_width=48", "model.experts={count: 4}")
    assert as_wide.experts == ExpertOptions(4, 48)
    own = config("model.feedforward_width=null", "model.experts={count: 4, width: 24, capacity_factor: 1.5}")
    # A folder of Mixtral can say it, which has one width.
    assert (own.experts, own.feedforward_width) == (ExpertOptions(4, 24, capacity_factor=1.5), 24)
    assert family_for(replace(own, qkv_bias=False)).model_type == "mixtral"
    some = config(
        "model.feedforward_width=48", "model.layers=2", "model.experts={count: 4, width: 24, dense_layers: [0]}"
    )
    assert (some.experts, some.feedforward_width) == (ExpertOptions(4, 24, dense_layers=(0,)), 48)


def test_every_mistake_gets_a_line(recipe: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="steps") as caught:
        read_recipe(recipe, ["train.steps=two", "model.width=0", "otu=x"])
    assert len(str(caught.value).splitlines()) == 3


def test_sizes_beside_a_folder_are_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model\.width can't stand beside model\.from: that folder says it"):
        read_recipe(recipe, ["model.from=elsewhere"])


STRETCHES = {
    "{from: a, strech: {method: yarn, to: 64}}": "model.strech is not a key of a recipe; did you mean model.stretch?",
    "{from: a, stretch: {method: yarm, to: 64}}": "model.stretch.method=yarm is unknown; did you mean yarn? Known are "
    "linear, ntk, dynamic, yarn, llama3, longrope, dynamic_alibi, none",
    "{from: a, stretch: {method: yarn}}": "model.stretch.to is missing: a recipe must give it",
    "{from: a, stretch: {method: yarn, to: 0}}": "model.stretch.to=0: it must be at least 1",
    "{from: a, stretch: yarn}": "model.stretch=yarn: it must be a section with keys of its own",
}


@pytest.mark.parametrize("model", STRETCHES)
def test_a_mistake_in_a_stretch_is_named(model: str, recipe: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="recipe") as caught:
        read_recipe(recipe, [f"model={model}"])
    assert str(caught.value) == f"recipe: {STRETCHES[model]}"


def test_options_of_a_method_stand_beside_its_name(recipe: dict[str, Any]) -> None:
    read = read_recipe(recipe, ["model={from: a, stretch: {method: yarn, to: 64, beta_fast: 16}}"])
    assert isinstance(read.model, FromModel)
    assert read.model.stretch is not None
    assert read.model.stretch.options == {"beta_fast": 16}
    assert read_recipe(yaml.safe_load(to_yaml(read))) == read


def test_a_missing_section_is_named(recipe: dict[str, Any]) -> None:
    del recipe["data"]
    with pytest.raises(ValueError, match="recipe: data is missing"):
        read_recipe(recipe)


def test_keys_reach_the_options_that_they_are_for(recipe: dict[str, Any]) -> None:
    changes = ["optimizer.learning_rate=1e-2", "optimizer.rest.beta1=0.8", "schedule.decay=0.3", "model.rope_theta=5e5"]
    read = read_recipe(recipe, changes)
    assert options_of(read.optimizer, OPTIMIZERS["muon"]) == MuonOptions(
        learning_rate=0.01, rest=AdamWOptions(learning_rate=MuonOptions().rest.learning_rate, beta1=0.8)
    )
    assert options_of(read.schedule, SCHEDULES["wsd"]) == WarmupStableDecay(warmup=2, decay=0.3)
    assert isinstance(read.model, NewModel)
    assert read.model.config(300) == ModelConfig(
        vocab_size=300,
        width=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_width=16,
        feedforward_width=96,
        max_positions=32,
        position=RopeOptions(theta=5e5),
        qkv_bias=True,
        tied_embeddings=True,
    )


def test_rotary_positions_of_a_new_model(recipe: dict[str, Any]) -> None:
    model = read_recipe(recipe, ["model.position={kind: rope, theta: 5e5, pairing: adjacent, share: 0.5}"]).model
    assert isinstance(model, NewModel)
    assert model.config(300).position == RopeOptions(5e5, "adjacent", 0.5)
    with pytest.raises(ValueError, match=r"share=0\.1: 1 features would be turned, which is odd"):
        read_recipe(recipe, ["model.position={kind: rope, share: 0.1}"])


@pytest.mark.parametrize(("feedforward", "width"), [("swiglu", 96), ("relu", 128)])
def test_slots_of_a_new_model(feedforward: str, width: int, recipe: dict[str, Any]) -> None:
    changes = [f"model.feedforward={feedforward}", "model.feedforward_bias=true", "model.output_bias=true"]
    model = read_recipe(recipe, changes).model
    assert isinstance(model, NewModel)
    config = model.config(300)
    assert (config.feedforward, config.feedforward_bias, config.output_bias) == (feedforward, True, True)
    assert config.feedforward_width == width


def test_norms_of_a_new_model(recipe: dict[str, Any]) -> None:
    changes = ["norm=batch", "norm_placement=post", "feedforward_norm=power", "norm_statistics.warmup=7"]
    model = read_recipe(recipe, [f"model.{change}" for change in changes]).model
    assert isinstance(model, NewModel)
    config = model.config(300)
    assert (config.norm, config.norm_placement, config.feedforward_norm) == ("batch", "post", "power")
    assert config.norm_statistics == NormStatistics(momentum=0.1, warmup=7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_defaults_of_an_optimizer_are_the_training_rooms_own(name: str, recipe: dict[str, Any]) -> None:
    recipe["optimizer"] = {"name": name}
    assert options_of(read_recipe(recipe).optimizer, OPTIMIZERS[name]) == OPTIMIZERS[name]()


@pytest.mark.parametrize("name", SCHEDULES)
def test_defaults_of_a_schedule_are_the_training_rooms_own(name: str, recipe: dict[str, Any]) -> None:
    recipe["schedule"] = {"name": name}
    assert options_of(read_recipe(recipe).schedule, SCHEDULES[name]) == SCHEDULES[name]()


def test_a_bare_file_is_a_list_of_one(recipe: dict[str, Any]) -> None:
    assert read_recipe(recipe, ["data.files=book.txt"]).data.files == ("book.txt",)
    assert read_recipe(recipe, ["data.files=[a.txt, b.md]"]).data.files == ("a.txt", "b.md")


def test_kinds_are_seen_from_the_keys(recipe: dict[str, Any]) -> None:
    assert isinstance(read_recipe(recipe).tokenizer, NewTokenizer)
    recipe["model"], recipe["tokenizer"] = {"from": "org/name"}, {"from": "folder"}
    read = read_recipe(recipe)
    assert isinstance(read.model, FromFolder)
    assert isinstance(read.tokenizer, FromFolder)
    assert (read.model.source, read.tokenizer.source) == ("org/name", "folder")


def test_what_is_written_is_read_back(recipe: dict[str, Any], tmp_path: Path) -> None:
    read = read_recipe(recipe, ["optimizer.rest.eps=1e-6", "train.clip=0.5"])
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(read), encoding="utf-8")
    assert read_recipe(path) == read
    assert read_recipe(read, ["train.clip=0.25"]).train.clip == 0.25


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_recipes(path: Path) -> None:
    read = read_recipe(path)
    assert read == read_recipe(yaml.safe_load(to_yaml(read)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"model: [", "line 1, column 9: not YAML"),
        (b"train: {steps: 3}\ntrain: {steps: 4}", "line 2, column 1: not YAML: train is given twice"),
        (b"", "holds nothing: a recipe has sections"),
        (b"- 3", "holds a list"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
    ],
)
def test_a_file_that_is_no_recipe(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_recipe(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a file: give the path of a recipe"):
        read_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("override", ["train.steps", "=3", "train.=3", "out.deeper=3"])
def test_what_is_no_override_is_refused(override: str, recipe: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is no override|has no keys of its own"):
        read_recipe(recipe, [override])


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 0.001), ("-2E5", -2e5), ("0.5", 0.5), ("true", True), ("null", None), ("[a, 1]", ["a", 1])],
)
def test_values_are_yaml(text: str, value: Any) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize("text", ["key_norm", "1e", "e5", "a: [", "12 apples"])
def test_other_values_are_text(text: str) -> None:
    assert parse_value(text) == text
