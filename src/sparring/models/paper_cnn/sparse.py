"""The paper's CNN under attack: passes that skip zeros, and logits after a change of few pixels.

Shapes: B images, R rows of them, K classes.  Units: pixels in [0, 1].
"""

import functools
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from typing_extensions import override

from sparring.errors import cause
from sparring.models.forms import AttackPasses
from sparring.models.hardware import has_fast_products
from sparring.models.paper_cnn.network import PaperCNN
from sparring.models.paper_cnn.spectral import spectral_weights

log = logging.getLogger(__name__)

Array = NDArray[np.float32]

PARTS = 4
"""Parts of a batch for each thread, since images differ in cost."""
PRODUCTS = 8
"""Images from which the first dense layer is a matrix product, where those are fast."""


class SparsePasses(AttackPasses):
    """The logits of a `PaperCNN` with its present weights, for attacks.

    It computes the network in single precision, up to the order of sums, without products with zero
    (docs/decisions/0008).
    It has threads of its own, as many as PyTorch has when it is built. PyTorch's threads busy-wait
    for milliseconds after their work and occupy the cores, so PyTorch has one thread meanwhile.
    Cost, on the network of the preset fast: half of a forward and backward pass by frequencies.
    Needs Numba and a CPU: see `sparse_passes`.
    """

    name = "fp32 sparse"
    threads = 1

    def __init__(self, network: PaperCNN) -> None:
        from sparring.models.paper_cnn import (  # Numba is an extra
            change_kernels,
            pass_kernels,
            sparse_kernels,
        )

        self._kernels, self._changes = pass_kernels, change_kernels
        threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._threads = threads
        self._products = has_fast_products()
        with torch.no_grad():
            taps, bias1, kernels, bias2, dense, bias3, last, bias4 = network.parameters()
            wakes, order = _wakes(taps, bias1).sort(stable=True)
            bias1, kernels = bias1[order], kernels[:, order]
            windows = spectral_weights(network).windows.view(4, len(order), 36)[:, order]
            flipped = kernels.flip(2, 3).permute(1, 2, 3, 0)
            self._layers = sparse_kernels.Layers(
                wakes=_array(wakes),
                few=_array(windows[:, : sparse_kernels.FEW].flatten(0, 1).t()),
                windows=_array(windows.flatten(0, 1).t()),
                patches=_array(windows.flatten(0, 1)),
                bias1=_array(bias1),
                kernels=_array(flipped.reshape(5 * len(bias1), -1)),
                mirrored=_array(kernels.permute(0, 2, 3, 1).reshape(5 * len(bias2), -1)),
                bias2=_array(bias2),
                dense=_array(dense.t()),
                transposed=_array(dense),
                bias3=_array(bias3),
            )
            self._no_bias = np.zeros(dense.shape[1], np.float32)
            self._last = (last.t().clone(), bias4.clone())
            maps = bias1.relu().view(1, -1, 1, 1).expand(-1, -1, 14, 14)
            sums = functional.conv2d(maps, kernels, padding=2).permute(0, 2, 3, 1)
            hidden, _ = self._forward(torch.zeros(1, 1, 28, 28))
            rows = (maps.permute(0, 2, 3, 1).flatten(1, 2), sums.flatten(2), hidden)
            names = change_kernels.Memory._fields
            self._black = {name: row.contiguous() for name, row in zip(names, rows, strict=True)}

    @override
    def __call__(self, images: Tensor) -> Tensor:
        return self._logits(_Hidden.apply(images, self))

    def compile(self) -> None:
        """Compile all kernels. Cost: seconds, or milliseconds if they are cached."""
        image = torch.zeros(1, 1, 28, 28)
        with torch.inference_mode(mode=False), torch.enable_grad():
            attacked = torch.zeros_like(image).requires_grad_()
            torch.autograd.grad(self(attacked).sum(), attacked)
        memory = self.remember(image)
        self.revised(memory, image, image, torch.arange(1))

    def remember(self, images: Tensor) -> dict[str, Tensor]:
        """The memory of these images for `revised`, 79 kB for each.

        Cost: about two passes.
        """
        memory = {
            name: row.repeat(len(images), *[1] * (row.ndim - 1))
            for name, row in self._black.items()
        }
        self.keep(memory, torch.zeros_like(images), images, torch.arange(len(images)))
        return memory

    def revised(
        self, memory: Mapping[str, Tensor], before: Tensor, after: Tensor, rows: Tensor
    ) -> Tensor:
        """Logits [R, K] of `after` at these rows, where `memory` is of `before`.

        The memory of an image accumulates the rounding of all kept changes.
        Cost, on the network of the preset fast: a third of a pass for 3x3 pixels.
        """
        return self._logits(self._revised(memory, before, after, rows, keep=False))

    def keep(
        self, memory: Mapping[str, Tensor], before: Tensor, after: Tensor, rows: Tensor
    ) -> None:
        """Make the memory, in place, that of `after` at these rows. Cost: as `revised`."""
        self._revised(memory, before, after, rows, keep=True)

    def _logits(self, hidden: Tensor) -> Tensor:
        weights, bias = self._last
        return hidden.relu() @ weights + bias

    def _forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The first dense layer before ReLU, and the numbers that are not zero."""
        layers = self._layers
        most = 14 * 14 * len(layers.bias1) + layers.dense.shape[0] + 2
        names = torch.empty(len(images), most, dtype=torch.int32)
        counts = torch.empty(len(images), 2, dtype=torch.int64)
        pixels = _pixels(images)

        def part(rows: slice) -> Tensor:
            alive = (names[rows].numpy(), counts[rows].numpy())
            features = self._kernels.forward(pixels[rows], layers, *alive)
            return self._dense(features, layers.dense, layers.bias3)

        return self._in_parts(len(images), part), (names, counts)

    def _backward(self, gradient: Tensor, alive: tuple[Tensor, Tensor]) -> Tensor:
        """The gradient of the images, from that of the first dense layer."""
        values, layers = gradient.contiguous().numpy(), self._layers

        def part(rows: slice) -> Tensor:
            found = (which[rows].numpy() for which in alive)
            to_features = self._dense(values[rows], layers.transposed, self._no_bias)
            passed = self._kernels.backward(to_features.numpy(), layers, *found)
            return torch.from_numpy(passed)

        return self._in_parts(len(gradient), part)[:, None]

    def _dense(self, inputs: Array, weights: Array, bias: Array) -> Tensor:
        """The first dense layer, there or back: one product, or only rows whose input is alive."""
        if self._products and len(inputs) >= PRODUCTS:
            return torch.addmm(*map(torch.from_numpy, (bias, inputs, weights)))
        return torch.from_numpy(self._kernels.by_rows(inputs, weights, bias))

    def _revised(
        self,
        memory: Mapping[str, Tensor],
        before: Tensor,
        after: Tensor,
        rows: Tensor,
        *,
        keep: bool,
    ) -> Tensor:
        known = self._changes.Memory(*(memory[name].numpy() for name in self._black))
        start, end, chosen = _pixels(before), _pixels(after), rows.numpy()

        def part(some: slice) -> Tensor:
            found = self._changes.revise(start, end, chosen[some], known, self._layers, keep)
            return torch.from_numpy(found)

        return self._in_parts(len(rows), part)

    def _in_parts(self, count: int, part: Callable[[slice], Tensor]) -> Tensor:
        """Rows computed by threads of our own."""
        if self._pool is None or count < 2:
            return part(slice(0, count))
        size = -(-count // (PARTS * self._threads))
        parts = [slice(begin, begin + size) for begin in range(0, count, size)]
        return torch.cat(list(self._pool.map(part, parts)))


class _Hidden(Function):
    """The first dense layer before ReLU, with the gradient back to the images."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, passes: SparsePasses) -> Tensor:
        hidden, alive = passes._forward(images)
        ctx.passes = passes
        ctx.save_for_backward(*alive)
        return hidden

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return ctx.passes._backward(gradient, ctx.saved_tensors), None


