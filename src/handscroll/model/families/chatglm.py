"""ChatGLM2-6B, ChatGLM3-6B and the first GLM-4-9B (arXiv 2406.12793), as their authors' own code names things.

The model is GLM-4's: half of each head is turned, adjacent features are paired, few key and value heads. The keys of
config.json and the tensors' names are older; `ignored` tensors hold frequencies. ChatGLM-6B, the first of all, is
another architecture of the same model type and is refused by the key that only it has.

`rope_ratio` stretches the window. ChatGLM2 divides positions by it, all later models multiply theta with it, and only
the name that config.json gives the model tells them apart. What else stretches a window is said as `rope_scaling`,
which is Handscroll's own: others read plain positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handscroll.model.families.family import Family
from handscroll.model.families.fused import Fused, gate_up_rows, putting_together, qkv_rows, taking_apart
from handscroll.model.families.rope import SHARE, read_rope, write_rope
from handscroll.model.families.values import checked
from handscroll.model.position import LinearOptions
from handscroll.model.slots import PositionOptions, RopeOptions

RATIO, NAME, DIVIDING = "rope_ratio", "_name_or_path", "chatglm2"
ROTARY: Any = {"pairing": "adjacent", "missing_share": 0.5}
LAYER = "transformer.encoder.layers.{}"
FUSED = (
    Fused(".query_key_value", (".query", ".key", ".value"), qkv_rows),
    Fused(".dense_h_to_4h", (".gate", ".up"), gate_up_rows),
)


def read_ratio(config: Mapping[str, Any], max_positions: int) -> RopeOptions:
    """ValueError for a ratio that isn't a number above 0, and what `read_rope` raises."""
    ratio = checked(1.0 if config.get(RATIO) is None else config[RATIO], "float", RATIO)
    if ratio <= 0:
        raise ValueError(f"{RATIO}={ratio}: it must be positive")
    divides = _divides(config)
    theta = RopeOptions().theta * (1 if divides else ratio)
    position = read_rope({**config, "rope_theta": theta}, max_positions, **ROTARY)
    if not divides or ratio == 1:
        return position
    if type(position) is not RopeOptions:
        raise ValueError(f"{RATIO}={ratio} and rope_scaling={config.get('rope_scaling')!r}: remove one of them")
    return LinearOptions(theta=theta, pairing=position.pairing, share=position.share, factor=ratio)


def write_ratio(config: dict[str, Any], position: PositionOptions) -> None:
    """Mutates `config`. What `write_rope` raises."""
    ratio = position.factor if isinstance(position, LinearOptions) and _divides(config) else None
    if ratio is not None and isinstance(position, LinearOptions):
        position = RopeOptions(position.theta, position.pairing, position.share)
    write_rope(config, position, **ROTARY)
    theta = config.pop("rope_theta")
    if ratio is None:
        ratio = theta / RopeOptions().theta
    if ratio != 1 or RATIO in config:
        config[RATIO] = ratio
    # The authors' code knows half a head only.
    if config.get(SHARE) == ROTARY["missing_share"]:
        del config[SHARE]


def _divides(config: Mapping[str, Any]) -> bool:
    return DIVIDING in str(config.get(NAME)).lower()


CHATGLM = Family(
    model_type="chatglm",
    architecture="ChatGLMModel",
    keys={
        "vocab_size": "padded_vocab_size",
        "width": "hidden_size",
        "num_layers": "num_layers",
        "num_heads": "num_attention_heads",
        "num_kv_heads": "multi_query_group_num",
        "head_width": "kv_channels",
        "feedforward_width": "ffn_hidden_size",
        "max_positions": "seq_length",
        "norm_eps": "layernorm_epsilon",
        "tied_embeddings": "tie_word_embeddings",
        "qkv_bias": "add_qkv_bias",
        "attention_dropout": "attention_dropout",
        "residual_dropout": "hidden_dropout",
    },
    defaults={
        "head_width": 128,
        "max_positions": 2048,
        "norm_eps": 1e-5,
        "tied_embeddings": False,
        "qkv_bias": False,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
    },
    fixed={"output_bias": False, "feedforward_bias": False},
    required={
        "position_encoding_2d": False,
        "multi_query_attention": True,
        "rmsnorm": True,
        "post_layer_norm": True,
        "apply_residual_connection_post_layernorm": False,
        "add_bias_linear": False,
        "original_rope": True,
        "quantization_bit": 0,
        "pre_seq_len": None,
    },
    modules={
        "embedding": "transformer.embedding.word_embeddings",
        "layers.{}.attention_norm": f"{LAYER}.input_layernorm",
        "layers.{}.attention.q": f"{LAYER}.self_attention.query",
        "layers.{}.attention.k": f"{LAYER}.self_attention.key",
        "layers.{}.attention.v": f"{LAYER}.self_attention.value",
        "layers.{}.attention.o": f"{LAYER}.self_attention.dense",
        "layers.{}.feedforward_norm": f"{LAYER}.post_attention_layernorm",
        "layers.{}.feedforward.gate": f"{LAYER}.mlp.gate",
        "layers.{}.feedforward.up": f"{LAYER}.mlp.up",
        "layers.{}.feedforward.down": f"{LAYER}.mlp.dense_4h_to_h",
        "norm": "transformer.encoder.final_layernorm",
        "head": "transformer.output_layer",
    },
    ignored=r"rotary_pos_emb\.inv_freq$",
    read_position=read_ratio,
    write_position=write_ratio,
    unpack=taking_apart(*FUSED),
    pack=putting_together(*FUSED),
)
