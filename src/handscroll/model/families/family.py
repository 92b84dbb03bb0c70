"""What a family of checkpoints says: its config.json keys and its tensor names, both ways.

Knows `ModelConfig` and Hugging Face's conventions. Leaves rotary positions to `rope.py`, files to `weight_files.py` and
models to `checkpoint.py`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from handscroll.model.config import DROPOUTS, ModelConfig
from handscroll.model.families.experts import no_experts, write_no_experts
from handscroll.model.families.heads import read_decoder_head, write_decoder_head
from handscroll.model.families.rope import read_rope, sayable, write_rope
from handscroll.model.families.values import checked
from handscroll.model.families.windows import TYPES, Windows, read_none, write_none
from handscroll.model.routing import ExpertOptions
from handscroll.model.slots import HeadOptions, PositionOptions

# Of a layer or an expert, within a module's name.
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Source:
    """What a model's folder held besides the weights, kept so that saving gives back all that loading found.

    `config` is the whole config.json, keys that Handscroll doesn't know included; `dtype` is the embedding's in the
    file. `stores_tied_head` tells that a tied head was in the file all the same; `extra_tensors` are those of the
    file that no parameter needs.
    """

    config: Mapping[str, Any]
    dtype: torch.dtype
    stores_tied_head: bool = False
    extra_tensors: Mapping[str, Tensor] = field(default_factory=dict)


def as_they_are(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    return dict(tensors)


def no_more(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def write_no_more(config: dict[str, Any], model: ModelConfig) -> None:
    pass


Derive = Callable[[Mapping[str, Any]], Any]


def four_widths(values: Mapping[str, Any]) -> Any:
    return 4 * values["width"]


def part_of_width(values: Mapping[str, Any]) -> Any:
    """The width of a head. ValueError where heads can't be equally wide."""
    if values["width"] % values["num_heads"]:
        raise ValueError(
            f"a model of width {values['width']} can't have {values['num_heads']} heads of equal width: correct one"
        )
    return values["width"] // values["num_heads"]


# Fields that follow from others where every head has its own keys, and all of them together the model's width.
MULTI_HEAD: Mapping[str, Derive] = {"num_kv_heads": lambda values: values["num_heads"], "head_width": part_of_width}


def reads_only(position: PositionOptions) -> Callable[[Mapping[str, Any], int], PositionOptions]:
    return lambda config, max_positions: position


def writes_only(position: PositionOptions) -> Callable[[dict[str, Any], PositionOptions], None]:
    """For architectures that have one kind of positions, and no key for it."""

    def write(config: dict[str, Any], wanted: PositionOptions) -> None:
        if wanted != position:
            raise ValueError(f"a {config.get('model_type')} checkpoint can't say position={wanted!r}")

    return write


