"""How a config.json says which layers see a window only, both ways.

Mistral (arXiv 2310.06825, section 2) has one window for all layers or, with null, none. Qwen2 and Qwen3 have a switch,
`use_sliding_window`, and leave the first `max_window_layers` layers whole; version 5 of transformers also spells every
layer's kind out in `layer_types`, which then counts. Other families have no windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from handscroll.model.families.values import checked

WINDOW, TYPES = "sliding_window", "layer_types"
SWITCH, WHOLE_LAYERS = "use_sliding_window", "max_window_layers"
FULL, SLIDING = "full_attention", "sliding_attention"
# What transformers takes where the key is missing.
DEFAULT_WINDOW, DEFAULT_WHOLE_LAYERS = 4096, 28


class Windows(NamedTuple):
    """The fields of `ModelConfig` of these names."""

    sliding_window: int | None = None
    windowed_from: int = 0


def read_none(config: Mapping[str, Any], num_layers: int) -> Windows:
    if _first_sliding(config, num_layers, num_layers) < num_layers:
        raise ValueError(f"{TYPES}={config[TYPES]!r} isn't supported: only {FULL!r} in every layer")
    return Windows()


def write_none(config: dict[str, Any], windows: Windows, num_layers: int) -> None:
    """Mutates. A window that can't be said is noticed by whoever reads this again."""
    _write_types(config, num_layers, num_layers)


def read_mistral(config: Mapping[str, Any], num_layers: int, *, missing: int | None = DEFAULT_WINDOW) -> Windows:
    window = config.get(WINDOW, missing)
    first = num_layers if window is None else 0
    if _first_sliding(config, num_layers, first) != first:
        raise ValueError(f"{TYPES}={config[TYPES]!r} and {WINDOW}={window!r} say different things: remove {TYPES}")
    return Windows() if window is None else Windows(checked(window, "int", WINDOW))


def write_mistral(config: dict[str, Any], windows: Windows, num_layers: int) -> None:
    """Mutates."""
    config[WINDOW] = windows.sliding_window
    _write_types(config, num_layers, num_layers if windows.sliding_window is None else 0)


def read_qwen(config: Mapping[str, Any], num_layers: int) -> Windows:
    switch = config.get(SWITCH)
    is_on = switch is not None and checked(switch, "bool", SWITCH)
    window = config.get(WINDOW, DEFAULT_WINDOW) if is_on else None
    whole = config.get(WHOLE_LAYERS)
    if whole is None:
        whole = DEFAULT_WHOLE_LAYERS
    # 0 layers may be whole.
    elif whole != 0 or isinstance(whole, bool):
        whole = checked(whole, "int", WHOLE_LAYERS)
    first = _first_sliding(config, num_layers, num_layers if window is None else min(whole, num_layers))
    if first == num_layers:
        return Windows()
    if window is None:
        raise ValueError(f"{TYPES} has {SLIDING!r}, but no window is given: set {SWITCH} to true, and {WINDOW}")
    return Windows(checked(window, "int", WINDOW), first)


def write_qwen(config: dict[str, Any], windows: Windows, num_layers: int) -> None:
    """Mutates."""
    is_on = windows.sliding_window is not None
    if is_on or SWITCH in config:
        config[SWITCH] = is_on
    if is_on:
        config |= {WINDOW: windows.sliding_window, WHOLE_LAYERS: windows.windowed_from}
    _write_types(config, num_layers, windows.windowed_from if is_on else num_layers)


def _first_sliding(config: Mapping[str, Any], num_layers: int, unsaid: int) -> int:
    """The first layer that has a window, by the layers' kinds; where these aren't said, `unsaid`."""
    kinds = config.get(TYPES)
    if kinds is None:
        return unsaid
    first = kinds.index(SLIDING) if isinstance(kinds, list) and SLIDING in kinds else num_layers
    if kinds != [FULL] * first + [SLIDING] * (num_layers - first):
        raise ValueError(
            f"{TYPES}={kinds!r} isn't supported: {num_layers} layers, first those of {FULL!r}, then of {SLIDING!r}"
        )
    return first


def _write_types(config: dict[str, Any], num_layers: int, first: int) -> None:
    if config.get(TYPES):
        config[TYPES] = [FULL] * first + [SLIDING] * (num_layers - first)
