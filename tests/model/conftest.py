"""Checkpoints that transformers made: one folder per shape, every tensor random, and the model that wrote it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Glm4Config,
    Glm4ForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    MptConfig,
    MptForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from handscroll.model import Transformer
from handscroll.model.checkpoint import load_model

VOCAB = 97

LLAMA = (LlamaConfig, LlamaForCausalLM)
QWEN2 = (Qwen2Config, Qwen2ForCausalLM)
MISTRAL = (MistralConfig, MistralForCausalLM)
QWEN3 = (Qwen3Config, Qwen3ForCausalLM)
MIXTRAL = (MixtralConfig, MixtralForCausalLM)
QWEN2_MOE = (Qwen2MoeConfig, Qwen2MoeForCausalLM)
QWEN3_MOE = (Qwen3MoeConfig, Qwen3MoeForCausalLM)
GLM = (GlmConfig, GlmForCausalLM)
GLM4 = (Glm4Config, Glm4ForCausalLM)
GPT2 = (GPT2Config, GPT2LMHeadModel)
BLOOM = (BloomConfig, BloomForCausalLM)
MPT = (MptConfig, MptForCausalLM)
PHI3 = (Phi3Config, Phi3ForCausalLM)
STABLELM = (StableLmConfig, StableLmForCausalLM)


class Shape(NamedTuple):
    """A family and the sizes that differ from `SMALL`."""

    family: tuple[Any, Any]
    changes: dict[str, Any]


SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "pad_token_id": None,
    "eos_token_id": None,
}
# Other names, and a feed-forward of four times the model's width.
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None}
OWN_SIZES: dict[Any, dict[str, Any]] = {
    GPT2Config: {"vocab_size": VOCAB, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, **NO_TOKENS},
    BloomConfig: {"vocab_size": VOCAB, "hidden_size": 64, "n_layer": 2, "n_head": 4, "seq_length": 256, **NO_TOKENS},
    MptConfig: {"vocab_size": VOCAB, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 256, **NO_TOKENS},
}


def theta(value: float) -> dict[str, Any]:
    return rope("default", rope_theta=value)


def rope(kind: str, **options: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 1e4, "rope_type": kind, **options}}


# StableLM turns a quarter of each head where it isn't told otherwise.
WHOLE = {"partial_rotary_factor": 1.0}
HALF = {"partial_rotary_factor": 0.5}
# An original window that the tests' 23 tokens are longer than.
ORIGINAL = {"original_max_position_embeddings": 16}


SHAPES = {
    "llama": Shape(LLAMA, {}),
    "llama-gqa2-tied": Shape(LLAMA, {"num_key_value_heads": 2, "tie_word_embeddings": True, **theta(1e6)}),
    "llama-gqa4-head20-bias": Shape(
        LLAMA, {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 20, "attention_bias": True}
    ),
    "llama-mqa-head6-mlp-bias": Shape(
        LLAMA, {"num_key_value_heads": 1, "head_dim": 6, "mlp_bias": True, "rms_norm_eps": 1e-5}
    ),
    "llama-gqa2-head24-all-biases": Shape(
        LLAMA,
        {
            "num_key_value_heads": 2,
            "head_dim": 24,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "llama-one-layer-eps": Shape(LLAMA, {"num_hidden_layers": 1, "rms_norm_eps": 1e-2, **theta(500.0)}),
    "qwen2-tied": Shape(QWEN2, {"tie_word_embeddings": True, **theta(1e6)}),
    "qwen2-gqa4": Shape(QWEN2, {"num_key_value_heads": 1, "rms_norm_eps": 1e-5}),
    "qwen2-gqa3-head24": Shape(
        QWEN2, {"hidden_size": 72, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, **theta(1e5)}
    ),
    "qwen2-mqa-head20": Shape(QWEN2, {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 20}),
    # Windows that the tests' 23 tokens are longer than.
    "mistral-window7": Shape(MISTRAL, {"num_key_value_heads": 2, "sliding_window": 7}),
    "mistral-gqa4-head24": Shape(MISTRAL, {"num_key_value_heads": 1, "head_dim": 24, "sliding_window": None}),
    "mistral-head20-wide-window": Shape(
        MISTRAL, {"head_dim": 20, "sliding_window": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    ),
    "qwen2-last-layer-window5": Shape(
        QWEN2, {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "num_key_value_heads": 2}
    ),
    "qwen2-all-layers-window9": Shape(QWEN2, {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0}),
    "stablelm": Shape(STABLELM, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default", **WHOLE}}),
    "stablelm-gqa2-tied-bias": Shape(
        STABLELM, {"num_key_value_heads": 2, "tie_word_embeddings": True, "use_qkv_bias": True, **WHOLE}
    ),
    "stablelm-quarter": Shape(STABLELM, {"num_attention_heads": 2, "num_key_value_heads": 1}),
    "stablelm-three-quarters": Shape(STABLELM, {"partial_rotary_factor": 0.75, "num_key_value_heads": 2}),
    "stablelm-mqa-eps": Shape(STABLELM, {"num_key_value_heads": 1, "layer_norm_eps": 1e-3, **WHOLE, **theta(1e6)}),
    "glm": Shape(GLM, {"num_key_value_heads": 2, "head_dim": 24}),
    "glm-mqa-quarter-tied": Shape(
        GLM, {"num_key_value_heads": 1, "head_dim": 16, "partial_rotary_factor": 0.25, "tie_word_embeddings": True}
    ),
    "glm-whole-heads-no-bias": Shape(
        GLM, {"head_dim": 20, "attention_bias": False, "partial_rotary_factor": 1.0, **theta(1e6)}
    ),
    "glm-yarn": Shape(GLM, {"num_key_value_heads": 2, "head_dim": 32, **rope("yarn", factor=16.0, **ORIGINAL, **HALF)}),
    "glm4": Shape(GLM4, {"num_key_value_heads": 2, "head_dim": 24}),
    "glm4-mqa-no-bias-tied": Shape(
        GLM4, {"num_key_value_heads": 1, "head_dim": 16, "attention_bias": False, "tie_word_embeddings": True}
    ),
    "glm4-one-layer-quarter": Shape(
        GLM4, {"num_hidden_layers": 1, "head_dim": 32, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-3}
    ),
    "gpt2": Shape(GPT2, {}),
    "gpt2-narrow-feedforward-untied": Shape(GPT2, {"n_inner": 80, "tie_word_embeddings": False}),
    "gpt2-six-heads-eps": Shape(GPT2, {"n_embd": 72, "n_head": 6, "n_layer": 1, "layer_norm_epsilon": 1e-3}),
    "bloom": Shape(BLOOM, {}),
    "bloom-six-heads-untied": Shape(BLOOM, {"hidden_size": 72, "n_head": 6, "tie_word_embeddings": False}),
    "bloom-one-layer-eps": Shape(BLOOM, {"n_layer": 1, "n_head": 8, "layer_norm_epsilon": 1e-3}),
    "mpt": Shape(MPT, {}),
    "mpt-six-heads-untied": Shape(MPT, {"d_model": 72, "n_heads": 6, "tie_word_embeddings": False}),
    "mpt-one-layer-eps": Shape(MPT, {"n_layers": 1, "n_heads": 8, "layer_norm_epsilon": 1e-3}),
    "phi3": Shape(PHI3, {"num_key_value_heads": 2}),
    "phi3-three-quarters-tied": Shape(
        PHI3, {"num_key_value_heads": 1, "partial_rotary_factor": 0.75, "tie_word_embeddings": True}
    ),
    "phi3-window5": Shape(PHI3, {"sliding_window": 5, "rms_norm_eps": 1e-3, **theta(1e6)}),
    "qwen3": Shape(QWEN3, {"num_key_value_heads": 2, "head_dim": 24, **theta(1e6)}),
    "qwen3-tied-bias": Shape(QWEN3, {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    "qwen3-mqa-window6": Shape(
        QWEN3,
        {
            "num_key_value_heads": 1,
            "head_dim": 10,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 1,
            "rms_norm_eps": 1e-3,
        },
    ),
    "mixtral": Shape(MIXTRAL, {"num_local_experts": 4}),
    "mixtral-gqa2-tied-window7": Shape(
        MIXTRAL, {"num_local_experts": 3, "num_key_value_heads": 2, "tie_word_embeddings": True, "sliding_window": 7}
    ),
    "mixtral-mqa-head20-top1": Shape(
        MIXTRAL, {"num_local_experts": 8, "num_experts_per_tok": 1, "num_key_value_heads": 1, "head_dim": 20}
    ),
    "qwen3-moe": Shape(QWEN3_MOE, {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}),
    "qwen3-moe-every-other-layer-gqa2-tied": Shape(
        QWEN3_MOE,
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
            "decoder_sparse_step": 2,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3-moe-bias-head24-window6": Shape(
        QWEN3_MOE,
        {
            "num_experts": 5,
            "num_experts_per_tok": 5,
            "moe_intermediate_size": 16,
            "mlp_only_layers": [1],
            "attention_bias": True,
            "head_dim": 24,
            "use_sliding_window": True,
            "sliding_window": 6,
        },
    ),
    "qwen2-moe": Shape(
        QWEN2_MOE,
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "shared_expert_intermediate_size": 56,
        },
    ),
    "qwen2-moe-first-layer-dense-gqa2": Shape(
        QWEN2_MOE,
        {
            "num_experts": 6,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
            "shared_expert_intermediate_size": 32,
            "mlp_only_layers": [0],
            "num_key_value_heads": 2,
        },
    ),
    "qwen2-moe-mqa-no-bias-tied": Shape(
        QWEN2_MOE,
        {
            "num_experts": 3,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "num_key_value_heads": 1,
            "shared_expert_intermediate_size": 16,
            "qkv_bias": False,
            "tie_word_embeddings": True,
        },
    ),
    # Stretched positions that don't depend on the length; test_stretched_checkpoints.py has those that do.
    "llama-linear": Shape(LLAMA, {"num_key_value_heads": 2, **rope("linear", factor=4.0)}),
    "llama-llama3": Shape(LLAMA, rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **ORIGINAL)),
    "qwen2-yarn": Shape(QWEN2, {"num_key_value_heads": 2, **rope("yarn", factor=16.0, **ORIGINAL)}),
}


class Pair(NamedTuple):
    """The same weights in both libraries, and the folder that holds them."""

    ours: Transformer
    theirs: Any
    folder: Path


def make_reference(shape: Shape, *, seed: int = 0) -> Any:
    """A transformers model whose every tensor is random: theirs start with biases of 0 and norms of 1."""
    (config_class, model_class), changes = shape
    model = model_class(config_class(**{**OWN_SIZES.get(config_class, SMALL), **changes}))
    model.set_attn_implementation("eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor_name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if "norm" in tensor_name or ".ln_" in tensor_name:
                tensor.copy_(1 + 0.3 * noise)
            else:
                tensor.copy_(noise * (0.3 if tensor_name.endswith("bias") else tensor.shape[-1] ** -0.5))
    return model.eval()


def make_pair(shape: Shape, folder: Path) -> Pair:
    theirs = make_reference(shape)
    theirs.save_pretrained(folder)
    return Pair(load_model(folder), theirs, folder)


@pytest.fixture(params=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> str:
    """Every shape in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Both models of a shape. Shared between tests: for reading only."""
    made: dict[str, Pair] = {}

    def make(name: str) -> Pair:
        if name not in made:
            made[name] = make_pair(SHAPES[name], tmp_path_factory.mktemp(name))
        return made[name]

    return make


@pytest.fixture
def pair(shape: str, pair_of: Callable[[str], Pair]) -> Pair:
    return pair_of(shape)


@pytest.fixture
def new_pair(tmp_path: Path) -> Callable[..., Pair]:
    """Both models of a family ("llama", "qwen2") and any changes: theirs remembers the longest text it has seen."""

    def make(family: str, **changes: Any) -> Pair:
        return make_pair(Shape(LLAMA if family == "llama" else QWEN2, changes), tmp_path / family)

    return make


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[..., Path]:
    """A fresh folder of a shape, to be damaged or overwritten."""

    def make(name: str = "llama-gqa2-tied", dtype: torch.dtype = torch.float32, **options: Any) -> Path:
        folder = tmp_path / name
        make_reference(SHAPES[name]).to(dtype).save_pretrained(folder, **options)
        return folder

    return make


@pytest.fixture
def tokens_BT() -> torch.Tensor:
    return torch.randint(0, VOCAB, (2, 23), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def load_theirs() -> Callable[[Path], Any]:
    """A folder as transformers reads it, in float32."""

    def load(folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    return load
