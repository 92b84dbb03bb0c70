"""RULER's thirteen tasks by name, with the parameters of its synthetic benchmark (https://arxiv.org/abs/2404.06654).

Of RULER's own: the parameters, the format of needles, assignments and lists, and the scoring (`scoring.py`). Ours: the
generators, the words of the instructions beyond the format, Chinese, and the depths, which are even where RULER draws
them. RULER hides needles in essays by Paul Graham and asks about SQuAD and HotpotQA; here both are files of the user,
`haystack_files` and `files`, without which these tasks say what they lack. It also shows one solved example before
variable tracing and common words, which is not done here, and begins the answer for the model, which the suites do on
request (`opened`).
"""

from typing import Any

from handscroll.text.tasks.needle import NeedleOptions
from handscroll.text.tasks.question_files import QuestionFilesOptions
from handscroll.text.tasks.variables import VariableOptions
from handscroll.text.tasks.words import CommonWordsOptions, FrequentWordsOptions

RULER: dict[str, tuple[str, Any]] = {
    "niah_single_1": ("needle", NeedleOptions("noise", "words", "numbers")),
    "niah_single_2": ("needle", NeedleOptions("essay", "words", "numbers")),
    "niah_single_3": ("needle", NeedleOptions("essay", "words", "uuids")),
    "niah_multikey_1": ("needle", NeedleOptions("essay", "words", "numbers", keys=4)),
    "niah_multikey_2": ("needle", NeedleOptions("needles", "words", "numbers")),
    "niah_multikey_3": ("needle", NeedleOptions("needles", "uuids", "uuids")),
    "niah_multivalue": ("needle", NeedleOptions("essay", "words", "numbers", values=4)),
    "niah_multiquery": ("needle", NeedleOptions("essay", "words", "numbers", queries=4)),
    "vt": ("variable_tracing", VariableOptions(chains=1, hops=4, haystack="noise")),
    "cwe": ("common_words", CommonWordsOptions(common=10, common_times=30, uncommon_times=3)),
    "fwe": ("frequent_words", FrequentWordsOptions(alpha=2.0)),
    "qa_1": ("qa", QuestionFilesOptions()),
    "qa_2": ("qa", QuestionFilesOptions()),
}
