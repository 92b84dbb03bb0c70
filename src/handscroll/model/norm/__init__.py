"""The norm slot: `forward(x_BTE, layout) -> (x_BTE, aux)`. aux is what a trainer must know besides.

To add one: write `norm/NAME.py` with a `Norm`, or a `RunningNorm` where statistics are a batch's, and one line below;
`tests/model/test_slots.py` runs the slot's contract over the dict.
"""

from __future__ import annotations

from handscroll.model.config import ModelConfig, chosen
from handscroll.model.norm.batch import BatchNorm
from handscroll.model.norm.layer import LayerNorm, LayerNormWithoutBias
from handscroll.model.norm.norm import Norm
from handscroll.model.norm.power import PowerNorm
from handscroll.model.norm.rms import RMSNorm
from handscroll.model.norm.running import RunningNorm
from handscroll.model.norm.tutorial_layer import TutorialLayerNorm

NORMS: dict[str, type[RMSNorm | LayerNorm | TutorialLayerNorm | BatchNorm | PowerNorm]] = {
    "rms": RMSNorm,
    "layer": LayerNorm,
    "layer_no_bias": LayerNormWithoutBias,
    "tutorial_layer": TutorialLayerNorm,
    "batch": BatchNorm,
    "power": PowerNorm,
}


def make_norm(config: ModelConfig, width: int | None = None, name: str | None = None) -> Norm:
    """The config's norm, or the named one of a feed-forward, over `width` features (the model's).

    ValueError for an unknown one.
    """
    kind = chosen("norm", config.norm, NORMS) if name is None else chosen("feedforward_norm", name, NORMS)
    width = config.width if width is None else width
    if issubclass(kind, BatchNorm | PowerNorm):
        return kind(width, config.norm_eps, config.norm_statistics)
    return kind(width, config.norm_eps)


__all__ = ["NORMS", "Norm", "PowerNorm", "RunningNorm", "make_norm"]
