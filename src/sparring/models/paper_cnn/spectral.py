"""The paper's CNN by frequencies, on a CPU at half the cost of layer by layer.

The same function as `PaperCNN.forward` up to rounding, computed in another way:

- The batch is the innermost axis, so that every operation runs along contiguous memory and every
  contraction is one well-shaped matrix product.
- The first convolution yields each 2x2 pooling window as one product of its 6x6 patch.
- The second convolution is a product per frequency: the 14x14 maps, zero beyond the edge, have a
  16-point circular correlation equal to the padded one (14 + 2 >= 16 places), and at each of the
  16 x 9 independent frequencies it is a 64x32 complex matrix. 0.60 GFLOP for 128 images with the
  transforms, where the direct sum takes 2.57.

Shapes: B batch, C = 32 channels, O = 64 channels, V = 9 frequencies across, U = 16 down.
Both transforms are products with constant real matrices, so the gradient is the same two
transforms with the matrices transposed. Images and weights are of one floating-point type.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from typing_extensions import override

from sparring.models.forms import WorkingCopy
from sparring.models.paper_cnn.network import PaperCNN

SIDE, POINTS, HALF = 14, 16, 9
"""Height and width of the maps; points of the transform; its independent frequencies."""


class SpectralWeights(NamedTuple):
    """The weights of a `PaperCNN` for `spectral_logits`."""

    windows: Tensor
    """[4 C, 36]: a 6x6 patch to the four outputs of its pooling window."""
    bias1: Tensor
    """[C, 1]."""
    responses: Tensor
    """[V U, 2 O, 2 C]: the kernels' frequency responses as real blocks."""
    bias2: Tensor
    """[O, 1]."""
    dense1: Tensor
    """[1024, 3136]."""
    dense1_bias: Tensor
    """[1024, 1]."""
    dense2: Tensor
    """[10, 1024]."""
    dense2_bias: Tensor
    """[10, 1]."""


def spectral_weights(network: PaperCNN) -> SpectralWeights:
    """Transform a network's weights; differentiable. Cost: a few per cent of one pass."""
    taps, bias1, kernels, bias2, dense1, dense1_bias, dense2, dense2_bias = network.parameters()
    tables = _tables(taps.dtype)
    windows = (tables.windows @ taps.flatten(1).t()).view(4, 36, -1)
    flat = kernels.reshape(-1, 25).t()
    real = (tables.kernel_real @ flat).view(-1, *kernels.shape[:2])
    imaginary = (tables.kernel_imaginary @ flat).view_as(real)
    upper, lower = torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)
    return SpectralWeights(
        windows.transpose(1, 2).reshape(-1, 36),
        bias1[:, None],
        torch.cat([upper, lower], 1),
        bias2[:, None],
        dense1,
        dense1_bias[:, None],
        dense2,
        dense2_bias[:, None],
    )


def spectral_logits(images: Tensor, weights: SpectralWeights) -> Tensor:
    """Logits [B, 10] of images [B, 1, 28, 28]; differentiable in images and weights."""
    maps = _WindowConvolution.apply(images, weights.windows)
    maps = _PoolReLU.apply(maps.view(SIDE, SIDE, 2, 2, -1, len(images)), weights.bias1, (2, 3))
    maps = _FrequencyConvolution.apply(maps, weights.responses)
    half = SIDE // 2
    maps = _PoolReLU.apply(maps.view(half, 2, half, 2, -1, len(images)), weights.bias2, (1, 3))
    hidden = torch.addmm(weights.dense1_bias, weights.dense1, maps.flatten(0, 2)).relu()
    return torch.addmm(weights.dense2_bias, weights.dense2, hidden).t()


class _Tables(NamedTuple):
    """Constant matrices of the transforms."""

    windows: Tensor  # [4 36, 25] which weight joins which output of a window to which pixel
    kernel_real: Tensor  # [V U, 25]
    kernel_imaginary: Tensor  # [V U, 25]
    across: Tensor  # [2 V, 14] columns to frequencies, (frequency, real or imaginary)
    down: Tensor  # [V, 2 U, 2 14] rows to frequencies, once for each V: products are faster so
    up: Tensor  # [V, 2 14, 2 U] and back
    back: Tensor  # [14, 2 V]


