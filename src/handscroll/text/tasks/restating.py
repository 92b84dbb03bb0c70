"""Answers in sentences that say again what was asked for.

A small model finds a value by the key right before it, so its reply has to bring the key there first. What stands
before the key stands before no key in a question or a context, or keys would be copied from there, too.
"""

from collections.abc import Sequence

RESTATED = {"en": "For {key} it is {value}.", "zh": "要说那{key}是{value}。"}
WITHOUT_KEY = {"en": "It is {value}.", "zh": "那是{value}。"}
JOINTS = {"en": " ", "zh": ""}


def restate(lang: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A sentence for each pair of key and value; where only one thing could be meant, its key is empty."""
    said = ((RESTATED if key else WITHOUT_KEY)[lang].format(key=key, value=value) for key, value in pairs)
    return JOINTS[lang].join(said)
