"""Where a block normalizes, whom a token sees, and what its vector is made of, each against somebody else's numbers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handscroll.model import Capture, Layout, ModelConfig, Transformer, load_model, save_model
from handscroll.model.config import MASKS, PLACEMENTS
from handscroll.model.footprint import parameter_count
from handscroll.model.memory import DirectMemory
from handscroll.model.position import LearnedOptions, NoPositionOptions, SinusoidalOptions
from handscroll.model.slots import EmbeddingOptions

CONFIG = ModelConfig(
    vocab_size=50,
    width=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_width=8,
    feedforward_width=40,
    max_positions=64,
    position=NoPositionOptions(),
    norm="layer",
    norm_eps=1e-5,
)
TOKENS_BT = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))


def changed(**changes: Any) -> ModelConfig:
    return dataclasses.replace(CONFIG, **changes)


def randomized(model: Transformer) -> Transformer:
    """Norms and biases that aren't ones and zeros."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_placement_is_the_formula(placement: str) -> None:
    """Both halves of each block written out, with torch's own LayerNorm."""
    model = randomized(Transformer(changed(norm_placement=placement)))
    layout = Layout.rows([9, 9])
    memory = DirectMemory(model.position, layout)
    x_BTE = model.embedding(TOKENS_BT)

    def norm(module: Any, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, (32,), module.weight, module.bias, 1e-5)

    for block in model.layers:
        halves: list[Any] = [
            (block.attention_norm, lambda x, b=block: b.attention(x, memory, layout)[0], "attention_out_norm"),
            (block.feedforward_norm, lambda x, b=block: b.feedforward(x, layout)[0], "feedforward_out_norm"),
        ]
        for its_norm, f, after in halves:
            if placement == "pre":
                x_BTE = x_BTE + f(norm(its_norm, x_BTE))
            elif placement == "sandwich":
                x_BTE = x_BTE + norm(getattr(block, after), f(norm(its_norm, x_BTE)))
            else:
                alpha = 4**0.25 if placement == "deepnorm" else 1.0
                x_BTE = norm(its_norm, alpha * x_BTE + f(x_BTE))
    if placement in ("pre", "sandwich"):
        x_BTE = norm(model.norm, x_BTE)
    torch.testing.assert_close(model.hidden(TOKENS_BT).last_BTE, x_BTE, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("feedforward", ["relu", "gelu"])
@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
def test_blocks_are_torchs_encoder_layers(placement: str, feedforward: str, mask: str) -> None:
    """Our weights in torch's own layers: norms before or after, ReLU or GELU, biases everywhere, padding unseen."""
    biases = {"qkv_bias": True, "output_bias": True, "feedforward_bias": True}
    model = randomized(Transformer(changed(norm_placement=placement, feedforward=feedforward, mask=mask, **biases)))
    layout = Layout.rows([9, 6], size=9)
    x_BTE, real = model.embedding(TOKENS_BT), layout.index_BT >= 0
    ahead = nn.Transformer.generate_square_subsequent_mask(9).isinf() if mask == "causal" else None
    for block in model.layers:
        theirs = nn.TransformerEncoderLayer(
            32, 4, 40, 0.0, feedforward, 1e-5, batch_first=True, norm_first=placement == "pre"
        ).train()
        theirs.load_state_dict(as_torch_names(block.state_dict()))
        x_BTE = theirs(x_BTE, src_mask=ahead, src_key_padding_mask=~real)
    if model.norm is not None:
        x_BTE, _ = model.norm(x_BTE, layout)
    torch.testing.assert_close(model.hidden(TOKENS_BT, layout).last_BTE[real], x_BTE[real], atol=1e-5, rtol=1e-4)


def as_torch_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"attention.o": "self_attn.out_proj", "feedforward.up": "linear1", "feedforward.down": "linear2"}
    names |= {"attention_norm": "norm1", "feedforward_norm": "norm2"}
    renamed = {f"{to}.{kind}": state[f"{name}.{kind}"] for name, to in names.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        renamed[f"self_attn.in_proj_{kind}"] = torch.cat([state[f"attention.{part}.{kind}"] for part in "qkv"])
    return renamed


def update_size(placement: str, layers: int) -> tuple[float, list[float]]:
    """How far one step of gradient descent on the layers' matrices moves the output; gradients by layer."""
    sizes = {"feedforward": "relu", "feedforward_width": 64, "num_layers": layers}
    model = Transformer(changed(norm_placement=placement, **sizes), seed=3)
    targets_BT = TOKENS_BT.flip(1)
    before_BTE = model.hidden(TOKENS_BT).last_BTE
    nn.functional.cross_entropy(model.logits(before_BTE).flatten(0, 1), targets_BT.flatten()).backward()
    matrices = [[parameter for parameter in layer.parameters() if parameter.dim() == 2] for layer in model.layers]
    gradients = [[parameter.grad for parameter in layer if parameter.grad is not None] for layer in matrices]
    with torch.no_grad():
        for layer, its in zip(matrices, gradients, strict=True):
            for parameter, gradient in zip(layer, its, strict=True):
                parameter.sub_(gradient, alpha=0.1)
        moved_BTE = model.hidden(TOKENS_BT).last_BTE - before_BTE
    norms = [float(torch.stack([gradient.norm() for gradient in its]).norm()) for its in gradients]
    return float(moved_BTE.detach().norm() / before_BTE.detach().norm()), norms


def test_deepnorm_moves_as_far_at_any_depth() -> None:
    """The paper's claim: from 4 to 64 layers a step's effect stays within 30 %, and no layer's gradient vanishes."""
    (shallow, _), (deep, gradients) = update_size("deepnorm", 4), update_size("deepnorm", 64)
    assert 0.7 < deep / shallow < 1.3
    assert max(gradients) < 2 * min(gradients)
    # Norms alone, after each half, don't do that.
    (shallow_post, _), (deep_post, _) = update_size("post", 4), update_size("post", 64)
    assert deep_post > 2 * shallow_post
    assert deep_post > 10 * deep


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("mask", MASKS)
def test_wanted_places_and_recomputation_change_nothing(placement: str, mask: str) -> None:
    model = randomized(Transformer(changed(norm_placement=placement, mask=mask)))
    layout = dataclasses.replace(Layout.rows([9, 6], size=9), prefix_BT=torch.tensor([[4], [3]]))
    whole_BTE = model.hidden(TOKENS_BT, layout).last_BTE
    wanted_BQ = torch.tensor([[7, 2], [0, 5]])
    some_BQE = model.hidden(TOKENS_BT, layout, wanted_BQ=wanted_BQ).last_BTE
    torch.testing.assert_close(some_BQE, whole_BTE.gather(1, wanted_BQ[..., None].expand(-1, -1, 32)))
    model.activation_checkpointing = True
    assert torch.equal(model.hidden(TOKENS_BT, layout).last_BTE, whole_BTE)


def seen(mask: str, layout: Layout, window: int | None = None) -> Tensor:
    """(B, T, T): whom each token looks at, by the attention of a model."""
    model = Transformer(changed(mask=mask, sliding_window=window, num_layers=1))
    hidden = model.hidden(TOKENS_BT, dataclasses.replace(layout, capture=Capture(weights=True)))
    return hidden.weights[0].amax(1) > 0


def expected(
    mask: str, lengths: list[int], documents: list[list[int]], prefixes: list[list[int]], reach: int
) -> Tensor:
    """The same, token by token from the definition."""
    sees = torch.zeros(2, 9, 9, dtype=torch.bool)
    for b in range(2):
        for t in range(lengths[b]):
            for s in range(lengths[b]):
                together = documents[b][t] == documents[b][s] and abs(t - s) < reach
                ahead = mask == "bidirectional" or (mask == "prefix" and s < prefixes[b][t])
                sees[b, t, s] = together and (s <= t or ahead)
    return sees


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("lengths", [[9, 9], [9, 5]])
def test_whom_a_token_sees(mask: str, window: int | None, lengths: list[int]) -> None:
    prefix_BT = torch.tensor([[4], [2]])
    layout = dataclasses.replace(Layout.rows(lengths, size=9), prefix_BT=prefix_BT)
    sees = expected(mask, lengths, [[0] * 9] * 2, [[4] * 9, [2] * 9], window or 9)
    real = layout.index_BT >= 0
    assert torch.equal(seen(mask, layout, window)[real], sees[real])


@pytest.mark.parametrize("mask", MASKS)
def test_whom_a_token_of_packed_documents_sees(mask: str) -> None:
    document_BT = torch.tensor([[0] * 5 + [1] * 4, [0] * 2 + [1] * 7])
    # The prefix of each document, as an index in its row.
    prefix_BT = torch.tensor([[3] * 5 + [7] * 4, [2] * 2 + [2] * 7])
    index_BT = torch.arange(9).expand(2, 9)
    layout = dataclasses.replace(Layout.packed(index_BT, index_BT, document_BT), prefix_BT=prefix_BT)
    sees = expected(mask, [9, 9], document_BT.tolist(), prefix_BT.tolist(), 9)
    assert torch.equal(seen(mask, layout), sees)


@pytest.mark.parametrize(("mask", "policy"), [("bidirectional", "full"), ("prefix", "block_memory")])
def test_a_cache_is_refused(mask: str, policy: str) -> None:
    from handscroll.kvcache import make_policy

    model = Transformer(changed(mask=mask))
    cache = make_policy(policy).start(model.config, model.position, 2)
    with pytest.raises(ValueError, match=rf"mask={mask}.*(without a cache|use full)"):
        model(TOKENS_BT, cache=cache)


@pytest.mark.parametrize("position", [LearnedOptions(), SinusoidalOptions()])
@pytest.mark.parametrize("lengths", [[9, 9], [9, 4]])
def test_embedding_is_a_sum(position: Any, lengths: list[int]) -> None:
    options = EmbeddingOptions(width=12, segments=3, norm=True)
    model = randomized(Transformer(changed(position=position, embedding=options)))
    kinds_BT = torch.randint(0, 3, (2, 9), generator=torch.Generator().manual_seed(2))
    layout = dataclasses.replace(Layout.rows(lengths, size=9), kinds_BT=kinds_BT)
    table = model.embedding
    if isinstance(position, LearnedOptions):
        added_TE = table.positions.weight[:9]  # type: ignore[union-attr]
    else:
        added_TE = torch.tensor(
            [[f(p / 10000 ** (i / 12)) for i in range(0, 12, 2) for f in (math.sin, math.cos)] for p in range(9)]
        )
    sum_BTE = table(TOKENS_BT) + added_TE + table.segments(kinds_BT)  # type: ignore[misc]
    normed_BTE = nn.functional.layer_norm(sum_BTE, (12,), table.norm.weight, table.norm.bias, 1e-5)  # type: ignore[union-attr]
    real = layout.index_BT >= 0
    got_BTE, _ = table.embed(TOKENS_BT, layout)
    torch.testing.assert_close(got_BTE[real], table.projection(normed_BTE)[real])  # type: ignore[misc]
    without, _ = table.embed(TOKENS_BT, Layout.rows(lengths, size=9))
    first, _ = table.embed(TOKENS_BT, dataclasses.replace(layout, kinds_BT=torch.zeros_like(kinds_BT)))
    assert torch.equal(without, first)


@pytest.mark.parametrize("position", [LearnedOptions(), SinusoidalOptions(), NoPositionOptions()])
def test_added_positions_with_a_cache(position: Any) -> None:
    from handscroll.kvcache import make_policy

    model = randomized(Transformer(changed(position=position)))
    cache = make_policy("full").start(model.config, model.position, 2)
    parts = [model(part, cache=cache) for part in TOKENS_BT.split([4, 1, 4], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(TOKENS_BT), atol=1e-5, rtol=1e-4)


def test_a_position_without_a_vector_is_refused() -> None:
    model = Transformer(changed(position=LearnedOptions(), max_positions=8))
    with pytest.raises(ValueError, match=r"position 8: this model has learnt vectors for its first 8 positions only"):
        model(TOKENS_BT)
    packed = Layout.packed(torch.arange(9).expand(2, 9), torch.arange(9).expand(2, 9), torch.zeros(2, 9).long())
    with pytest.raises(ValueError, match="position 8"):
        model(TOKENS_BT, packed)
    skipped = Layout.rows([4, 4])
    skipped = dataclasses.replace(skipped, positions_BTP=skipped.positions_BTP + 5)
    with pytest.raises(ValueError, match="position 8"):
        model(TOKENS_BT[:, :4], skipped)


def test_shared_layers_are_one() -> None:
    shared = randomized(Transformer(changed(shared_layers=True, num_layers=3)))
    apart = Transformer(changed(num_layers=3))
    state = shared.state_dict()
    for name, tensor in apart.state_dict().items():
        tensor.copy_(state[name.replace("layers.1.", "layers.0.").replace("layers.2.", "layers.0.")])
    assert torch.equal(shared(TOKENS_BT), apart(TOKENS_BT))


VARIANTS: list[dict[str, Any]] = [
    {"norm_placement": placement, "mask": mask} for placement, mask in zip(PLACEMENTS, (*MASKS, "causal"), strict=True)
] + [
    {"position": LearnedOptions(), "embedding": EmbeddingOptions(width=12, segments=2, norm=True)},
    {"position": SinusoidalOptions(), "shared_layers": True, "tied_embeddings": True, "norm_placement": "post"},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_any_mix_is_saved_counted_and_trained(changes: dict[str, Any], tmp_path: Path) -> None:
    config = changed(**changes)
    model = randomized(Transformer(config))
    assert parameter_count(config) == sum(parameter.numel() for parameter in model.parameters())
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.config == config
    assert torch.equal(again(TOKENS_BT), model(TOKENS_BT))
    again(TOKENS_BT).logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None for name, parameter in again.named_parameters())


def test_untrained_logits_have_the_size_of_the_table_whatever_follows_the_last_block() -> None:
    for placement in PLACEMENTS:
        model = Transformer(changed(norm_placement=placement, tied_embeddings=True, vocab_size=500, width=64))
        expected = 1 / 8 if placement == "deepnorm" else 1
        assert 0.5 < float(model(TOKENS_BT).detach().std()) / expected < 2
