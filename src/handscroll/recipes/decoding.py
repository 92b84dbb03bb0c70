"""All that can be asked of decoding, by the flat names that Python and the command line share, and checked together.

Groups them into the options of the generation room. What each does stands there, and in `text/stops.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

from handscroll.generation.beam_search import BeamSearch
from handscroll.generation.options import Penalties, Sampling
from handscroll.text import Tokenizer
from handscroll.text.stops import StopStrings


class DecodingOptions(TypedDict, total=False):
    """What may follow `handscroll.generate`'s own parameters."""

    top_k: int
    top_p: float
    min_p: float
    typical: float
    logit_bias: Mapping[int, float]
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram: int
    stop: str | Sequence[str]
    logprobs: int | None
    beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    best_of: int


@dataclass(frozen=True)
class Decoding:
    """How a continuation is found, and where it ends.

    `stop`: texts that end it. `stop_ids`: tokens that do (None: the tokenizer's). `logprobs`: of how many of the
    likeliest tokens log-probabilities are told besides the chosen one's; None: of none.
    """

    sampling: Sampling = Sampling()
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] | None = None
    logprobs: int | None = None
    search: BeamSearch | None = None
    best_of: int = 1

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}: at least 1")
        if self.best_of < 1:
            raise ValueError(f"best_of={self.best_of}: at least 1 sample")
        if self.best_of > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"best_of={self.best_of} draws samples, which at temperature 0 are all alike: give a temperature"
            )
        StopStrings(self.stop)
        if self.search is None:
            return
        refused = {
            "a temperature": self.sampling.temperature,
            "best_of": self.best_of > 1,
            "stop strings": self.stop,
            "logprobs": self.logprobs is not None,
        }
        for name, is_given in refused.items():
            if is_given:
                raise ValueError(f"beam search knows nothing of {name}: leave out either that or beams")

    @property
    def rows(self) -> int:
        """Continuations that are held at a time."""
        return self.search.beams if self.search is not None else self.best_of

    def stop_ids_of(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """The tokens that end a text. A stop string that names a control token means that token."""
        control = tokenizer.special_tokens
        named = [control[stop] for stop in self.stop if stop in control]
        return (*(tokenizer.stop_ids if self.stop_ids is None else self.stop_ids), *named)


def make_decoding(
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    stop_ids: Sequence[int] | None = None,
    **options: Unpack[DecodingOptions],
) -> Decoding:
    """The flat options as one value. ValueError for what is unknown, impossible, or says nothing beside the others."""
    given: dict[str, Any] = dict(options)
    for name in given.keys() - DecodingOptions.__annotations__.keys():
        known = DecodingOptions.__annotations__
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"there is no option {name!r}: {hint}")
    filters = {name: given[name] for name in ("top_k", "top_p", "min_p", "typical", "logit_bias") if name in given}
    penalties = Penalties(
        **{
            name.removesuffix("_penalty"): given[name]
            for name in ("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram")
            if name in given
        }
    )
    searching: dict[str, Any] = {
        name: given[name] for name in ("beams", "length_penalty", "early_stopping") if name in given
    }
    search = BeamSearch(**({"beams": 1} | searching)) if searching else None
    if search is not None and search.beams == 1:
        for name, usual in (("length_penalty", 1.0), ("early_stopping", False)):
            if getattr(search, name) != usual:
                raise ValueError(f"{name}={getattr(search, name)} says nothing without beam search: give beams=4")
        search = None
    stop = given.get("stop", ())
    return Decoding(
        Sampling(temperature, seed, penalties=penalties, **filters),
        max_new_tokens,
        (stop,) if isinstance(stop, str) else tuple(stop),
        None if stop_ids is None else tuple(stop_ids),
        given.get("logprobs"),
        search,
        given.get("best_of", 1),
    )
