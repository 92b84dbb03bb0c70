"""The judge is transformers: the same folder gives the same numbers, whole, padded, packed and layer by layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from handscroll.kvcache import Full
from handscroll.model import Capture, Layout

TOLERANCE = 1e-4
LENGTHS = (23, 9, 1)


def padded(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens_BT = torch.randint(0, 97, (len(LENGTHS), length), generator=torch.Generator().manual_seed(3))
    mask_BT = torch.arange(length) < torch.tensor(LENGTHS)[:, None]
    return tokens_BT, mask_BT


def test_logits_equal_transformers(pair: Any, tokens_BT: torch.Tensor) -> None:
    with torch.no_grad():
        ours, theirs = pair.ours(tokens_BT), pair.theirs(tokens_BT).logits
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


def test_logits_of_padded_rows_equal_transformers(pair: Any) -> None:
    tokens_BT, mask_BT = padded(LENGTHS[0])
    with torch.no_grad():
        ours = pair.ours(tokens_BT, Layout.rows(LENGTHS))
        theirs = pair.theirs(tokens_BT, attention_mask=mask_BT.long()).logits
    torch.testing.assert_close(ours[mask_BT], theirs[mask_BT], atol=TOLERANCE, rtol=0)
    assert ours.isfinite().all()


def test_logits_of_padded_rows_with_a_cache_equal_transformers(pair: Any) -> None:
    """Read in three pieces into a cache that keeps what a layer can see, rows of different lengths."""
    tokens_BT, mask_BT = padded(LENGTHS[0])
    cache, ours = Full().start(pair.ours.config, pair.ours.position, len(LENGTHS)), []
    with torch.no_grad():
        theirs = pair.theirs(tokens_BT, attention_mask=mask_BT.long()).logits
        for first, last in ((0, 9), (9, 10), (10, LENGTHS[0])):
            lengths = [min(max(length - first, 0), last - first) for length in LENGTHS]
            layout = Layout.rows(lengths, cache.lengths, size=last - first)
            ours.append(pair.ours(tokens_BT[:, first:last], layout, cache))
    torch.testing.assert_close(torch.cat(ours, dim=1)[mask_BT], theirs[mask_BT], atol=TOLERANCE, rtol=0)


def test_padding_is_inert(pair: Any) -> None:
    """Whatever stands in the padding, real tokens don't move; a padded row equals the row alone."""
    tokens_BT, mask_BT = padded(30)
    layout = Layout.rows(LENGTHS, size=30)
    with torch.no_grad():
        logits_BTV = pair.ours(tokens_BT, layout)
        other_BTV = pair.ours(tokens_BT.masked_fill(~mask_BT, 0), layout)
        alone = [pair.ours(tokens_BT[row : row + 1, :length])[0] for row, length in enumerate(LENGTHS)]
    assert torch.equal(logits_BTV[mask_BT], other_BTV[mask_BT])
    torch.testing.assert_close(logits_BTV[mask_BT], torch.cat(alone), atol=1e-5, rtol=0)


def test_packed_documents_equal_each_alone(pair: Any) -> None:
    lengths = (5, 9, 3)
    window = 20
    tokens_BT = torch.randint(0, 97, (1, window), generator=torch.Generator().manual_seed(4))
    index_T = torch.full((window,), -1)
    positions_T, document_T = torch.zeros(window, dtype=torch.long), torch.full((window,), -1)
    bounds, start = [], 0
    for number, length in enumerate(lengths):
        index_T[start : start + length] = torch.arange(start, start + length)
        positions_T[start : start + length] = torch.arange(length)
        document_T[start : start + length] = number
        bounds.append((start, start + length))
        start += length
    with torch.no_grad():
        packed_TV = pair.ours(tokens_BT, Layout.packed(index_T[None], positions_T[None], document_T[None]))[0]
        for first, last in bounds:
            alone_TV = pair.theirs(tokens_BT[:, first:last]).logits[0]
            torch.testing.assert_close(packed_TV[first:last], alone_TV, atol=TOLERANCE, rtol=0)