@functools.lru_cache
@torch.inference_mode(mode=False)  # tables made in inference mode could not serve an update
def _tables(dtype: torch.dtype) -> _Tables:
    double = torch.float64
    output, pixel = torch.arange(2), torch.arange(6)
    reach = pixel[None, :] - output[:, None]  # which of the five taps, for (output, pixel)
    taps = (reach[:, :, None] == torch.arange(5)).to(double)
    windows = torch.einsum("ypi,xqj->yxpqij", taps, taps).reshape(4 * 36, 25)

    turn = 2 * torch.pi / POINTS
    u, v = torch.arange(POINTS, dtype=double), torch.arange(HALF, dtype=double)
    place, tap = torch.arange(SIDE, dtype=double), torch.arange(5, dtype=double) - 2
    phase = turn * (v[:, None, None, None] * tap + u[None, :, None, None] * tap[:, None])
    kernel_real, kernel_imaginary = phase.cos().reshape(-1, 25), phase.sin().reshape(-1, 25)

    angle = turn * v[:, None] * place
    across = torch.stack([angle.cos(), -angle.sin()], 1).reshape(2 * HALF, SIDE)
    angle = turn * u[:, None] * place
    cos, sin = angle.cos(), angle.sin()
    down = torch.stack([torch.stack([cos, sin], 2), torch.stack([-sin, cos], 2)], 1)
    down = down.reshape(2 * POINTS, 2 * SIDE).expand(HALF, -1, -1)
    # The conjugate transform of a rotation is its transpose; each inner frequency counts twice.
    twice = torch.full((HALF,), 2.0, dtype=double)
    twice[0] = twice[-1] = 1
    back = (across.view(HALF, 2, SIDE) * twice[:, None, None] / POINTS**2).reshape(-1, SIDE).t()
    tables = (windows, kernel_real, kernel_imaginary, across, down, down.mT, back)
    return _Tables(*(table.to(dtype).contiguous() for table in tables))


class _WindowConvolution(Function):
    """[B, 1, 28, 28] images to [14 14, 4 C, B]: the convolution, a pooling window at a time."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, windows: Tensor) -> Tensor:
        batch = len(images)
        padded = images.new_zeros(32, 32, batch)
        padded[2:30, 2:30] = images.reshape(batch, -1).t().view(28, 28, batch)
        patches = _windows_of(padded).reshape(SIDE * SIDE, 36, batch)
        ctx.save_for_backward(windows, patches if ctx.needs_input_grad[1] else None)
        return torch.bmm(windows.expand(SIDE * SIDE, -1, -1), patches)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        windows, patches = ctx.saved_tensors
        to_images = to_windows = None
        if ctx.needs_input_grad[0]:
            batch = gradient.shape[-1]
            pieces = torch.bmm(windows.t().expand(SIDE * SIDE, -1, -1), gradient)
            pieces = pieces.view(SIDE, SIDE, 6, 6, batch)
            padded = gradient.new_zeros(32, 32, batch)
            overlapping = _windows_of(padded)
            # A 6x6 patch overlaps its neighbours, its nine 2x2 cells one at a time do not.
            for y in (slice(0, 2), slice(2, 4), slice(4, 6)):
                for x in (slice(0, 2), slice(2, 4), slice(4, 6)):
                    overlapping[:, :, y, x] += pieces[:, :, y, x]
            to_images = padded[2:30, 2:30].reshape(784, batch).t().reshape(batch, 1, 28, 28)
        if patches is not None:
            to_windows = torch.bmm(gradient, patches.transpose(1, 2)).sum(0)
        return to_images, to_windows


def _windows_of(padded: Tensor) -> Tensor:
    """All 6x6 patches at even places of a [32, 32, B] image, as a view [14, 14, 6, 6, B]."""
    row, column, _ = padded.stride()
    strides = (2 * row, 2 * column, row, column, 1)
    return padded.as_strided((SIDE, SIDE, 6, 6, padded.shape[2]), strides)


class _PoolReLU(Function):
    """2x2 max-pooling over two axes of length two, then bias and ReLU.

    Of equal maxima the first in reading order gets the gradient, as in PyTorch's max-pooling.
    The winner is kept as a difference, not as a Boolean: PyTorch has fast kernels for "the gradient
    where this is positive", and casts a mask to float32 before it multiplies by one.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, bias: Tensor, axes: tuple[int, int]) -> Tensor:
        (a, b), (c, d) = _quarters(maps, axes)
        top, bottom = torch.maximum(a, b), torch.maximum(c, d)
        pooled = torch.maximum(top, bottom).add_(bias).relu_()
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(pooled, b - a, d - c, bottom - top)
            ctx.axes, ctx.shape = axes, maps.shape
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (gradient,) = gradients
        pooled, b_over_a, d_over_c, bottom_over_top = ctx.saved_tensors
        where_positive = torch.ops.aten.threshold_backward
        gradient = where_positive(gradient, pooled, 0)
        to_maps = gradient.new_empty(ctx.shape)
        (a, b), (c, d) = _quarters(to_maps, ctx.axes)
        to_bottom = where_positive(gradient, bottom_over_top, 0)
        to_top = gradient - to_bottom
        for upper, lower, to_both, lead in (
            (a, b, to_top, b_over_a),
            (c, d, to_bottom, d_over_c),
        ):
            where_positive.grad_input(to_both, lead, 0, grad_input=lower)
            torch.sub(to_both, lower, out=upper)
        to_bias = gradient.sum((0, 1, 3))[:, None] if ctx.needs_input_grad[1] else None
        return to_maps, to_bias, None


