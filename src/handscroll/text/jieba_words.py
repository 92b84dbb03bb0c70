"""Chinese cut into words by jieba, while a vocabulary is learnt: no entry of it then crosses the end of a word.

Knows how a piece of text inside `tokenizers` is cut at given places. Only learning is bounded by words: a
tokenizer.json can't call jieba, and one that gave other ids in `transformers`, vLLM or llama.cpp than here would be a
trap. Text is encoded with the merges that were learnt, and a few of these fit across the ends of words, too: 1.9 % of
the tokens of Romance of the Three Kingdoms cross one, 18.9 % without jieba (`docs/tokenizers.md`).

jieba's own start caches its dictionary as a marshalled file in the system's temporary folder, where others may write;
here it is read from the package each time.
"""

import re
import warnings
from functools import lru_cache
from typing import Any

HAN = r"\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
HAN_RUN = re.compile(f"[{HAN}]+")


def words_of(text: str) -> list[str]:
    """The words of `text` in order, all characters kept; what is no Han character stands in pieces between them."""
    words: list[str] = []
    end = 0
    for run in HAN_RUN.finditer(text):
        words += [text[end : run.start()]] if run.start() > end else []
        words += shared_dictionary().cut(run.group())
        end = run.end()
    return [*words, text[end:]] if end < len(text) else words


class JiebaCutter:
    """A pre-tokenizer for `tokenizers.pre_tokenizers.PreTokenizer.custom`."""

    def pre_tokenize(self, text: Any) -> None:
        text.split(self._cut)

    def _cut(self, _: int, piece: Any) -> list[Any]:
        parts, start = [], 0
        for word in words_of(str(piece)):
            parts.append(piece[start : start + len(word)])
            start += len(word)
        return parts


@lru_cache(maxsize=1)
def shared_dictionary() -> Any:
    """jieba's own; not to be changed."""
    return new_dictionary()


def new_dictionary() -> Any:
    """A `jieba.Tokenizer` that words may be added to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own source, in some versions of Python
        import jieba  # type: ignore[import-untyped]
    dictionary = jieba.Tokenizer()
    dictionary.FREQ, dictionary.total = dictionary.gen_pfdict(dictionary.get_dict_file())
    dictionary.initialized = True
    return dictionary
