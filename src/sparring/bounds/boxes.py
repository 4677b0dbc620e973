"""Intervals of tensors, and sets of images.

Shapes: B batch, R linear forms of each image, S one image or one layer's output.
"""

from typing import NamedTuple

import torch
from torch import Tensor

UNIT = 2.0**-24
"""Half the distance from 1 to the next float32: the largest relative error of one operation."""
ALLOWANCE = 2.0**-32
"""Relative error of a linear form's value in float64; that of a sum of two million entries."""


class Box(NamedTuple):
    """Lower and upper bounds of a tensor [B, *S]."""

    low: Tensor
    high: Tensor

    @property
    def largest(self) -> Tensor:
        """The largest absolute value."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def widened(self, slack: Tensor) -> "Box":
        """The box with `slack` more on both sides."""
        return Box(self.low - slack, self.high + slack)

    def within(self, other: "Box") -> "Box":
        """The intersection with another box; both must contain the same values."""
        return Box(torch.maximum(self.low, other.low), torch.minimum(self.high, other.high))

    @property
    def centred(self) -> tuple[Tensor, Tensor]:
        """The middle, and half of the width."""
        middle = self.low.lerp(self.high, 0.5)
        return middle, self.high - middle

    def lowest(self, forms: Tensor) -> Tensor:
        """The smallest value [B, R] of linear forms [B, R, *S] in the box.

        Forms [1, R, *S] are those of all images. In float64 the value allows for its own rounding.
        """
        rows, (middle, reach) = forms.flatten(2), self.centred
        found = product(rows, middle) - product(rows.abs(), reach)
        if forms.dtype is not torch.float64:
            return found
        return found - ALLOWANCE * product(rows.abs(), self.largest)

    def part(self, places: Tensor | slice) -> "Box":
        """The boxes of these images."""
        return Box(self.low[places], self.high[places])


class Region(NamedTuple):
    """Images in a box and, if `radius` is given, within that Euclidean distance of its `centre`."""

    box: Box
    centre: Tensor
    radius: float | None = None

    def lowest(self, forms: Tensor) -> Tensor:
        """A lower bound [B, R] of linear forms [B, R, *S] on these images."""
        inside = self.box.lowest(forms)
        if self.radius is None:
            return inside
        rows = forms.flatten(2)
        reach = self.radius * rows.norm(dim=2)
        error = ALLOWANCE * (product(rows.abs(), self.centre.abs()) + reach)
        return torch.maximum(inside, product(rows, self.centre) - reach - error)

    def part(self, places: Tensor | slice) -> "Region":
        """The regions of these images."""
        return Region(self.box.part(places), self.centre[places], self.radius)


def product(rows: Tensor, values: Tensor) -> Tensor:
    """The value [B, R] of each form [B, R, S], or [1, R, S] for all images, at values [B, *S]."""
    values = values.flatten(1).to(rows.dtype)
    if len(rows) == 1:
        return values @ rows[0].T
    return (rows @ values.unsqueeze(2)).squeeze(2)
