"""What all rotary positions share: turning pairs of a head's first features, paired by halves or with their neighbours.

A variant says how fast each pair turns, and by what cosine and sine are multiplied. Angles are computed in float64 and
cast after cosine and sine. How features are paired is a matter of their order, which training and files depend on, and
of nothing else; how many there are to a rotation says how much of a head is turned.

Letters: B batch, T tokens, H heads, D features of a head that are turned, F all of a head's, R numbers of a rotation.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

# The table of angles grows with the positions asked for; past the limit they are computed anew each time.
TABLE_START = 1 << 12
TABLE_LIMIT = 1 << 17

Number = TypeVar("Number", float, Tensor)


class Rotation(NamedTuple):
    """Cosine and sine of each position, times the attention factor: (..., R), float32.

    Adjacent pairs have one of each, R = D/2. Where halves are paired each feature has its own, R = D, the sine with the
    sign that it is multiplied by: a feature is then turned by two products and a sum.
    """

    cosine: Tensor
    sine: Tensor


class Rotary:
    """Turns a pair by position * frequencies[i] (RoFormer, arXiv 2104.09864, equation 34).

    Pair i is (i, i + D/2) with a `pairing` of "halves", as in GPT-NeoX and Hugging Face's Llama, and (2i, 2i + 1) with
    "adjacent", as in the paper, GPT-J and GLM. Cosine and sine are multiplied by `attention_factor`, so that what
    turned features add to a score is by its square.
    """

    # Whether `rotation` looks at lengths. If so, a text that grows turns all of its keys anew.
    depends_on_length = False
    adds_bias = False

    def __init__(self, pairing: str, frequencies: Tensor, max_positions: int, attention_factor: float = 1.0):
        self.pairing, self.frequencies, self.attention_factor = pairing, frequencies, attention_factor
        self.turned_width = 2 * frequencies.shape[-1]
        self._table = self._angles(torch.arange(min(max_positions, TABLE_START), device="cpu"), frequencies)

    def rotation(self, positions: Tensor, lengths: Tensor | None = None) -> Rotation:
        """Positions are integers of any shape; the result has one more dimension, R."""
        lowest, highest = map(int, positions.aminmax()) if positions.numel() else (0, 0)
        if lowest < 0 or highest >= TABLE_LIMIT:
            return self._angles(positions, self.frequencies)
        # A local name: another thread may replace the table by a smaller one between the check and the lookup.
        table = self._table
        if highest >= len(table.cosine):
            table = self._angles(torch.arange(1 << highest.bit_length()), self.frequencies)
        if table.cosine.device != positions.device:
            table = Rotation(*(part.to(positions.device) for part in table))
        self._table = table
        return Rotation(table.cosine[positions], table.sine[positions])

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """x (B, H, T, F); the rotation's positions are (T,), (B, T) or (B, H, T). Same dtype and shape back."""
        cosine, sine = rotation
        if cosine.dim() == 3:
            cosine, sine = cosine[:, None], sine[:, None]
        if self.turned_width < x.shape[-1]:
            turned, rest = x[..., : self.turned_width], x[..., self.turned_width :]
            return torch.cat((self._turned(turned, cosine, sine), rest), dim=-1)
        return self._turned(x, cosine, sine)

    def _turned(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """x (B, H, T, D)."""
        if self.pairing == "adjacent":
            return _multiplied(x, cosine, sine)
        if cosine.dtype != x.dtype:
            cosine, sine = cosine.to(x.dtype), sine.to(x.dtype)
        # Rolled features come first: they lie side by side head by head, and so does the sum.
        return x.roll(self.turned_width // 2, -1) * sine + x * cosine

    def bias(self, query_positions: Tensor, key_positions: Tensor, lengths: Tensor | None = None) -> None:
        """None: turned queries and keys say it all."""

    def _angles(self, positions: Tensor, frequencies: Tensor) -> Rotation:
        angles = positions.to(torch.float64)[..., None] * frequencies.to(positions.device)
        cosine = (angles.cos() * self.attention_factor).float()
        sine = (angles.sin() * self.attention_factor).float()
        if self.pairing == "adjacent":
            return Rotation(cosine, sine)
        return Rotation(torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1))


def _multiplied(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Neighbours as the real and imaginary part of a number: without any strided read, a third of the time."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    # Complex numbers begin at even places only, which the heads of an odd width don't.
    wide = wide if all(stride % 2 == 0 for stride in wide.stride()[:-1]) else wide.contiguous()
    turns = torch.complex(cosine.to(wide.dtype), sine.to(wide.dtype))
    pairs = torch.view_as_complex(wide.view(*wide.shape[:-1], wide.shape[-1] // 2, 2)) * turns
    return torch.view_as_real(pairs).flatten(-2).to(x.dtype)


def frequencies(turned_width: int, theta: float | Tensor) -> Tensor:
    """theta^(-2i/D) for every pair i: (D/2,), or (..., D/2) where theta is (..., 1); float64."""
    # The host even where a model is being built on the meta device: these are numbers, not weights.
    device = theta.device if isinstance(theta, Tensor) else "cpu"
    exponents = torch.arange(0, turned_width, 2, dtype=torch.float64, device=device) / turned_width
    return theta**-exponents


def stretched_theta(theta: float, factor: Number, turned_width: int) -> Number:
    """theta * factor^(D/(D-2)): the first pair turns as before, the last one `factor` times slower ("NTK-aware")."""
    times: Number = factor ** (turned_width / (turned_width - 2))
    return theta * times
