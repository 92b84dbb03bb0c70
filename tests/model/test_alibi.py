"""ALiBi: slopes and masks of others, a network of theirs under Bloom's mask, and what the dynamic kind promises."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from handscroll.kernels.attention import attention_with_weights
from handscroll.model import Capture, Crossbatch, DirectMemory, Layout, ModelConfig, Transformer
from handscroll.model.families.llama import LLAMA
from handscroll.model.position import AlibiOptions, DynamicAlibiOptions, make_position
from handscroll.model.position.alibi import Alibi, slopes
from handscroll.model.position.dynamic_alibi import DynamicAlibi

WINDOW = 16
CONFIG = ModelConfig(
    vocab_size=60,
    width=48,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_width=12,
    feedforward_width=40,
    max_positions=WINDOW,
    position=AlibiOptions(),
)
DYNAMIC = dataclasses.replace(CONFIG, position=DynamicAlibiOptions())


def bloom_mask(num_heads: int, length: int) -> Tensor:
    """(H, T, T) of Bloom's ALiBi, which counts from the first key, and minus infinity where a key is later."""
    alibi_H1S = build_alibi_tensor(torch.ones(1, length), num_heads, torch.float32)
    return alibi_H1S.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), float("-inf"))


@pytest.mark.parametrize("num_heads", [1, 2, 3, 6, 8, 12, 32, 40, 71])
def test_slopes_are_those_of_bloom_and_mpt(num_heads: int) -> None:
    bloom_H = build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32)[:, 0, 1]
    mpt_H = -build_mpt_alibi_tensor(num_heads, 2)[:, 0, 0]
    torch.testing.assert_close(slopes(num_heads), bloom_H, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(slopes(num_heads), mpt_H, atol=1e-7, rtol=1e-5)


def test_slopes_of_the_paper() -> None:
    """Section 3: 1/2, 1/4, ..., 1/256 for 8 heads; for 16 those and their geometric means."""
    assert slopes(8).tolist() == [2.0**-power for power in range(1, 9)]
    torch.testing.assert_close(slopes(16), 2 ** -torch.arange(0.5, 8.5, 0.5))


def test_bias_is_blooms_up_to_what_a_softmax_drops() -> None:
    bias_HTS = Alibi(6, AlibiOptions(), WINDOW).bias(torch.arange(40), torch.arange(40))
    theirs_HTS = bloom_mask(6, 40)
    ours_HTS = bias_HTS.masked_fill(theirs_HTS.isinf(), float("-inf"))
    torch.testing.assert_close(ours_HTS.softmax(-1), theirs_HTS.softmax(-1), atol=1e-6, rtol=0)
    assert torch.equal(bias_HTS.diagonal(dim1=1, dim2=2), torch.zeros(6, 40))


@pytest.mark.parametrize("shape", [(6, 6), (6, 2), (4, 1)])
@torch.no_grad()
def test_the_network_equals_transformers_llama_under_blooms_mask(shape: tuple[int, int]) -> None:
    """Their Llama without rotation, given Bloom's mask: within the window and far past it."""
    heads, kv_heads = shape
    config = dataclasses.replace(CONFIG, num_heads=heads, num_kv_heads=kv_heads)
    ours = Transformer(config, seed=3).eval()
    for parameter in ours.parameters():
        parameter += 0.1 * torch.randn(parameter.shape)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60,
            hidden_size=48,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=12,
            attn_implementation="eager",
        )
    ).eval()
    theirs.load_state_dict({LLAMA.file_name(name): tensor for name, tensor in ours.state_dict().items()})
    theirs.model.rotary_emb.inv_freq.zero_()
    tokens_BT = torch.randint(60, (2, 5 * WINDOW), generator=torch.Generator().manual_seed(0))
    mask_BHTS = bloom_mask(heads, 5 * WINDOW).expand(2, -1, -1, -1)
    expected = theirs(tokens_BT, attention_mask=mask_BHTS, use_cache=False).logits
    torch.testing.assert_close(ours(tokens_BT), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(Transformer(dataclasses.replace(config, position=AlibiOptions()))(tokens_BT), expected)


@pytest.mark.parametrize("config", [CONFIG, DYNAMIC], ids=["plain", "dynamic"])
def test_a_bias_depends_on_the_distance_alone(config: ModelConfig) -> None:
    position, length = make_position(config), torch.tensor(3 * WINDOW)
    near = position.bias(torch.arange(9, 12), torch.arange(12), length)
    for start in (1, 50, 1_000_000):
        far = position.bias(torch.arange(9, 12) + start, torch.arange(12) + start, length)
        assert near is not None
        assert far is not None
        assert torch.equal(near, far)
    rows = position.bias(torch.tensor([[9], [30]]), torch.arange(12).expand(2, -1), torch.tensor([[20], [31]]))
    assert rows is not None
    for row, (query, total) in enumerate(((9, 20), (30, 31))):
        alone = position.bias(torch.tensor([query]), torch.arange(12), torch.tensor(total))
        assert alone is not None
        assert torch.equal(rows[row], alone)


def test_nothing_is_turned_and_nothing_copied() -> None:
    position, x_BHTD = make_position(CONFIG), torch.randn(2, 6, 5, 12)
    rotation = position.rotation(torch.arange(10).view(2, 5))
    assert position.rotate(x_BHTD, rotation) is x_BHTD
    assert rotation.cosine.shape == rotation.sine.shape == (2, 5, 0)


def random_model(config: ModelConfig) -> Transformer:
    model = Transformer(config, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("config", [CONFIG, DYNAMIC], ids=["plain", "dynamic"])
def test_packed_documents_and_padded_rows_equal_each_text_alone(config: ModelConfig) -> None:
    model, lengths = random_model(config), [40, 7, 20]
    texts = [torch.randint(60, (length,), generator=torch.Generator().manual_seed(length)) for length in lengths]
    alone = [model(text_T[None])[0] for text_T in texts]
    index_BT = torch.arange(sum(lengths))[None]
    positions_BT = torch.cat([torch.arange(length) for length in lengths])[None]
    document_BT = torch.arange(3).repeat_interleave(torch.tensor(lengths))[None]
    packed = model(torch.cat(texts)[None], Layout.packed(index_BT, positions_BT, document_BT))[0]
    torch.testing.assert_close(packed, torch.cat(alone), atol=2e-5, rtol=0)
    padded = model(torch.nn.utils.rnn.pad_sequence(texts, batch_first=True), Layout.rows(lengths))
    for row, length in enumerate(lengths):
        torch.testing.assert_close(padded[row, :length], alone[row], atol=2e-5, rtol=0)


@pytest.mark.parametrize("config", [CONFIG, DYNAMIC], ids=["plain", "dynamic"])
def test_asking_captured_weights_and_gradients(config: ModelConfig) -> None:
    model, tokens_BT = random_model(config), torch.randint(60, (2, 40))
    whole = model.hidden(tokens_BT, Layout.rows([40, 40], capture=Capture(weights=True)))
    wanted_BQ = torch.tensor([[39, 3], [20, 0]])
    some = model.hidden(tokens_BT, wanted_BQ=wanted_BQ)
    expected_BQE = whole.last_BTE[torch.arange(2)[:, None], wanted_BQ]
    torch.testing.assert_close(some.last_BTE, expected_BQE, atol=2e-5, rtol=0)
    torch.testing.assert_close(model.hidden(tokens_BT).last_BTE, whole.last_BTE, atol=2e-5, rtol=0)
    grads = []
    for recompute in (False, True):
        model.activation_checkpointing = recompute
        grads.append(torch.autograd.grad(model(tokens_BT).square().mean(), [*model.parameters()]))
    for plain, again in zip(*grads, strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(plain, again)


def test_crossbatch_looks_across_rows_with_the_bias_of_the_positions() -> None:
    config = DYNAMIC
    position, layout = make_position(config), Layout.rows([20, 20])
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 20, 12, generator=generator) for heads in (6, 2, 2))
    asking_Q, visible_QS = torch.tensor([3, 28]), torch.rand(2, 40, generator=generator) < 0.5
    visible_QS[:, 2] = True
    crossed = DirectMemory(position, layout, Crossbatch((0,), asking_Q, visible_QS))
    out_BHTD, _ = crossed.attend(query, key, value, layout)
    keys, values = (torch.cat(list(x_BKTD), dim=1)[None] for x_BKTD in (key, value))
    slopes_H = position.slopes_at(torch.tensor([20]), torch.device("cpu"))[0]  # type: ignore[attr-defined]
    for place, visible_S in zip(asking_Q.tolist(), visible_QS, strict=True):
        row, token = divmod(place, 20)
        distance_S = (token - torch.arange(20).repeat(2)).abs()
        mask_H1S = (-slopes_H[:, None] * distance_S).masked_fill(~visible_S, float("-inf"))[:, None]
        expected, _ = attention_with_weights(query[row, None, :, token, None], keys, values, mask_H1S, False)
        torch.testing.assert_close(out_BHTD[row, :, token], expected[0, :, 0], atol=1e-5, rtol=0)


HEADS = [1, 2, 6, 8, 40]


@pytest.mark.parametrize("num_heads", HEADS)
def test_dynamic_changes_nothing_within_the_trained_window(num_heads: int) -> None:
    """Bit for bit; just past it, hardly: it is continuous there."""
    plain, dynamic = (make(num_heads, 100) for make in (plain_alibi, dynamic_alibi))
    for length in (1, 50, 100):
        assert torch.equal(dynamic.slopes_at(torch.tensor([length]), CPU), plain.slopes_at(None, CPU))
    past = dynamic.slopes_at(torch.tensor([101]), CPU)
    torch.testing.assert_close(past, plain.slopes_at(None, CPU), atol=0, rtol=0.011)
    assert (past <= plain.slopes_at(None, CPU)).all()


@pytest.mark.parametrize("num_heads", HEADS[1:])
@pytest.mark.parametrize("length", [101, 1000, 4800])
def test_dynamic_keeps_resolution_near_and_reach_far(num_heads: int, length: int) -> None:
    position, window = dynamic_alibi(num_heads, 100), 100
    trained = -plain_alibi(num_heads, 100).bias(torch.tensor([window - 1]), torch.arange(window))[:, 0]
    longer = -position.bias(torch.tensor([length - 1]), torch.arange(length), torch.tensor(length))[:, 0]
    steepest, shallowest = int(slopes(num_heads).argmax()), int(slopes(num_heads).argmin())
    # Near: neighbours differ for the steepest head as they did.
    assert torch.equal(longer[steepest, -2:], trained[steepest, -2:])
    # Far: for the shallowest head the farthest token is as far as the farthest of the window was.
    torch.testing.assert_close(longer[shallowest, 0], trained[shallowest, 0], atol=1e-5, rtol=1e-5)
    # Its mask is that of the window, interpolated.
    at_S = torch.arange(length, dtype=torch.float64) * (window - 1) / (length - 1)
    interpolated = trained[shallowest, 0].double() * (1 - at_S / (window - 1))
    torch.testing.assert_close(longer[shallowest].double(), interpolated, atol=1e-4, rtol=1e-5)


def test_dynamic_resolutions_stay_a_geometric_sequence_and_shrink_with_the_length() -> None:
    position = dynamic_alibi(8, 100)
    lengths = torch.tensor([100, 200, 1000, 100_000])
    slopes_LH = position.slopes_at(lengths, CPU).double()
    steps_LH = slopes_LH.log().diff(dim=-1)
    torch.testing.assert_close(steps_LH, steps_LH[:, :1].expand_as(steps_LH), atol=1e-6, rtol=0)
    assert (slopes_LH.diff(dim=-1) < 0).all()
    assert (slopes_LH[:, 1:].diff(dim=0) < 0).all()
    assert torch.equal(slopes_LH[:, 0], torch.full((4,), 0.5, dtype=torch.float64))


def test_dynamic_order_follows_steepness_where_slopes_are_interleaved() -> None:
    """With 6 heads, those of 4 and two between them: a steeper head is never slowed down more than a shallower one."""
    kept_H = dynamic_alibi(6, 100).slopes_at(torch.tensor([5000]), CPU)[0] / slopes(6)
    order = slopes(6).argsort(descending=True)
    assert (kept_H[order].diff() < 0).all()


CPU: Any = torch.device("cpu")


def plain_alibi(num_heads: int, window: int) -> Alibi:
    return Alibi(num_heads, AlibiOptions(), window)


def dynamic_alibi(num_heads: int, window: int) -> DynamicAlibi:
    return DynamicAlibi(num_heads, DynamicAlibiOptions(), window)
