"""A small model whose attention is far from uniform, so that a wrong key shows in the logits."""

import pytest
import torch

from handscroll.model import ModelConfig, RopeOptions, Transformer
from handscroll.model.position import AlibiOptions

WINDOW = 128
# Heads, kv heads, positions; ALiBi with a number of heads that is no power of two, and heads that are
# turned in part, feature by feature with the next.
SHAPES = {
    "multi_head": (4, 4, RopeOptions()),
    "grouped": (4, 2, RopeOptions()),
    "multi_query": (4, 1, RopeOptions(pairing="adjacent", share=0.5)),
    "grouped_alibi": (6, 2, AlibiOptions()),
}


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> Transformer:
    heads, kv_heads, position = SHAPES[request.param]
    config = ModelConfig(97, 64, 2, heads, kv_heads, 16, 96, WINDOW, position=position, qkv_bias=True)
    model = Transformer(config, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


@pytest.fixture
def tokens_BT() -> torch.Tensor:
    return torch.randint(97, (3, WINDOW), generator=torch.Generator().manual_seed(3))