def sparse_passes(network: PaperCNN) -> SparsePasses | None:
    """The passes of this network on a CPU; `None` if there are none.

    They need weights in single precision and a working Numba (the extra `numba`).
    """
    if find_spec("numba") is None or next(network.parameters()).dtype != torch.float32:
        return None
    try:
        passes = SparsePasses(network)
        passes.compile()
    except Exception as error:  # of Numba, LLVM or the file system
        _warn(cause(error))
        return None
    return passes


@functools.cache
def _warn(reason: str) -> None:
    log.warning(
        "the paper's CNN is attacked without sparse passes, which is slower: Numba cannot compile "
        "them here (%s)",
        reason,
    )


def _wakes(taps: Tensor, bias: Tensor) -> Tensor:
    """Brightness that some pixel must exceed for a channel of the first layer to be above zero.

    Pixels in [0, most] add at most the sum of the positive weights times most. The bound is lowered
    by possible rounding.
    """
    positive = taps.double().clamp_min(0).flatten(1).sum(1)
    bound = -bias.double() / positive.clamp_min(1e-30)
    return (bound - 1e-5 * bound.abs() - 1e-12).clamp(-1, 2).float()


def _array(weights: Tensor) -> Array:
    """A contiguous copy."""
    return weights.clone(memory_format=torch.contiguous_format).numpy()


def _pixels(images: Tensor) -> Array:
    return images.detach()[:, 0].contiguous().numpy()