@dataclass(frozen=True)
class Family:
    """One architecture. `read` and `write` are each other's inverse for every config that the family can express.

    `keys` gives the config.json key of a `ModelConfig` field, widths before what follows from them, `older_keys`
    another name of a key, and `defaults` what transformers takes for a missing one; `derived` are fields that follow
    from those before them, always or where their key is missing. `fixed` are the fields that the architecture decides
    by itself, `required` the keys that may have one value only. `modules` gives the name in the file of a module of
    `Transformer`, {} standing for a number, the layer's and then the expert's; tensors whose name matches `ignored` can
    be derived, or belong to another head, and are no weights. `read_position` and `write_position` are a pair as in
    `rope.py`, `read_windows` and `write_windows` one as in `windows.py`, `read_experts` and `write_experts` one as in
    `experts.py`, `read_head` and `write_head` one as in `heads.py`; `read_slots` gives fields that follow from others
    or from several keys, and `write_slots` is its inverse; `unpack` makes of a file's tensors those that `modules`
    name, where several of them lie in one, and `pack` is its inverse.
    """

    model_type: str
    architecture: str
    keys: Mapping[str, str]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    required: Mapping[str, Any]
    modules: Mapping[str, str]
    ignored: str = r"rotary_emb\.inv_freq$"
    read_position: Callable[[Mapping[str, Any], int], PositionOptions] = read_rope
    write_position: Callable[[dict[str, Any], PositionOptions], None] = write_rope
    read_windows: Callable[[Mapping[str, Any], int], Windows] = read_none
    write_windows: Callable[[dict[str, Any], Windows, int], None] = write_none
    read_experts: Callable[[Mapping[str, Any], int], ExpertOptions | None] = no_experts
    write_experts: Callable[[dict[str, Any], ExpertOptions | None], None] = write_no_experts
    read_head: Callable[[Mapping[str, Any]], HeadOptions] = read_decoder_head
    write_head: Callable[[dict[str, Any], HeadOptions, str], None] = write_decoder_head
    read_slots: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] = no_more
    write_slots: Callable[[dict[str, Any], ModelConfig], None] = write_no_more
    unpack: Callable[[Mapping[str, Tensor], ModelConfig], dict[str, Tensor]] = as_they_are
    pack: Callable[[Mapping[str, Tensor], ModelConfig], dict[str, Tensor]] = as_they_are
    derived: Mapping[str, Derive] = field(default_factory=dict)
    older_keys: Mapping[str, str] = field(default_factory=dict)

    def read(self, config: Mapping[str, Any]) -> ModelConfig:
        """config.json to `ModelConfig`. ValueError names the key that is missing, mistyped or not supported."""
        self._refuse_unsupported(config)
        values = dict(self.fixed)
        for name in self.keys:
            values[name] = self._value(name, config, values)
        values |= {name: derive(values) for name, derive in self.derived.items() if name not in self.keys}
        values |= self.read_windows(config, values["num_layers"])._asdict()
        values["experts"] = self.read_experts(config, values["num_layers"])
        values |= self.read_slots(config, values)
        position = self.read_position(config, values["max_positions"])
        return ModelConfig(position=position, head=self.read_head(config), **values)

    def write(self, config: ModelConfig, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`ModelConfig` to config.json. Every key of `base` stays as it is unless `config` says otherwise.

        Raises ValueError where this family has no key for something that `config` asks for.
        """
        config = sayable(config)
        result: dict[str, Any] = self._blank() if base is None else copy.deepcopy(dict(base))
        wanted = {name: getattr(config, name) for name in self.keys}
        for name, key in self.keys.items():
            is_derived = name == "head_width" and config.head_width * config.num_heads == config.width
            is_derived |= name in self.derived and self.derived[name](wanted) == wanted[name]
            if (base is None and not is_derived) or self._value(name, result, wanted) != wanted[name]:
                result[key] = wanted[name]
        if base is None or self.read_position(result, config.max_positions) != config.position:
            self.write_position(result, config.position)
        windows = Windows(config.sliding_window, config.windowed_from)
        is_as_deep = len(result.get(TYPES) or ()) in (0, config.num_layers)
        if base is None or not is_as_deep or self.read_windows(result, config.num_layers) != windows:
            self.write_windows(result, windows, config.num_layers)
        if base is None or self.read_experts(result, config.num_layers) != config.experts:
            self.write_experts(result, config.experts)
        self.write_slots(result, config)
        if base is None or self.read_head(result) != config.head:
            self.write_head(result, config.head, self.architecture)
        written = self.read(result)
        # A dropout that the family has no key for is left out: without it the model computes the same.
        kept = [each.name for each in fields(config) if each.name not in DROPOUTS]
        lost = [name for name in kept if getattr(written, name) != getattr(config, name)]
        if "num_kv_heads" in lost:
            raise ValueError(
                f"kv_heads={config.num_kv_heads}: in a {self.model_type} checkpoint every query head has keys and "
                "values of its own, and its config.json has no key for fewer; give a Llama, Mistral, Qwen or StableLM "
                "model"
            )
        if lost:
            asked = ", ".join(f"{name}={getattr(config, name)!r}" for name in lost)
            raise ValueError(f"a {self.model_type} checkpoint can't say {asked}")
        return result

    def file_name(self, name: str) -> str:
        """The name in the file of a tensor of `Transformer`. ValueError for one that the family doesn't have."""
        module, _, kind = name.rpartition(".")
        template = self.modules.get(NUMBER.sub("{}", module))
        if template is None:
            raise ValueError(
                f"a {self.model_type} checkpoint has no place for {name}: merge or detach it before saving"
            )
        return f"{template.format(*NUMBER.findall(module))}.{kind}"

    def _blank(self) -> dict[str, Any]:
        # The ids of control tokens are explicit, because transformers takes 1 and 2 where a Llama names none.
        tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        return {"architectures": [self.architecture], "model_type": self.model_type, **tokens, **self.required}

    def _value(self, name: str, config: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        """A field as `config` has it, else what follows from the fields before it (`values`), else the default."""
        key = self.keys[name]
        value = config.get(key)
        if value is None and key in self.older_keys:
            value = config.get(self.older_keys[key])
        if value is not None:
            return checked(value, next(str(each.type) for each in fields(ModelConfig) if each.name == name), key)
        if name in self.derived:
            return self.derived[name](values)
        if key not in config and name in self.defaults:
            return self.defaults[name]
        if name == "num_kv_heads":
            return values["num_heads"]
        if name == "head_width":
            if values["width"] % values["num_heads"]:
                raise ValueError(
                    f"{self.keys['width']}={values['width']} is not a multiple of {self.keys['num_heads']}="
                    f"{values['num_heads']}: correct one of them, or give the width of a head as {key}"
                )
            return values["width"] // values["num_heads"]
        if name not in self.defaults:
            raise ValueError(f"{key} is missing: a {self.model_type} config.json must give it")
        return self.defaults[name]

    def _refuse_unsupported(self, config: Mapping[str, Any]) -> None:
        for key, allowed in self.required.items():
            if config.get(key) not in (None, allowed):
                raise ValueError(f"{key}={config[key]!r} isn't supported yet: only {allowed!r}")
        if config.get("quantization_config"):
            raise ValueError("quantization_config: quantized checkpoints aren't supported yet: use the unquantized one")
