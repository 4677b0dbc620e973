"""Rectangles of maps, each image's at its own place, and where convolutions carry them.

Shapes: B images, R rows of them, C channels, H W maps, h w windows.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

LARGEST = 9
"""Height and width in pixels up to which changes are computed as windows, all of one size."""

Of = TypeVar("Of")
Pair = tuple[int, int]
Place = tuple[Tensor, Tensor]
"""A row and a column for each image [R]."""


def by_axis(of: Callable[[int], Of]) -> tuple[Of, Of]:
    """What is so along the height, and along the width."""
    return of(0), of(1)


def corners(rows: Tensor) -> Place:
    """Where a whole map begins, for each of these rows."""
    zero = torch.zeros_like(rows)
    return zero, zero


class Slide(NamedTuple):
    """How a convolution or pooling slides over a map, by axis."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    products: int
    """Multiplications for one place of its output."""
    apply: Callable[[Tensor], Tensor]
    """Its outputs for a map that is padded already."""

    def reach(self, axis: int) -> int:
        """Pixels from the first to the last that an output is computed from."""
        return self.dilation[axis] * (self.kernel[axis] - 1)

    def needs(self, size: Pair) -> Pair:
        """Size of what an output window is computed from."""
        return by_axis(lambda a: (size[a] - 1) * self.stride[a] + self.reach(a) + 1)

    def reached(self, size: Pair, whole: Pair) -> Pair:
        """Size of the output window, of an output of this whole size, for an input window."""
        return by_axis(lambda a: min(whole[a], (size[a] - 1 + self.reach(a)) // self.stride[a] + 1))

    def first(self, start: Place) -> Place:
        """The first outputs that input windows reach, before those that lie outside are cut off."""
        return by_axis(lambda a: -((self.reach(a) - self.padding[a] - start[a]) // self.stride[a]))

    def begins(self, start: Place) -> Place:
        """Where what output windows are computed from begins; in the padding below 0."""
        return by_axis(lambda a: start[a] * self.stride[a] - self.padding[a])


class Window(NamedTuple):
    """A rectangle of a map: of one size, for each row at its own place."""

    start: Place
    size: Pair
    values: Tensor
    """[R, C, h, w]."""

    def of(self, places: Tensor) -> "Window":
        """Those of the rows at these places."""
        return Window(by_axis(lambda a: self.start[a][places]), self.size, self.values[places])


class Map(NamedTuple):
    """Maps with zeros around them, channels last, of which some rows are looked at."""

    padded: Tensor
    """[B, H + margins, W + margins, C], contiguous."""
    margin: Pair
    rows: Tensor
    """[R]."""

    def of(self, places: Tensor) -> "Map":
        """The same, of which the rows at these places are looked at."""
        return self._replace(rows=self.rows[places])

    def rectangle(self, start: Place, size: Pair) -> Tensor:
        """The values of rectangles [R, C, h, w]."""
        found = self._flat().index_select(0, self._pixels(start, size))
        return found.view(len(self.rows), *size, -1).permute(0, 3, 1, 2)

    def put(self, window: Window) -> None:
        """Write the values of a window."""
        values = window.values.permute(0, 2, 3, 1).flatten(0, 2)
        self._flat().index_copy_(0, self._pixels(window.start, window.size), values)

    def _flat(self) -> Tensor:
        return self.padded.view(-1, self.padded.shape[-1])

    def _pixels(self, start: Place, size: Pair) -> Tensor:
        """The indices of rectangles' pixels [R * h * w]."""
        _, height, width, _ = self.padded.shape
        top, left = (place + margin for place, margin in zip(start, self.margin, strict=True))
        corner = (self.rows * height + top) * width + left
        inside = torch.arange(size[0])[:, None] * width + torch.arange(size[1])
        return (corner[:, None] + inside.flatten()).flatten()


class Group(NamedTuple):
    """Rows whose changes lie in rectangles of one size."""

    places: Tensor
    """Where they are among the rows that are asked for [R]."""
    rows: Tensor
    """[R]."""
    start: Place
    size: Pair


def groups(before: Tensor, after: Tensor, rows: Tensor) -> Iterator[Group]:
    """The rows where a small rectangle changes, with the rectangles, then those of whole images."""
    whole = after.shape[2:]
    changed = (before[rows] != after[rows]).any(1)
    first, last = zip(*by_axis(lambda a: _spread(changed.any(2 - a))), strict=True)
    extent = by_axis(lambda a: last[a] - first[a] + 1)
    small = torch.maximum(*extent) <= LARGEST
    places = small.nonzero().flatten()
    if len(places):
        size = by_axis(lambda a: int(extent[a][places].max()))
        start = by_axis(lambda a: first[a][places].clamp_max(whole[a] - size[a]))
        yield Group(places, rows[places], start, size)
    places = (~small).nonzero().flatten()
    if len(places):
        yield Group(places, rows[places], corners(places), by_axis(lambda a: whole[a]))


def _spread(changed: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last place with a change, of [R, N]; the last twice where there is none."""
    count = changed.shape[1]
    places = torch.arange(count)
    first = torch.where(changed, places, count - 1).amin(1)
    return first, torch.where(changed, places, first[:, None]).amax(1)
