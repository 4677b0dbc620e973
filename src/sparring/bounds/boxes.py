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

    def lowest(self, forms: Tensor) -> Tensor:
        """The smallest value [B, R] of linear forms [B, R, *S] in the box."""
        rows = forms.flatten(2)
        middle = ((self.low + self.high) / 2).flatten(1)
        reach = ((self.high - self.low) / 2).flatten(1)
        found = _product(rows, middle) - _product(rows.abs(), reach)
        return found - ALLOWANCE * _product(rows.abs(), self.largest.flatten(1))

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
        error = ALLOWANCE * (_product(rows.abs(), self.centre.abs().flatten(1)) + reach)
        return torch.maximum(inside, _product(rows, self.centre.flatten(1)) - reach - error)

    def part(self, places: Tensor | slice) -> "Region":
        """The regions of these images."""
        return Region(self.box.part(places), self.centre[places], self.radius)


def _product(rows: Tensor, values: Tensor) -> Tensor:
    return (rows @ values.unsqueeze(2)).squeeze(2)