def test_later_start_moves_positions_only(pair: Any, tokens_BT: torch.Tensor) -> None:
    """RoPE is relative: the same tokens further on give the same logits, as transformers' position_ids do."""
    starts = (0, 100)
    layout = Layout.rows([tokens_BT.shape[1]] * 2, starts)
    with torch.no_grad():
        theirs = pair.theirs(tokens_BT, position_ids=torch.arange(tokens_BT.shape[1]) + torch.tensor(starts)[:, None])
        torch.testing.assert_close(pair.ours(tokens_BT, layout), theirs.logits, atol=TOLERANCE, rtol=0)


def test_captured_weights_and_layers_equal_transformers(pair: Any, tokens_BT: torch.Tensor) -> None:
    layout = dataclasses.replace(Layout.rows([tokens_BT.shape[1]] * 2), capture=Capture(weights=True, layers=True))
    with torch.no_grad():
        ours = pair.ours.hidden(tokens_BT, layout)
        theirs = pair.theirs(tokens_BT, output_attentions=True, output_hidden_states=True)
    assert len(ours.weights) == len(theirs.attentions) == pair.ours.config.num_layers
    for ours_BHTS, theirs_BHTS in zip(ours.weights, theirs.attentions, strict=True):
        torch.testing.assert_close(ours_BHTS, theirs_BHTS, atol=1e-5, rtol=0)
    # Theirs begin with the embedding and end with the normed output.
    assert len(ours.layers) == len(theirs.hidden_states) - 1
    for ours_BTE, theirs_BTE in zip(ours.layers[:-1], theirs.hidden_states[1:-1], strict=True):
        torch.testing.assert_close(ours_BTE, theirs_BTE, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(ours.last_BTE, theirs.hidden_states[-1], atol=TOLERANCE, rtol=0)


def test_captured_weights_of_padded_rows(pair: Any) -> None:
    tokens_BT, mask_BT = padded(LENGTHS[0])
    layout = Layout.rows(LENGTHS, capture=Capture(weights=True))
    with torch.no_grad():
        ours = pair.ours.hidden(tokens_BT, layout)
        plain = pair.ours.hidden(tokens_BT, Layout.rows(LENGTHS))
        theirs = pair.theirs(tokens_BT, attention_mask=mask_BT.long(), output_attentions=True)
    for ours_BHTS, theirs_BHTS in zip(ours.weights, theirs.attentions, strict=True):
        real = mask_BT[:, None, :, None].expand_as(ours_BHTS)
        torch.testing.assert_close(ours_BHTS[real], theirs_BHTS[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.last_BTE[mask_BT], plain.last_BTE[mask_BT], atol=1e-5, rtol=0)
    assert plain.weights == plain.layers == ()


@pytest.mark.parametrize("name", ["llama-gqa4-head20-bias", "qwen2-gqa4"])
def test_gradients_equal_transformers(name: str, pair_of: Any, tokens_BT: torch.Tensor) -> None:
    pair = pair_of(name)
    own = dict(pair.ours.named_parameters())
    loss = torch.nn.functional.cross_entropy(pair.ours(tokens_BT[:, :-1]).flatten(0, 1), tokens_BT[:, 1:].flatten())
    grads = dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))
    theirs = pair.theirs(tokens_BT, labels=tokens_BT)
    torch.testing.assert_close(loss, theirs.loss, atol=1e-5, rtol=0)
    their_names, their_tensors = zip(*pair.theirs.named_parameters(), strict=True)
    their_grads = dict(zip(their_names, torch.autograd.grad(theirs.loss, their_tensors), strict=True))
    assert their_grads["model.layers.0.self_attn.k_proj.weight"].abs().max() > 1e-5
    for own_name, file_name in (
        ("embedding.weight", "model.embed_tokens.weight"),
        ("layers.0.attention.q.bias", "model.layers.0.self_attn.q_proj.bias"),
        ("layers.0.attention.k.weight", "model.layers.0.self_attn.k_proj.weight"),
        ("layers.1.attention.o.weight", "model.layers.1.self_attn.o_proj.weight"),
        ("layers.1.feedforward_norm.weight", "model.layers.1.post_attention_layernorm.weight"),
        ("layers.1.feedforward.gate.weight", "model.layers.1.mlp.gate_proj.weight"),
        ("head.weight", "lm_head.weight"),
    ):
        torch.testing.assert_close(grads[own_name], their_grads[file_name], atol=1e-5, rtol=1e-3)
