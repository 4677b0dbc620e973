"""A pass of the paper's CNN to the logits' last layer and back, by `sparse_kernels`.

Shapes: B images, C = 32 and O = 64 channels, F = 49 O features, U = 1024 units.
A number that is alive is named by its flat index times four plus the place, in reading order, that
won its pooling window; of equal ones the first, as in PyTorch.
"""

from typing import no_type_check

import numpy as np

from sparring.models.sparse_kernels import (
    HALF,
    IMAGE,
    PADDED,
    SIDE,
    Alive,
    add_rows,
    compiled,
    empty_list,
    pool,
    spread,
    window,
)


@compiled
@no_type_check
def forward(images, layers, names, counts):
    """The first dense layer before ReLU [B, U]; names of what was alive, of the maps and features.

    `names` [B, 196 C + F + 2] and `counts` [B, 2] are what `backward` needs.
    """
    channels, outputs = len(layers.bias1), len(layers.bias2)
    hidden = np.empty((len(images), len(layers.bias3)), np.float32)
    padded = np.zeros((PADDED, PADDED), np.float32)
    sums = np.empty((SIDE, SIDE * outputs), np.float32)
    maps, features = empty_list(SIDE * SIDE * channels), empty_list(HALF * HALF * outputs)
    for n in range(len(images)):
        padded[2:30, 2:30] = images[n]
        first, second = names[n, : len(maps.names)], names[n, len(maps.names) :]
        counts[n, 0] = count = _first_layer(padded, layers, Alive(first, maps.sizes))
        maps.names[:count] = first[:count] // 4
        sums[:] = 0
        spread(maps, count, layers.kernels, sums)
        counts[n, 1] = count = _second_layer(sums, layers.bias2, Alive(second, features.sizes))
        features.names[:count] = second[:count] // 4
        hidden[n] = layers.bias3
        add_rows(hidden[n], layers.dense, 0, features.names, features.sizes, count)
    return hidden


@compiled
@no_type_check
def _first_layer(padded, layers, alive):
    channels = len(layers.bias1)
    sums, pooled = np.empty(4 * channels, np.float32), np.empty(channels, np.float32)
    winners, count = np.empty(channels, np.int32), 0
    for y in range(SIDE):
        for x in range(SIDE):
            window(padded, y, x, layers, sums, pooled, winners)
            count = _listed(pooled, winners, (y * SIDE + x) * channels, alive, count)
    return count


@compiled
@no_type_check
def _second_layer(sums, bias, alive):
    pooled, winners = np.empty(len(bias), np.float32), np.empty(len(bias), np.int32)
    count = 0
    for y in range(HALF):
        for x in range(HALF):
            pool(sums, y, x, bias, pooled, winners)
            count = _listed(pooled, winners, (y * HALF + x) * len(bias), alive, count)
    return count


@compiled
@no_type_check
def _listed(pooled, winners, first, alive, count):
    """Put what is not zero at the end of the list; its new length."""
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
    """The gradient of images [B, 28, 28], from that of `forward`'s hidden layer [B, U].

    An image whose loss does not depend on its logits costs nothing.
    """
    channels, outputs = len(layers.bias1), len(layers.bias2)
    features, split = HALF * HALF * outputs, SIDE * SIDE * channels + 1
    found = np.empty((len(gradients), IMAGE, IMAGE), np.float32)
    to_features, units = np.empty(features, np.float32), empty_list(gradients.shape[1])
    to_maps = np.empty((SIDE, SIDE * channels), np.float32)
    padded = np.empty((PADDED, PADDED), np.float32)
    for n in range(len(gradients)):
        count = 0
        for u in range(gradients.shape[1]):
            units.names[count], units.sizes[count] = u, gradients[n, u]
            count += gradients[n, u] != 0
        found[n] = 0
        if not count:
            continue
        to_features[:] = 0
        add_rows(to_features, layers.transposed, 0, units.names, units.sizes, count)
        to_maps[:] = 0
        _back_through_features(names[n, split:], counts[n, 1], to_features, layers, to_maps)
        padded[:] = 0
        _back_through_maps(names[n, :split], counts[n, 0], to_maps, layers, padded)
        found[n] = padded[2:30, 2:30]
    return found


@compiled
@no_type_check
def _back_through_features(names, count, gradient, layers, to_maps):
    """From the features that are alive to the winners of their windows, and on to the maps."""
    outputs = len(layers.bias2)
    won = empty_list(count)
    for m in range(count):
        feature, winner = names[m] // 4, names[m] % 4
        place = feature // outputs
        y, x = 2 * (place // HALF) + winner // 2, 2 * (place % HALF) + winner % 2
        won.names[m] = (y * SIDE + x) * outputs + feature - place * outputs
        won.sizes[m] = gradient[feature]
    spread(won, count, layers.mirrored, to_maps)


@compiled
@no_type_check
def _back_through_maps(names, count, to_maps, layers, padded):
    """From the outputs of the first layer that are alive to the patches that they saw."""
    channels = len(layers.bias1)
    flat, patch = to_maps.reshape(-1), np.empty(36, np.float32)
    scratch, begun = empty_list(channels), 0
    while begun < count:
        place, end = names[begun] // (4 * channels), begun
        while end < count and names[end] // (4 * channels) == place:
            scratch.names[end - begun] = names[end] % 4 * channels + names[end] // 4 % channels
            scratch.sizes[end - begun] = flat[names[end] // 4]
            end += 1
        patch[:] = 0
        add_rows(patch, layers.patches, 0, scratch.names, scratch.sizes, end - begun)
        y, x = divmod(place, SIDE)
        padded[2 * y : 2 * y + 6, 2 * x : 2 * x + 6] += patch.reshape(6, 6)
        begun = end
