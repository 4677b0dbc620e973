"""Nearest points within two constraints at once, one of them the pixel range, by Newton's method.

Shapes: B batch; images are [B, C, H, W].
"""

import torch
from torch import Tensor

LEAST_GAIN = 1e-6
"""Relative gain in scale² below which Newton's method stops: float32 resolves little more."""
LEAST = 1e-12
"""A gradient of this length can still be squared, and so can one of its inverse."""
MOST = 1e30
"""Larger products than any change reaches are taken for this one."""


def largest_scale(squares: Tensor, rooms: Tensor, eps: float, *, at_most: Tensor) -> Tensor:
    """Largest scale per image, up to `at_most`, with Σ min(scale²·squares, rooms) ≤ eps².

    In scale² the sum is concave and piecewise linear, so Newton's method from 0 never oversteps
    and is exact once it has met the right set of pixels that have used up their room. The
    sum is in double precision: where many pixels change alike, errors of single precision add up.
    """
    pixels = tuple(range(1, squares.ndim))
    limit = at_most.square()
    scale2, better = torch.zeros_like(limit), None
    while better is None or bool((better > scale2 * (1 + LEAST_GAIN)).any()):
        scale2 = scale2 if better is None else torch.maximum(scale2, better)
        scaled = scale2 * squares
        used = torch.minimum(scaled, rooms).sum(pixels, keepdim=True, dtype=torch.float64)
        left = (eps * eps - used).to(scale2.dtype)
        slope = _below(scaled, rooms).mul_(squares).sum(pixels, keepdim=True)
        better = torch.where(slope > 0, scale2 + left / slope, limit).clamp_max(limit)
    return torch.where(scale2 < limit, scale2.sqrt(), at_most)


def shortest_change(x: Tensor, normal: Tensor, gap: Tensor, rates: Tensor | None) -> Tensor:
    """Every pixel goes its way at its rate, or to its end of [0, 1], until normal · change = gap.

    Without `rates` all go at a rate of 1. That product is concave and piecewise linear in the time,
    so Newton's method from 0 never oversteps, and is exact once it has met the right set of pixels
    that are at their end. Gradients may be of any length, also where their squares underflow.
    """
    normal, gap, rates = _scaled(normal, gap, rates)
    way = normal.flatten(1).sign() * gap.sign()[:, None]
    rooms = way.clamp_min(0).sub_(x.flatten(1)).abs_()
    weights, wanted = normal.abs().flatten(1), gap.abs()[:, None]
    rates = None if rates is None else rates.flatten(1)
    slopes = weights if rates is None else weights * rates
    time, better = torch.zeros_like(wanted), None
    while better is None or bool((better > time * (1 + LEAST_GAIN)).any()):
        time = time if better is None else torch.maximum(time, better)
        gone = time if rates is None else time * rates
        come = torch.minimum(gone, rooms).mul_(weights).sum(1, keepdim=True)
        slope = _below(gone, rooms).mul_(slopes).sum(1, keepdim=True)
        better = torch.where(slope > 0, time + (wanted - come) / slope, time)
    gone = time if rates is None else time * rates
    return (way * torch.minimum(gone, rooms)).view_as(x)


def _scaled(
    normal: Tensor, gap: Tensor, rates: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same constraint with a largest entry of 0.5 to 1: by a power of two, which is exact.

    Ordinary gradients are left as they are.
    """
    largest = normal.flatten(1).abs().amax(1)
    if bool(((largest > LEAST) & (largest < 1 / LEAST)).all()):
        return normal, gap, rates
    _, exponent = torch.frexp(largest)
    halves = [(-each // 2, -each - -each // 2) for each in exponent.tolist()]
    # Two factors: that of a subnormal number is no number. Python's powers of two are exact.
    factors = [
        normal.new_tensor([2.0**half for half in each]) for each in zip(*halves, strict=True)
    ]

    def scaled(values: Tensor) -> Tensor:
        for factor in factors:
            values = values * factor.view(-1, *(1,) * (values.dim() - 1))
        return values

    wanted = scaled(gap).clamp(-MOST, MOST)
    return scaled(normal), wanted, None if rates is None else scaled(rates)


def _below(values: Tensor, limits: Tensor) -> Tensor:
    """1 where a value is below its limit, else 0: comparisons take five times as long."""
    return (limits - values).sign_().clamp_min_(0)
