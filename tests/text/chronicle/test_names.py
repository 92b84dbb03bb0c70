"""Names: the two splits never meet, not even as parts of each other; pools hold near misses."""

import random
import time
from itertools import islice

import pytest

from handscroll.text.chronicle import LANGUAGES, Names
from handscroll.text.chronicle.names import name_parts


@pytest.mark.parametrize("lang", LANGUAGES)
def test_train_and_read_are_disjoint_for_any_seeds(lang: str) -> None:
    train = {name for seed in range(3) for name in Names(lang, "train", seed).take(10_000)}
    read = {name for seed in range(3, 6) for name in Names(lang, "read", seed).take(10_000)}
    rng = random.Random(0)
    train.update(name for _ in range(300) for name in Names(lang, "train").pool(12, rng, families=3, given=3))
    read.update(Names(lang, "read").draw(rng) for _ in range(5000))
    assert len(train) > 10_000
    assert not train & read
    text = "。".join(sorted(train)[::10])
    assert not any(name in text for name in sorted(read)[::200])


def test_shapes() -> None:
    for name in Names("en", "read", 1).take(5000):
        assert name.isascii()
        assert name.replace(" ", "").isalpha()
        assert name.count(" ") == 1
    chinese = Names("zh", "train", 1).take(5000)
    assert {len(name) for name in chinese} == {2}
    assert all("\u4e00" <= character <= "\u9fff" for name in chinese for character in name)


def test_no_name_begins_or_contains_another() -> None:
    families, given = name_parts("zh")
    assert not set(families) & set(given)
    last = set(name_parts("en").families)
    assert not any(name[:cut] in last for name in last for cut in range(2, len(name)))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_unique_deterministic_fast(lang: str) -> None:
    start = time.process_time()
    names = Names(lang, "read", 9).take(12_000)
    assert time.process_time() - start < 4  # about half a second on a machine that does nothing else
    assert len(set(names)) == 12_000
    assert Names(lang, "read", 9).take(100) == names[:100]
    assert Names(lang, "read", 10).take(100) != names[:100]


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("split", ["train", "read"])
def test_pool_has_near_misses(lang: str, split: str) -> None:
    names = Names(lang, split)
    for seed in range(50):
        pool = names.pool(12, random.Random(seed), families=5, given=5)
        assert pool == names.pool(12, random.Random(seed), families=5, given=5)
        assert len(set(pool)) == 12
        surnames = {name.split()[-1] if lang == "en" else name[0] for name in pool}
        assert len(surnames) < 10
    assert len(names.pool(40, random.Random(0), families=1, given=1)) == 40  # widened as far as needed


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="speaks en, zh"):
        Names("fr", "train")
    with pytest.raises(ValueError, match="one of train, read"):
        Names("en", "test")
    with pytest.raises(ValueError, match="ask for fewer"):
        Names("en", "read").pool(10_000_000, random.Random(0), families=10**6, given=10**6)


def test_used_up_names_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names("en", "read")
    monkeypatch.setattr(names, "_families", names._families[:3])
    monkeypatch.setattr(names, "_given", names._given[:3])
    with pytest.raises(ValueError, match="used up"):
        list(islice(names, 20))
