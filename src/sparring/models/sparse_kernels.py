"""The paper's CNN from one number that is not zero to the next, in single precision, by Numba.

Robust networks learn thresholds: their first layer is zero at nine places of ten, a third of the
features and a fifth of the units are alive. Everything here is one operation, `add_rows`: some
numbers' multiples of the rows of weights that they meet. Each image goes its way alone.

Shapes: C = 32 and O = 64 channels, F = 49 O features, U = 1024 units.
"""

from typing import Any, NamedTuple, TypeAlias, no_type_check

import numpy as np
from numba import njit

IMAGE, PADDED, SIDE, HALF = 28, 32, 14, 7
"""Height and width of images, with their black border, of the first maps and of the second."""

Array: TypeAlias = np.ndarray[Any, Any]
compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
# Numba reads these functions' own bodies: without no_type_check, the tests' shape checker would
# wrap them in code that it cannot compile.


class Layers(NamedTuple):
    """The weights, in the orders in which they are read."""

    windows: Array
    """[36, 4 C]: one pixel of a 6x6 patch to the four outputs of its pooling window."""
    patches: Array
    """[4 C, 36]: the same, back."""
    bias1: Array
    """[C]."""
    kernels: Array
    """[5 C, 5 O]: one input, for each of the five rows that it reaches, to five outputs."""
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
    """The numbers of a layer that are not zero, or have changed: a list with room to spare."""

    names: Array
    """Which they are."""
    sizes: Array
    """What they are, or by how much they have changed."""


@compiled
@no_type_check
def empty_list(most):
    """Room for so many, and to write one that then does not count."""
    return Alive(np.empty(most + 1, np.int32), np.empty(most + 1, np.float32))


@compiled
@no_type_check
def add_rows(sums, weights, shift, names, sizes, count):
    """Add to sums the named rows, from column `shift` on, times their sizes: four at a time.

    Then each sum is read and written a quarter as often. Rows and sizes are taken out of their
    lists before the loop over columns: within it, the compiler must suppose that sums overlap them.
    """
    end, whole = shift + len(sums), count - count % 4
    for m in range(0, whole, 4):
        f, g = weights[names[m], shift:end], weights[names[m + 1], shift:end]
        h, i = weights[names[m + 2], shift:end], weights[names[m + 3], shift:end]
        a, b, c, d = sizes[m], sizes[m + 1], sizes[m + 2], sizes[m + 3]
        for k in range(len(sums)):
            sums[k] += (a * f[k] + b * g[k]) + (c * h[k] + d * i[k])
    if count - whole > 1:
        f, g = weights[names[whole], shift:end], weights[names[whole + 1], shift:end]
        a, b = sizes[whole], sizes[whole + 1]
        for k in range(len(sums)):
            sums[k] += a * f[k] + b * g[k]
        whole += 2
    if count > whole:
        f, a = weights[names[whole], shift:end], sizes[whole]
        for k in range(len(sums)):
            sums[k] += a * f[k]


@compiled
@no_type_check
def window(padded, y, x, layers, sums, pooled, winners):
    """One pooling window of the first layer: the same bits whenever its pixels are the same."""
    channels = len(pooled)
    sums[:] = 0
    for i in range(6):
        row, taps = padded[2 * y + i, 2 * x : 2 * x + 6], layers.windows[6 * i : 6 * i + 6]
        a, b, c, d, e, f = row[0], row[1], row[2], row[3], row[4], row[5]
        if a != 0 or b != 0 or c != 0 or d != 0 or e != 0 or f != 0:
            for k in range(4 * channels):
                former = (a * taps[0, k] + b * taps[1, k]) + (c * taps[2, k] + d * taps[3, k])
                sums[k] += former + (e * taps[4, k] + f * taps[5, k])
    quarters = sums.reshape(4, channels)
    maxima(quarters[0], quarters[1], quarters[2], quarters[3], layers.bias1, pooled, winners)


@compiled
@no_type_check
def pool(sums, y, x, bias, pooled, winners):
    """One pooling window of the second layer, of whose sums [14, 14 O] these are."""
    step = len(bias)
    left, middle, right = 2 * x * step, (2 * x + 1) * step, (2 * x + 2) * step
    upper, lower = sums[2 * y], sums[2 * y + 1]
    a, b, c, d = upper[left:middle], upper[middle:right], lower[left:middle], lower[middle:right]
    maxima(a, b, c, d, bias, pooled, winners)


@compiled
@no_type_check
def maxima(a, b, c, d, bias, pooled, winners):
    """The largest of four, which it was, bias and ReLU."""
    for k in range(len(pooled)):
        upper, lower = max(a[k], b[k]), max(c[k], d[k])
        most = max(upper, lower)
        winners[k] = (b[k] > a[k]) if upper >= lower else 2 + (d[k] > c[k])
        pooled[k] = max(most + bias[k], np.float32(0))


@compiled
@no_type_check
def spread(alive, count, kernels, sums):
    """Add to sums what numbers bring to the 5x5 places around their own.

    Their names are flat indices. All that falls on one row of sums from one column of places is
    added up at once, so lists are long.
    """
    inputs, outputs = kernels.shape[0] // 5, sums.shape[1] // SIDE
    starts, sorted_ = _by_place(alive, count, inputs)
    met, top, bottom = empty_list(5 * inputs), SIDE, -SIDE
    for m in range(count):
        y = alive.names[m] // (SIDE * inputs)
        top, bottom = min(top, y), max(bottom, y)
    for x in range(SIDE):
        left, right = max(0, x - 2), min(SIDE, x + 3)
        shift = (left - x + 2) * outputs
        for row in range(max(0, top - 2), min(SIDE, bottom + 3)):
            found = 0
            for y in range(max(0, row - 2), min(SIDE, row + 3)):
                for m in range(starts[SIDE * y + x], starts[SIDE * y + x + 1]):
                    met.names[found] = sorted_.names[m] + row - y + 2
                    met.sizes[found] = sorted_.sizes[m]
                    found += 1
            reached = sums[row, left * outputs : right * outputs]
            add_rows(reached, kernels, shift, met.names, met.sizes, found)


@compiled
@no_type_check
def _by_place(alive, count, inputs):
    """Where each place's numbers begin, and the numbers, named by the kernels that they meet."""
    starts = np.zeros(SIDE * SIDE + 2, np.int32)
    for m in range(count):
        starts[alive.names[m] // inputs + 2] += 1
    for place in range(SIDE * SIDE):
        starts[place + 2] += starts[place + 1]
    found = empty_list(count)
    for m in range(count):
        place = alive.names[m] // inputs
        found.names[starts[place + 1]] = (alive.names[m] - place * inputs) * 5
        found.sizes[starts[place + 1]] = alive.sizes[m]
        starts[place + 1] += 1
    return starts, found
