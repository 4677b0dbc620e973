"""The proposals of Square: stripes and squares for L-infinity, bumps for L2.

Every image has its own place, size and signs. Squares are gathered and scattered. Bumps change what
lies outside them, too: they are computed with masks over whole images.

Shapes: B batch, C channels, H height, W width, N random numbers in [0, 1).
"""

import functools

import torch
from torch import Tensor

from sparring.attacks import streams
from sparring.attacks.threat import Threat


class LinfPatches:
    """Andriushchenko et al. 2020, algorithm 2: every change is of size ε."""

    local = True

    def draws(self, channels: int) -> int:
        """Two for the place, and the signs."""
        return 2 + channels

    def start(self, threat: Threat, images: Tensor, seeds: Tensor) -> Tensor:
        """Vertical stripes one pixel wide, each up or down by ε."""
        batch, channels, _, width = images.shape
        up = streams.uniform(seeds, channels * width) < 0.5
        stripes = _signs(up).to(images.dtype).view(batch, channels, 1, width)
        return threat.project(images + threat.eps * stripes, images)

    def plan(self, size: torch.Size, share: Tensor, numbers: Tensor) -> Tensor:
        """Side, row and column of a square, and a sign for each channel."""
        _, height, width = size
        side = (share * height * width).sqrt().round().clamp(1, min(height, width))
        corner = _corner(size, side, numbers[..., :2])
        return torch.cat([side[..., None], corner, _signs(numbers[..., 2:] < 0.5)], -1)

    def propose(
        self, threat: Threat, images: Tensor, best: Tensor, plan: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A square of the best image goes up or down to the end of the threat, by channel."""
        channels, _, width = images.shape[1:]
        square = plan[:, :3].long()
        side, corner = square[:, :1], square[:, 1:, None]
        # The last row and column of smaller squares are repeated up to the size of the largest.
        steps = torch.minimum(torch.arange(int(side.max()), device=images.device), side - 1)
        rows, columns = (corner + steps[:, None]).unbind(1)
        places = (rows[:, :, None] * width + columns[:, None]).flatten(1)
        places = places[:, None].expand(-1, channels, -1)
        signs = plan[:, 3:, None].to(images.dtype)
        x = best.clone(memory_format=torch.contiguous_format)
        former, clean = x.flatten(2).gather(2, places), images.flatten(2).gather(2, places)
        latter = threat.project(former + 2 * threat.eps * signs, clean)
        x.view(*x.shape[:2], -1).scatter_(2, places, latter)
        return x, (latter != former).flatten(1).any(1)


class L2Patches:
    """Andriushchenko et al. 2020, algorithm 3: two squares' share of ε goes into one bump."""

    local = False  # what is left of ε is shared out over the whole change

    def draws(self, channels: int) -> int:
        """Four for two places, one for how the bump lies, and the signs."""
        return 5 + channels

    def start(self, threat: Threat, images: Tensor, seeds: Tensor) -> Tensor:
        """A grid of bumps of fixed size, each up or down, scaled to ε."""
        batch, channels, height, width = images.shape
        side = max(min(height, width) // 5, 1)
        rows, columns = (height // side, width // side)
        up = streams.uniform(seeds, channels * rows * columns) < 0.5
        signs = _signs(up).to(images.dtype).view(batch, channels, rows, 1, columns, 1)
        bumps = signs * _bump(side).to(images).view(1, 1, 1, side, 1, side)
        field = torch.zeros_like(images)
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        inner = (..., slice(top, top + rows * side), slice(left, left + columns * side))
        field[inner] = bumps.reshape(batch, channels, rows * side, columns * side)
        return (images + threat.eps * field / _norm(field, (1, 2, 3))).clamp_(0, 1)

    def plan(self, size: torch.Size, share: Tensor, numbers: Tensor) -> Tensor:
        """Side, row and column of two squares, which way the bump lies, and the signs."""
        _, height, width = size
        side = _odd((share * height * width).sqrt().round(), min(height, width))
        corners = [_corner(size, side, numbers[..., n : n + 2]) for n in (0, 2)]
        return torch.cat([side[..., None], *corners, _signs(numbers[..., 4:] < 0.5)], -1)

    def propose(
        self, threat: Threat, images: Tensor, best: Tensor, plan: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One square's change is cleared, another's gets a bump of all that norm and what is left.

        The result is scaled to the sphere and clipped to the pixel range.
        """
        channels = images.shape[1]
        side = plan[:, :1]
        target, cleared = (_square(images, side, plan[:, n : n + 2]) for n in (1, 3))
        change = best - images
        left = (threat.eps**2 - change.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
        freed = (change * (target | cleared)).square().sum((2, 3), keepdim=True)
        signs = plan[:, 6:, None, None].to(images.dtype)
        bump = _placed_bump(images, plan) * target * signs
        old = change * target
        bump = bump + old / _norm(old, (2, 3))
        bump = bump / _norm(bump, (2, 3)) * (left / channels + freed).sqrt()
        change = torch.where(target, bump, torch.where(cleared, 0.0, change))
        x = (images + threat.eps * change / _norm(change, (1, 2, 3))).clamp_(0, 1)
        return x, (x != best).flatten(1).any(1)


def _square(images: Tensor, side: Tensor, corner: Tensor) -> Tensor:
    """Where a square of this side [B, 1] and corner [B, 2] lies."""
    row, column = corner[:, :1], corner[:, 1:]
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    in_rows = (rows >= row) & (rows < row + side)
    in_columns = (columns >= column) & (columns < column + side)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def _corner(size: torch.Size, side: Tensor, numbers: Tensor) -> Tensor:
    """Row and column of squares of these sides [...], uniform among those that fit [..., 2]."""
    room = torch.tensor(size[1:], device=side.device) - side[..., None] + 1
    return (numbers * room).floor()


def _signs(up: Tensor) -> Tensor:
    return torch.where(up, 1.0, -1.0)


def _odd(side: Tensor, most: int) -> Tensor:
    """At least three, odd, and not larger than the image."""
    side = side.clamp_min(3)
    side = side + (side % 2 == 0)
    return side.clamp_max(most - (most % 2 == 0) if most >= 3 else most)


def _placed_bump(images: Tensor, plan: Tensor) -> Tensor:
    """A pair of bumps at every image's square, turned for half; without meaning beyond it."""
    height, width = images.shape[2:]
    side, turned = plan[:, 0], plan[:, 5] > 0
    rows = torch.arange(height, device=images.device) - plan[:, 1:2]
    columns = torch.arange(width, device=images.device) - plan[:, 2:3]
    found = images.new_zeros(len(images), height, width)
    for size in side.unique().tolist():
        of_size = side == size
        pattern = _pair(int(size)).to(images)
        y = rows[of_size].clamp(0, size - 1).long()[:, :, None]
        x = columns[of_size].clamp(0, size - 1).long()[:, None, :]
        upright, lying = pattern[y, x], pattern[x, y]
        found[of_size] = torch.where(turned[of_size, None, None], lying, upright)
    return found[:, None]


@functools.lru_cache
def _pair(side: int) -> Tensor:
    """One bump above, its negative below, of norm 1."""
    upper = side // 2
    pair = torch.cat([_rectangle(upper, side), -_rectangle(side - upper, side)])
    return pair / pair.norm()


def _bump(side: int) -> Tensor:
    """A square pair of bumps for the first pattern."""
    return _pair(side) if side > 1 else torch.ones(1, 1)


def _rectangle(height: int, width: int) -> Tensor:
    """A bump highest in the middle: Σ 1/(k+1)² over the centred rectangles that hold a pixel."""
    bump = torch.zeros(height, width)
    middle_row, middle_column = height // 2, width // 2
    for k in range(max(middle_row, middle_column) + 1):
        rows = slice(max(middle_row - k, 0), middle_row + k + 1)
        columns = slice(max(middle_column - k, 0), middle_column + k + 1)
        bump[rows, columns] += 1 / (k + 1) ** 2
    return bump / bump.norm().clamp_min(1e-12)


def _norm(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    return values.square().sum(axes, keepdim=True).sqrt().clamp_min(1e-12)
