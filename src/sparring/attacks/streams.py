"""Random numbers that belong to one image: the same whichever others are attacked beside it.

The n-th number of a stream is a function of its seed and n alone, so that no generator has to be
kept or put back: splitmix64 (Steele, Lea & Flood 2014), for many seeds at once.

Shapes: B batch, N numbers.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_MIX1, _MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def uniform(
    seeds: Int64[Tensor, " B"], count: int, *, first: Int64[Tensor, " B"] | int = 0
) -> Float[Tensor, "B N"]:
    """`count` numbers of each stream from the `first` on, uniform in [0, 1), float32.

    Multiples of 2^-24. Cost: a dozen integer operations a number.
    """
    return (_shifted(bits(seeds, count, first=first), 40)).to(torch.float32) * 2.0**-24


def normal(
    seeds: Int64[Tensor, " B"], count: int, *, first: Int64[Tensor, " B"] | int = 0
) -> Float[Tensor, "B N"]:
    """As many standard normal numbers, from twice as many uniform ones (Box & Muller 1958)."""
    radius, turn = uniform(seeds, 2 * count, first=first).chunk(2, dim=1)
    return (-2 * torch.log1p(-radius)).sqrt() * (2 * math.pi * turn).cos()


def bits(
    seeds: Int64[Tensor, " B"], count: int, *, first: Int64[Tensor, " B"] | int = 0
) -> Int64[Tensor, "B N"]:
    """64 random bits for each number, as signed integers."""
    start = seeds + torch.as_tensor(first, device=seeds.device) * _signed(_GAMMA)
    steps = torch.arange(1, count + 1, device=seeds.device) * _signed(_GAMMA)
    mixed = start[:, None] + steps
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(_MIX1)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(_MIX2)
    return mixed ^ _shifted(mixed, 31)


def _shifted(values: Tensor, places: int) -> Tensor:
    """To the right, zeros coming in: PyTorch's own shift copies the sign."""
    return (values >> places) & ((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
