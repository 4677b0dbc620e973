"""Forward and backward passes of the paper's CNN, but for its last layer, by `sparse_kernels`.

Shapes: B images, C = 32 and O = 64 channels, F = 49 O features, U = 1024 units.
A number that is not zero is named by its flat index times four plus the place, in reading order, of
the maximum in its pooling window; of equal ones the first, as in PyTorch.
"""

from typing import no_type_check

import numpy as np

from sparring.models.paper_cnn.sparse_kernels import (
    FEATURES,
    HALF,
    IMAGE,
    MAPS,
    PADDED,
    SIDE,
    Alive,
    add_rows,
    brightest,
    by_column,
    compiled,
    empty_list,
    pool,
    spread,
    window,
)


@compiled
@no_type_check
def forward(images, layers, names, counts):
    """The features [B, F]; names of what is not zero in maps and features.

    `names` [B, 196 C + F + 2] and `counts` [B, 2] are what `backward` needs.
    """
    found = np.zeros((len(images), HALF * HALF * FEATURES), np.float32)
    padded = np.zeros((PADDED, PADDED), np.float32)
    sums = np.empty((SIDE, SIDE * FEATURES), np.float32)
    everywhere = np.ones((SIDE, SIDE), np.bool_)
    maps, features = empty_list(SIDE * SIDE * MAPS), empty_list(HALF * HALF * FEATURES)
    for n in range(len(images)):
        padded[2:30, 2:30] = images[n]
        first, second = names[n, : len(maps.names)], names[n, len(maps.names) :]
        counts[n, 0] = count = _first_layer(padded, layers, Alive(first, maps.sizes))
        maps.names[:count] = first[:count] // 4
        sums[:] = 0
        starts, columns = by_column(maps, count)
        spread(starts, columns, layers.kernels, everywhere, sums)
        counts[n, 1] = count = _second_layer(sums, layers.bias2, Alive(second, features.sizes))
        for m in range(count):
            found[n, second[m] // 4] = features.sizes[m]
    return found


@compiled
@no_type_check
def by_rows(inputs, weights, bias):
    """Inputs [B, N] times weights [N, M], plus a bias; zeros cost nothing."""
    found = np.empty((len(inputs), weights.shape[1]), np.float32)
    alive = empty_list(inputs.shape[1])
    for n in range(len(inputs)):
        count = 0
        for k in range(inputs.shape[1]):
            alive.names[count], alive.sizes[count] = k, inputs[n, k]
            count += inputs[n, k] != 0
        found[n] = bias
        add_rows(found[n], weights, 0, alive, 0, count, 0)
    return found


@compiled
@no_type_check
def _first_layer(padded, layers, alive):
    sums, pooled = np.empty(4 * MAPS, np.float32), np.empty(MAPS, np.float32)
    winners, tops = np.empty(MAPS, np.int32), np.empty((SIDE, SIDE), np.float32)
    places, bright, count = np.empty(SIDE * SIDE + 1, np.int32), 0, 0
    brightest(padded, tops)
    flat = tops.reshape(-1)
    # Listed first: the processor cannot foresee which windows are bright, but that the next one is.
    for place in range(SIDE * SIDE):
        places[bright] = place
        bright += flat[place] > layers.wakes[0]
    for place in places[:bright]:
        y, x = divmod(place, SIDE)
        awake = window(padded, tops, y, x, layers, sums, pooled, winners)
        count = _listed(pooled[:awake], winners, place * MAPS, alive, count)
    return count


@compiled
@no_type_check
def _second_layer(sums, bias, alive):
    pooled, winners = np.empty(FEATURES, np.float32), np.empty(FEATURES, np.int32)
    count = 0
    for y in range(HALF):
        for x in range(HALF):
            pool(sums, y, x, bias, pooled, winners)
            count = _listed(pooled, winners, (y * HALF + x) * FEATURES, alive, count)
    return count


@compiled
@no_type_check
def _listed(pooled, winners, first, alive, count):
    """Append a number unless it is zero; return the new length."""
    some = 0
    for k in range(len(pooled)):
        some += pooled[k] > 0
    if not some:
        return count
    for k in range(len(pooled)):
        alive.names[count] = 4 * (first + k) + winners[k]
        alive.sizes[count] = pooled[k]
        count += pooled[k] > 0
    return count


@compiled
@no_type_check
def backward(gradients, layers, names, counts):
    """The gradient of images [B, 28, 28], from that of `forward`'s features [B, F].

    An image whose loss does not depend on its features costs little.
    """
    split = SIDE * SIDE * MAPS + 1
    found = np.empty((len(gradients), IMAGE, IMAGE), np.float32)
    padded = np.empty((PADDED, PADDED), np.float32)
    to_maps, wanted = np.empty((SIDE, SIDE * MAPS), np.float32), np.empty(SIDE * SIDE, np.bool_)
    for n in range(len(gradients)):
        found[n] = 0
        if not gradients[n].any():
            continue
        starts, won = _winners(names[n, split:][: counts[n, 1]], gradients[n])
        alive = names[n, :split][: counts[n, 0]]
        wanted[:] = False
        for name in alive:
            wanted[name // (4 * MAPS)] = True
        to_maps[:] = 0
        spread(starts, won, layers.mirrored, wanted.reshape(SIDE, SIDE), to_maps)
        padded[:] = 0
        _back_to_pixels(alive, to_maps.reshape(-1), layers, padded)
        found[n] = padded[2:30, 2:30]
    return found


@compiled
@no_type_check
def _winners(alive, gradient):
    """Maxima of the second layer's windows with their gradients, for `spread`."""
    starts, found = np.zeros(SIDE * SIDE + 2, np.int32), empty_list(len(alive))
    for m in range(len(alive)):
        y, x = _place(alive[m])
        starts[x * SIDE + y + 2] += 1
    for place in range(SIDE * SIDE):
        starts[place + 2] += starts[place + 1]
    for m in range(len(alive)):
        (y, x), feature = _place(alive[m]), alive[m] // 4
        at = starts[x * SIDE + y + 1]
        found.names[at] = 5 * (feature % FEATURES) - y
        found.sizes[at] = gradient[feature]
        starts[x * SIDE + y + 1] = at + 1
    return starts, found


@compiled
@no_type_check
def _place(name):
    """Row and column of a feature's maximum in the second layer, before pooling."""
    (y, x), winner = divmod(name // (4 * FEATURES), HALF), name % 4
    return 2 * y + winner // 2, 2 * x + winner % 2


@compiled
@no_type_check
def _back_to_pixels(alive, to_maps, layers, padded):
    """Gradients of the patches, from the outputs of the first layer that are not zero."""
    patch, seen, begun = np.empty(36, np.float32), empty_list(MAPS), 0
    while begun < len(alive):
        place, count = alive[begun] // (4 * MAPS), 0
        y, x = divmod(place, SIDE)
        while begun < len(alive) and alive[begun] // (4 * MAPS) == place:
            seen.names[count] = alive[begun] % 4 * MAPS + alive[begun] // 4 % MAPS
            seen.sizes[count] = to_maps[alive[begun] // 4]
            count, begun = count + 1, begun + 1
        patch[:] = 0
        add_rows(patch, layers.patches, 0, seen, 0, count, 0)
        padded[2 * y : 2 * y + 6, 2 * x : 2 * x + 6] += patch.reshape(6, 6)
