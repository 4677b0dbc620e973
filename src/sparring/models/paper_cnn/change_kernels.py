"""The paper's CNN after a change of some pixels; see `sparse_kernels`.

A pixel reaches a few pooling windows of the first layer. Most of their outputs are zero before and
after; each that changes reaches 25 places of the second layer, and each feature that changes there
adds a multiple of one row of the first dense layer's weights.

Shapes: B images, R rows to compute, C = 32 and O = 64 channels, U = 1024 units.
"""

from typing import NamedTuple, no_type_check

import numpy as np

from sparring.models.paper_cnn.sparse_kernels import (
    FEATURES,
    HALF,
    IMAGE,
    MAPS,
    PADDED,
    SIDE,
    Array,
    add_rows,
    brightest,
    by_column,
    compiled,
    empty_list,
    pool,
    spread,
    window,
)


class Memory(NamedTuple):
    """Stored values for the images before a change."""

    maps: Array
    """[B, 196, C]: the first layer, pooled."""
    sums: Array
    """[B, 14, 14 O]: the second layer before bias, pooling and ReLU."""
    hidden: Array
    """[B, U]: the first dense layer before ReLU."""


@compiled
@no_type_check
def revise(before, after, rows, memory, layers, keep):
    """The first dense layer [R, U] for `after` at these rows, where `memory` is of `before`.

    With `keep` the memory becomes that of `after`.
    """
    hidden = np.empty((len(rows), memory.hidden.shape[1]), np.float32)
    padded, local = np.zeros((PADDED, PADDED), np.float32), np.empty_like(memory.sums[0])
    outputs, features = empty_list(memory.maps[0].size), empty_list(layers.dense.shape[0])
    for n in range(len(rows)):
        row = rows[n]
        hidden[n] = memory.hidden[row]
        padded[2:30, 2:30] = after[row]
        box = _box(before[row], after[row])
        count = _first_layer(padded, box, memory.maps[row], layers, outputs, keep)
        if count:
            sums = memory.sums[row]
            count = _second_layer(outputs, count, sums, local, layers, features, keep)
            add_rows(hidden[n], layers.dense, 0, features, 0, count, 0)
            if keep:
                memory.hidden[row] = hidden[n]
    return hidden


@compiled
@no_type_check
def _box(before, after):
    """The first and last row, the first and last column in which two images differ."""
    top, bottom, left, right = IMAGE, -IMAGE, IMAGE, -IMAGE
    for y in range(IMAGE):
        for x in range(IMAGE):
            if after[y, x] != before[y, x]:
                top, bottom = min(top, y), max(bottom, y)
                left, right = min(left, x), max(right, x)
    return top, bottom, left, right


@compiled
@no_type_check
def _first_layer(padded, box, maps, layers, changes, keep):
    """List the outputs of pooling windows that change, and return their number."""
    sums, fresh = np.empty(4 * MAPS, np.float32), np.empty(MAPS, np.float32)
    winners, tops, count = np.empty(MAPS, np.int32), np.empty((SIDE, SIDE), np.float32), 0
    brightest(padded, tops)
    top, bottom, left, right = box
    for y in range(max(0, (top - 2) // 2), min(SIDE - 1, (bottom + 2) // 2) + 1):
        for x in range(max(0, (left - 2) // 2), min(SIDE - 1, (right + 2) // 2) + 1):
            place = y * SIDE + x
            window(padded, tops, y, x, layers, sums, fresh, winners)
            count = _listed(fresh, maps[place], place * MAPS, changes, count)
            if keep:
                maps[place] = fresh
    return count


@compiled
@no_type_check
def _second_layer(changes, count, sums, local, layers, found, keep):
    """List the features that change with the first layer, and return their number."""
    top, bottom, left, right = SIDE, 0, SIDE, 0
    for n in range(count):
        y, x = divmod(changes.names[n] // MAPS, SIDE)
        top, bottom = min(top, y), max(bottom, y)
        left, right = min(left, x), max(right, x)
    # Whole pooling windows that the 5x5 kernels reach.
    top, bottom = max(0, top - 2) // 2, min(SIDE - 1, bottom + 2) // 2 + 1
    left, right = max(0, left - 2) // 2, min(SIDE - 1, right + 2) // 2 + 1
    reached = slice(2 * left * FEATURES, 2 * right * FEATURES)
    local[2 * top : 2 * bottom, reached] = sums[2 * top : 2 * bottom, reached]
    everywhere = np.ones((SIDE, SIDE), np.bool_)
    starts, columns = by_column(changes, count)
    spread(starts, columns, layers.kernels, everywhere, local)
    fresh, former = np.empty(FEATURES, np.float32), np.empty(FEATURES, np.float32)
    winners, counted = np.empty(FEATURES, np.int32), 0
    for y in range(top, bottom):
        for x in range(left, right):
            pool(local, y, x, layers.bias2, fresh, winners)
            pool(sums, y, x, layers.bias2, former, winners)
            counted = _listed(fresh, former, (y * HALF + x) * FEATURES, found, counted)
    if keep:
        sums[2 * top : 2 * bottom, reached] = local[2 * top : 2 * bottom, reached]
    return counted


@compiled
@no_type_check
def _listed(fresh, former, first, changes, count):
    """Append a change to the list; return its new length."""
    for k in range(len(fresh)):
        changes.names[count] = first + k
        changes.sizes[count] = fresh[k] - former[k]
        count += fresh[k] != former[k]
    return count
