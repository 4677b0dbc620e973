"""The paper's CNN from one number that is not zero to the next, in single precision, by Numba.

Robust networks learn thresholds: their first layer is zero at nine places of ten, a third of the
features and a fifth of the units are alive. Everything here is one operation, `add_rows`: some
numbers' multiples of the rows of weights that they meet. Each image goes its way alone.

Shapes: C = 32 and O = 64 channels, F = 49 O features, U = 1024 units.
Units: pixels in [0, 1].
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, no_type_check

import numpy as np
from numba import njit

IMAGE, PADDED, SIDE, HALF = 28, 32, 14, 7
"""Height and width of images, with their black border, of the first maps and of the second."""
MAPS, FEATURES = 32, 64
"""Channels of the first layer and of the second."""
FEW = 16
"""Channels of the first layer to compute in a window in which the others are all zero."""

Array: TypeAlias = np.ndarray[Any, Any]

log = logging.getLogger(__name__)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled at its first call and cached on disk if Numba can write there."""
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return njit(cache=True, **settings)(function)
    except (RuntimeError, OSError):
        _say_uncached()
        return njit(**settings)(function)


@functools.cache
def _say_uncached() -> None:
    log.warning(
        "the kernels of the paper's CNN are compiled anew in this process, which takes a while, "
        "because Numba finds no folder to keep them in: set NUMBA_CACHE_DIR to one that you may "
        "write to"
    )


# Numba reads these functions' own bodies: without no_type_check, the tests' shape checker would
# wrap them in code that it cannot compile.


class Layers(NamedTuple):
    """The weights in the layouts that the kernels read."""

    wakes: Array
    """[C], in rising order: a channel is zero in a window without a brighter pixel."""
    few: Array
    """[36, 4 FEW]: one pixel of a 6x6 patch to the four outputs of its pooling window."""
    windows: Array
    """[36, 4 C]: the same for all channels."""
    patches: Array
    """[4 C, 36]: one output of a pooling window back to its patch."""
    bias1: Array
    """[C]."""
    kernels: Array
    """[5 C, 5 O]: one input, for each of the five rows that it reaches, to five places there."""
    mirrored: Array
    """[5 O, 5 C]: one output back to its inputs."""
    bias2: Array
    """[O]."""
    dense: Array
    """[F, U]."""
    transposed: Array
    """[U, F]."""
    bias3: Array
    """[U]."""


class Alive(NamedTuple):
    """The numbers of a layer that are not zero, or have changed, with spare places at the end."""

    names: Array
    """Their indices."""
    sizes: Array
    """Their values, or their changes."""


@compiled
@no_type_check
def empty_list(most):
    """Room for so many, and to write one that then does not count."""
    return Alive(np.empty(most + 1, np.int32), np.empty(most + 1, np.float32))


@compiled
@no_type_check
def add_rows(sums, weights, shift, listed, begin, end, offset):
    """Add to sums the rows named from `begin` to `end`, from column `shift` on, times their sizes.

    Four at a time: then each sum is read and written a quarter as often. `offset` is added to the
    names. Rows and sizes are taken out of their lists before the loop over columns: within it, the
    compiler must suppose that sums overlap them.
    """
    names, sizes, stop = listed.names, listed.sizes, shift + len(sums)
    whole = end - (end - begin) % 4
    for m in range(begin, whole, 4):
        f, g = weights[names[m] + offset, shift:stop], weights[names[m + 1] + offset, shift:stop]
        h, i = (
            weights[names[m + 2] + offset, shift:stop],
            weights[names[m + 3] + offset, shift:stop],
        )
        a, b, c, d = sizes[m], sizes[m + 1], sizes[m + 2], sizes[m + 3]
        for k in range(len(sums)):
            sums[k] += (a * f[k] + b * g[k]) + (c * h[k] + d * i[k])
    if end - whole > 1:
        f, g = (
            weights[names[whole] + offset, shift:stop],
            weights[names[whole + 1] + offset, shift:stop],
        )
        a, b = sizes[whole], sizes[whole + 1]
        for k in range(len(sums)):
            sums[k] += a * f[k] + b * g[k]
        whole += 2
    if end > whole:
        f, a = weights[names[whole] + offset, shift:stop], sizes[whole]
        for k in range(len(sums)):
            sums[k] += a * f[k]


@compiled
@no_type_check
def brightest(padded, tops):
    """The brightest pixel in each pooling window of the first layer."""
    rows = np.empty(PADDED, np.float32)
    for y in range(SIDE):
        rows[:] = padded[2 * y]
        for i in range(1, 6):
            for k in range(PADDED):
                rows[k] = max(rows[k], padded[2 * y + i, k])
        for x in range(SIDE):
            a, b, c = 2 * x, 2 * x + 2, 2 * x + 4
            former = max(max(rows[a], rows[a + 1]), max(rows[b], rows[b + 1]))
            tops[y, x] = max(former, max(rows[c], rows[c + 1]))