def _quarters(maps: Tensor, axes: tuple[int, int]) -> list[tuple[Tensor, ...]]:
    """The four places of every pooling window, as views, row by row."""
    rows, columns = axes
    return [tuple(half.unbind(columns - 1)) for half in maps.unbind(rows)]


class _FrequencyConvolution(Function):
    """[14, 14, C, B] maps to [14, 14, O, B]: a complex matrix product per frequency."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, responses: Tensor) -> Tensor:
        tables = _tables(maps.dtype)
        spectrum = _analyse(maps, tables.across, tables.down)
        ctx.save_for_backward(responses, spectrum if ctx.needs_input_grad[1] else None)
        return _synthesise(torch.bmm(responses, spectrum), tables.up, tables.back)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        responses, spectrum = ctx.saved_tensors
        tables = _tables(gradient.dtype)
        to_output = _analyse(gradient, tables.back.t(), tables.up.mT)
        to_maps = to_responses = None
        if ctx.needs_input_grad[0]:
            to_spectrum = torch.bmm(responses.transpose(1, 2), to_output)
            to_maps = _synthesise(to_spectrum, tables.down.mT, tables.across.t())
        if spectrum is not None:
            to_responses = torch.bmm(to_output, spectrum.transpose(1, 2))
        return to_maps, to_responses


def _analyse(maps: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Places to frequencies: [14, 14, channels, B] to [V U, 2 channels, B]."""
    _, _, channels, batch = maps.shape
    columns = torch.matmul(across, maps.reshape(SIDE, SIDE, -1)).view(SIDE, HALF, 2, -1)
    rows = columns.transpose(0, 1).reshape(HALF, 2 * SIDE, -1)
    return torch.bmm(down, rows).view(HALF * POINTS, 2 * channels, batch)


def _synthesise(spectrum: Tensor, up: Tensor, back: Tensor) -> Tensor:
    """Frequencies to places: [V U, 2 channels, B] to [14, 14, channels, B]."""
    _, channels, batch = spectrum.shape
    rows = torch.bmm(up, spectrum.view(HALF, 2 * POINTS, -1)).view(HALF, SIDE, 2, -1)
    real, imaginary = rows.transpose(0, 1).unbind(2)
    real_part, imaginary_part = back.view(SIDE, HALF, 2).unbind(2)
    maps = torch.matmul(real_part, real)
    maps.baddbmm_(imaginary_part.expand(SIDE, -1, -1), imaginary)
    return maps.view(SIDE, SIDE, channels // 2, batch)


class SpectralCopy(WorkingCopy):
    """The paper's CNN by `spectral_logits`, for CPUs without matrix units.

    In the network's own precision or, with `rounded`, from transformed weights and images that are
    rounded to bf16; sums within a product are in single precision either way.
    """

    def __init__(self, network: PaperCNN, *, rounded: bool = False) -> None:
        self.network = network
        self.name = "bf16 spectral" if rounded else "fp32 spectral"
        self._dtype = torch.bfloat16 if rounded else next(network.parameters()).dtype
        self.refresh()

    @override
    def refresh(self) -> None:
        with torch.enable_grad():
            weights = spectral_weights(self.network)
            self._weights = SpectralWeights(*(weight.to(self._dtype) for weight in weights))
        self._constant = SpectralWeights(*(weight.detach() for weight in self._weights))

    @override
    def attacked(self, images: Tensor) -> Tensor:
        return self._logits(images, self._constant)

    @override
    def trained(self, images: Tensor) -> Tensor:
        return self._logits(images, self._weights)

    def _logits(self, images: Tensor, weights: SpectralWeights) -> Tensor:
        return spectral_logits(images.to(self._dtype), weights).to(images.dtype)
