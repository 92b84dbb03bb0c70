"""RULER's tasks by their names, with its parameters."""

from handscroll.text.tasks import RULER

# RULER, table 5 of the paper's appendix and synthetic.yaml of its repository, by their own names.
NIAH = {
    "niah_single_1": ("noise", "words", "numbers", 1, 1, 1),
    "niah_single_2": ("essay", "words", "numbers", 1, 1, 1),
    "niah_single_3": ("essay", "words", "uuids", 1, 1, 1),
    "niah_multikey_1": ("essay", "words", "numbers", 4, 1, 1),
    "niah_multikey_2": ("needles", "words", "numbers", 1, 1, 1),
    "niah_multikey_3": ("needles", "uuids", "uuids", 1, 1, 1),
    "niah_multivalue": ("essay", "words", "numbers", 1, 4, 1),
    "niah_multiquery": ("essay", "words", "numbers", 1, 1, 4),
}


def test_ruler_by_name() -> None:
    assert list(RULER) == [*NIAH, "vt", "cwe", "fwe", "qa_1", "qa_2"]
    for name, (haystack, key, value, keys, values, queries) in NIAH.items():
        task, options = RULER[name]
        assert task == "needle"
        assert (options.haystack, options.key, options.value) == (haystack, key, value)
        assert (options.keys, options.values, options.queries) == (keys, values, queries)
    assert (RULER["vt"][0], RULER["vt"][1].chains, RULER["vt"][1].hops) == ("variable_tracing", 1, 4)
    cwe = RULER["cwe"][1]
    assert (cwe.common, cwe.common_times, cwe.uncommon_times) == (10, 30, 3)
    assert (RULER["fwe"][0], RULER["fwe"][1].alpha) == ("frequent_words", 2.0)
    assert RULER["qa_1"][0] == RULER["qa_2"][0] == "qa"
