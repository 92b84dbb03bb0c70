"""Handscroll's own folders: every mix of slots that no other architecture has a name for.

config.json holds all of `ModelConfig` under its own names; a slot's options are `{"kind": name, ...}` as in recipes.
Tensors have the names that `Transformer` gives them. No other program reads such a folder.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from handscroll.model.attention import ATTENTION_KINDS
from handscroll.model.config import ModelConfig
from handscroll.model.families.family import Family
from handscroll.model.heads import HEAD_KINDS
from handscroll.model.options import describe_options, read_options, validated
from handscroll.model.position import POSITION_KINDS

# Fields whose options have several kinds.
KINDS: Mapping[str, Mapping[str, type[Any]]] = {
    "attention": ATTENTION_KINDS,
    "position": POSITION_KINDS,
    "head": HEAD_KINDS,
}


@dataclass(frozen=True)
class Native(Family):
    def read(self, config: Mapping[str, Any]) -> ModelConfig:
        """ValueError names the key that is missing, mistyped or not known to this version."""
        hints = get_type_hints(ModelConfig)
        values = {name: _read(name, config[name], hint) for name, hint in hints.items() if name in config}
        try:
            return ModelConfig(**values)
        except TypeError as error:
            raise ValueError(f"a handscroll config.json must give every size: {error}") from error

    def write(self, config: ModelConfig, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Never refuses: what a config can say, this family can."""
        result: dict[str, Any] = self._blank() if base is None else copy.deepcopy(dict(base))
        return result | {each.name: _written(each.name, getattr(config, each.name)) for each in fields(config)}

    def file_name(self, name: str) -> str:
        return name


def _read(name: str, value: Any, hint: Any) -> Any:
    return read_options(value, KINDS[name], name) if name in KINDS else validated(value, hint, name)


def _written(name: str, value: Any) -> Any:
    if name in KINDS:
        return describe_options(value, KINDS[name])
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


NATIVE = Native(
    model_type="handscroll",
    architecture="HandscrollModel",
    keys={},
    defaults={},
    fixed={},
    required={},
    modules={},
    ignored=r"(?!)",
)
