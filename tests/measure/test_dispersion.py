"""Dispersion against the weights that `transformers` gives for the same checkpoint, and against closed forms."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from handscroll.generation import read
from handscroll.kvcache import AttentionSinks, BlockMemory, Full, Policy, SlidingWindow
from handscroll.measure.asking import prompt_ids
from handscroll.measure.suites import Subject, evaluate, find_suite
from handscroll.measure.suites.dispersion import DispersionOptions, dispersion, query_dispersion
from handscroll.measure.suites.record import Measured
from handscroll.measure.suites.suite import Part
from handscroll.model import Cache, Transformer
from handscroll.recipes.folders import save_folder
from handscroll.text import Tokenizer

GOLD = [(100, 120), (180, 185)]


def test_closed_forms() -> None:
    even_HS = torch.full((2, 8), 1 / 8)
    gold_S = torch.arange(8) < 2
    spread = dispersion(even_HS, gold_S)
    assert spread.entropy == pytest.approx(math.log(8), rel=1e-6)
    assert spread.gold_mass == pytest.approx(0.25, rel=1e-6)
    sharp_HS = torch.zeros(2, 8)
    sharp_HS[0, 1], sharp_HS[1, 5] = 1, 1
    assert dispersion(sharp_HS, gold_S) == (0.0, 0.5)
    assert dispersion(sharp_HS, None).gold_mass is None


@pytest.fixture(scope="module")
def ids(model: Transformer) -> list[int]:
    return torch.randint(model.config.vocab_size, (300,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def attentions(
    model: Transformer, tokenizer: Tokenizer, ids: list[int], tmp_path_factory: pytest.TempPathFactory
) -> list[Tensor]:
    """(H, S) of each layer: the last token's weights by the other implementation, eager and in one forward."""
    folder: Path = tmp_path_factory.mktemp("saved") / "model"
    save_folder(model, tokenizer, folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.inference_mode():
        return [layer[0, :, -1] for layer in theirs(torch.tensor([ids]), output_attentions=True).attentions]


def cache_of(model: Transformer, policy: Policy, ids: list[int]) -> Cache:
    cache = policy.start(model.config, model.position, 1)
    list(read(model, [ids], cache))
    return cache


def slow(weights_HS: Tensor, first: int = 0) -> tuple[float, float]:
    """Entropy and gold mass by loops over heads and keys, over the keys from `first` on alone."""
    entropies, masses = [], []
    for head in weights_HS.tolist():
        kept = [weight / sum(head[first:]) for weight in head[first:]]
        entropies.append(-sum(weight * math.log(weight) for weight in kept if weight))
        masses.append(sum(w for place, w in enumerate(kept, first) if any(start <= place < end for start, end in GOLD)))
    return sum(entropies) / len(entropies), sum(masses) / len(masses)


def test_under_full_each_layer_equals_transformers(
    model: Transformer, ids: list[int], attentions: list[Tensor]
) -> None:
    cache = cache_of(model, Full(), ids[:260])
    found = query_dispersion(model, cache, ids[260:], GOLD)
    assert len(found) == len(attentions) == model.config.num_layers
    for mine, theirs in zip(found, map(slow, attentions), strict=True):
        assert mine.entropy == pytest.approx(theirs[0], rel=1e-5)
        assert mine.gold_mass == pytest.approx(theirs[1], rel=1e-4)
    assert cache.lengths == (260,)


@pytest.mark.parametrize("window", [130, 290])
def test_under_a_window_the_first_layer_sees_its_last_keys_alone(
    model: Transformer, ids: list[int], attentions: list[Tensor], window: int
) -> None:
    cache = cache_of(model, SlidingWindow(window), ids[:260])
    mine = query_dispersion(model, cache, ids[260:], GOLD)[0]
    entropy, mass = slow(attentions[0], 300 - window)
    assert mine.entropy == pytest.approx(entropy, rel=1e-5)
    assert mine.gold_mass == pytest.approx(mass, rel=1e-4)


def test_what_holds_all_tokens_gives_what_full_gives(model: Transformer, ids: list[int]) -> None:
    expected = query_dispersion(model, cache_of(model, Full(), ids[:40]), ids[40:50], [(10, 20)])
    for policy in (AttentionSinks(), BlockMemory()):
        found = query_dispersion(model, cache_of(model, policy, ids[:40]), ids[40:50], [(10, 20)])
        assert [each.entropy for each in found] == pytest.approx([each.entropy for each in expected], rel=1e-4)
        assert {each.gold_mass for each in found} == {None}
    assert query_dispersion(model, cache_of(model, Full(), ids[:40]), ids[40:50], [])[0].gold_mass is None


def test_the_suite_asks_about_the_gold_of_its_task(model: Transformer, tokenizer: Tokenizer) -> None:
    suite, subject = find_suite("dispersion"), Subject(model, tokenizer)
    options = DispersionOptions(tokens=600, questions=2, languages=("en",))
    read_ = suite.prepare(subject, Part("dispersion", "en"), options)
    *_, one = suite.measure(subject, Full(), read_, options)
    assert isinstance(one, Measured)
    (written,) = read_.written
    cache = cache_of(model, Full(), written.ids)
    expected = []
    for asked in written.sample.asked:
        ((start, end),) = asked.spans
        before = len(tokenizer.opening_ids) + len(tokenizer.encode(written.sample.context[:start]))
        after = len(tokenizer.opening_ids) + len(tokenizer.encode(written.sample.context[:end]))
        expected.append(query_dispersion(model, cache, prompt_ids(tokenizer, asked.question), [(before, after)]))
    for layer, row in enumerate(one.detail["layers"]):
        assert row["entropy"] == pytest.approx(sum(each[layer].entropy for each in expected) / 2, rel=1e-6)
        # Borders of sentences may fall into a token, which then counts or doesn't.
        assert row["gold mass"] == pytest.approx(sum(each[layer].gold_mass or 0 for each in expected) / 2, rel=0.1)
    with pytest.raises(ValueError, match="unknown task 'iq'"):
        evaluate(model, tokenizer, "dispersion", ["full"], task="iq")
