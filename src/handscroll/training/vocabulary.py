"""What an objective that changes tokens knows of the vocabulary, as numbers.

Made from a tokenizer once; objectives know no tokenizer.

V entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from handscroll.text import Tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """`size` entries. `roles`: the ids of the control tokens that were asked for. `control`: those of all.

    `sentence_ends`: the entries whose text ends as a sentence does, and those that end a turn.
    """

    size: int
    roles: Mapping[str, int]
    control: tuple[int, ...] = ()
    sentence_ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Tokenizer, roles: tuple[str, ...], asker: str, place: str) -> Vocabulary:
        """`asker` needs the roles, and the tokenizer is that of `place`. ValueError where it lacks one."""
        ids = {role: tokenizer.role_id(role) for role in roles}
        missing = [role for role, id_ in ids.items() if id_ is None]
        if missing:
            raise ValueError(
                f"{asker} needs a control token as {', '.join(missing)}, and the tokenizer of {place} has none "
                f"(its control tokens are {', '.join(tokenizer.special_tokens) or 'none'}): take a tokenizer that has "
                f"it, such as BERT's, or let a new one be learnt for {asker}"
            )
        found = {role: id_ for role, id_ in ids.items() if id_ is not None}
        control = tuple(tokenizer.special_tokens.values())
        return cls(tokenizer.vocab_size, found, control, (*tokenizer.sentence_ends, *tokenizer.stop_ids))

    @cached_property
    def is_control_V(self) -> NDArray[np.bool_]:
        return self._among(self.control)

    @cached_property
    def is_end_V(self) -> NDArray[np.bool_]:
        return self._among(self.sentence_ends)

    def _among(self, ids: tuple[int, ...]) -> NDArray[np.bool_]:
        is_among_V = np.zeros(self.size, dtype=bool)
        is_among_V[list(ids)] = True
        return is_among_V
