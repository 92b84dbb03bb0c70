"""How the next token is picked, as frozen options. What they do stands in `logits/`, one file each.

`temperature` 0 takes the likeliest token; filters would say nothing then, so that they are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Penalties:
    """What repeats itself becomes less likely.

    `repetition` (1: none) counts what was read, too; `presence` and `frequency` (0: none) only what was generated.
    `no_repeat_ngram` (0: none): so many tokens in a row never occur twice, what was read included.
    """

    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.repetition < math.inf:
            raise ValueError(f"repetition_penalty={self.repetition}: above 0; 1 changes nothing, 1.1 is a usual value")
        for name in ("presence", "frequency"):
            if not math.isfinite(value := getattr(self, name)):
                raise ValueError(f"{name}_penalty={value}: a finite number; 0 changes nothing, usual are -2 to 2")
        if self.no_repeat_ngram < 0:
            raise ValueError(f"no_repeat_ngram={self.no_repeat_ngram}: a number of tokens; 0 allows repetition")


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy: the likeliest token. Above, logits are divided by it; a token is drawn by `seed`.

    `top_k` (0: all), `top_p` (1: all), `min_p` (0: all) and `typical` (1: all) leave tokens out before that.
    `logit_bias` is added to the logits of the tokens that it names; minus infinity forbids one.
    """

    temperature: float = 0.0
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical: float = 1.0
    penalties: Penalties = Penalties()
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature}: a finite number, 0 (greedy) or more")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: a number of tokens; 0 leaves none out")
        for name in ("top_p", "typical"):
            if not 0 < (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name}={value}: a probability above 0, up to 1, which leaves none out")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p}: a share from 0, which leaves none out, to 1")
        if self.temperature == 0:
            for name, off in (("top_k", 0), ("top_p", 1), ("min_p", 0), ("typical", 1)):
                if (value := getattr(self, name)) != off:
                    raise ValueError(
                        f"{name}={value} says nothing at temperature 0, which always takes the likeliest token: "
                        "give a temperature above 0, such as 1"
                    )
        for token, value in self.logit_bias.items():
            if math.isnan(value) or value == math.inf:
                raise ValueError(f"logit_bias of token {token} is {value}: a finite number, or -inf to forbid it")

    def check_tokens(self, vocab_size: int) -> None:
        """ValueError where `logit_bias` names a token that the model doesn't know."""
        for token in self.logit_bias:
            if not 0 <= token < vocab_size:
                raise ValueError(f"logit_bias names token {token}, but the model knows 0 to {vocab_size - 1}")