@compiled
@no_type_check
def window(padded, tops, y, x, layers, sums, pooled, winners):
    """One pooling window of the first layer: the same bits whenever its pixels are the same.

    `tops` tells which outputs may be above zero: the first ones, whose number it returns. The
    others, of `pooled`, are set to zero.
    """
    if tops[y, x] <= layers.wakes[0]:
        pooled[:] = 0
        return 0
    if tops[y, x] <= layers.wakes[FEW]:
        taps, awake = layers.few, FEW
        pooled[FEW:] = 0
    else:
        taps, awake = layers.windows, MAPS
    some = sums[: 4 * awake]
    some[:] = 0
    for i in range(6):
        row = padded[2 * y + i, 2 * x : 2 * x + 6]
        f, g, h = taps[6 * i], taps[6 * i + 1], taps[6 * i + 2]
        u, v, w = taps[6 * i + 3], taps[6 * i + 4], taps[6 * i + 5]
        a, b, c, d, e, j = row[0], row[1], row[2], row[3], row[4], row[5]
        if a != 0 or b != 0 or c != 0 or d != 0 or e != 0 or j != 0:
            for k in range(len(some)):
                former = (a * f[k] + b * g[k]) + (c * h[k] + d * u[k])
                some[k] += former + (e * v[k] + j * w[k])
    left, right = some[: 2 * awake], some[2 * awake :]
    maxima(
        left[:awake],
        left[awake:],
        right[:awake],
        right[awake:],
        layers.bias1[:awake],
        pooled[:awake],
        winners[:awake],
    )
    return awake


@compiled
@no_type_check
def pool(sums, y, x, bias, pooled, winners):
    """One pooling window of the second layer, of whose sums [14, 14 O] these are."""
    left, middle, right = 2 * x * FEATURES, (2 * x + 1) * FEATURES, (2 * x + 2) * FEATURES
    upper, lower = sums[2 * y], sums[2 * y + 1]
    a, b, c, d = upper[left:middle], upper[middle:right], lower[left:middle], lower[middle:right]
    maxima(a, b, c, d, bias, pooled, winners)


@compiled
@no_type_check
def maxima(a, b, c, d, bias, pooled, winners):
    """Bias and ReLU of the largest of four, and its place."""
    for k in range(len(pooled)):
        upper, lower = max(a[k], b[k]), max(c[k], d[k])
        most = max(upper, lower)
        winners[k] = (b[k] > a[k]) if upper >= lower else 2 + (d[k] > c[k])
        pooled[k] = max(most + bias[k], np.float32(0))


@compiled
@no_type_check
def spread(starts, columns, kernels, wanted, sums):
    """Add to sums [14, 14 N] what numbers bring to the 5x5 places around their own.

    `columns` has the numbers column of places by column, of place p from `starts[p]` on, and a
    number's name plus (row + 2) is that of its kernel's row for this row of places. All that falls
    on one row from one column is added up at once, so lists are long. Nothing is added where no
    sums are `wanted` [14, 14].
    """
    width = sums.shape[1] // SIDE
    for x in range(SIDE):
        for row in range(SIDE):
            begin = starts[SIDE * x + max(0, row - 2)]
            end = starts[SIDE * x + min(SIDE, row + 3)]
            left, right = max(0, x - 2), min(SIDE, x + 3)
            while left < right and not wanted[row, left]:
                left += 1
            while left < right and not wanted[row, right - 1]:
                right -= 1
            if begin < end and left < right:
                reached = sums[row, left * width : right * width]
                add_rows(reached, kernels, (left - x + 2) * width, columns, begin, end, row + 2)


@compiled
@no_type_check
def by_column(alive, count):
    """Outputs of the first layer, named by flat indices, as `spread` needs them."""
    starts, found = np.zeros(SIDE * SIDE + 2, np.int32), empty_list(count)
    for m in range(count):
        y, x = divmod(alive.names[m] // MAPS, SIDE)
        starts[x * SIDE + y + 2] += 1
    for place in range(SIDE * SIDE):
        starts[place + 2] += starts[place + 1]
    for m in range(count):
        y, x = divmod(alive.names[m] // MAPS, SIDE)
        at = starts[x * SIDE + y + 1]
        found.names[at] = 5 * (alive.names[m] % MAPS) - y
        found.sizes[at] = alive.sizes[m]
        starts[x * SIDE + y + 1] = at + 1
    return starts, found
