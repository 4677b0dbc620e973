"""The operation that each layer, function and method of a network is.

Each entry of the tables gets what is called and a tensor of the input's shape and type.

Shapes: B batch, S one layer's input.
"""

import math
import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

from sparring.bounds.operations import Affine, MaxPool, Moved, Operation, Relu, unknown
from sparring.models.networks import BatchRenorm2d, Normalisation

FEW, PATCHES = 4, 2**16
"""A convolution that is computed as one product has at most this many channels, and all patches of
an image at most this many values."""


def _linear(layer: nn.Linear, like: Tensor) -> Operation:
    weight = layer.weight.to(like.dtype)
    return Affine(
        lambda x: functional.linear(x, weight),
        lambda x: functional.linear(x, weight.abs()),
        _to(layer.bias, like),
        terms=weight.shape[1],
        transposed=lambda rows, _: rows @ layer.weight.to(rows.dtype),
    )


def _convolution(layer: nn.Conv2d, like: Tensor) -> Operation:
    if layer.padding_mode != "zeros":
        raise unknown(f"a convolution with padding mode {layer.padding_mode}")
    weight, shift = layer.weight.to(like.dtype), _to(layer.bias, like)
    how: Any = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    convolve = partial(functional.conv2d, **how)
    if _has_small_patches(layer, like):
        convolve = partial(_as_product, stride=how["stride"], padding=how["padding"])
    return Affine(
        lambda x: convolve(x, weight),
        lambda x: convolve(x, weight.abs()),
        None if shift is None else shift.view(-1, 1, 1),
        terms=weight[0].numel(),
        transposed=None
        if isinstance(layer.padding, str)
        else lambda rows, size: conv2d_input(size, layer.weight.to(rows.dtype), rows, **how),
    )


def _has_small_patches(layer: nn.Conv2d, like: Tensor) -> bool:
    """Whether `_as_product` computes a convolution, and at little cost in memory."""
    few = layer.in_channels <= FEW and layer.groups == 1 and layer.dilation == (1, 1)
    if isinstance(layer.padding, str) or not few:
        return False
    places = [
        (like.shape[2 + n] + 2 * layer.padding[n] - layer.kernel_size[n]) // layer.stride[n] + 1
        for n in range(2)
    ]
    return min(places) > 0 and math.prod(places) * layer.weight[0].numel() <= PATCHES


def _as_product(
    x: Tensor, weight: Tensor, *, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """A convolution as one product of matrices; what it returns is channels-last.

    For few channels `functional.conv2d` is slower, above all its backward pass.
    """
    (high, wide), (rows, columns) = padding, stride
    x = functional.pad(x, (wide, wide, high, high))
    patches = x.unfold(2, weight.shape[2], rows).unfold(3, weight.shape[3], columns)
    batch, _, height, width = patches.shape[:4]
    inputs = patches.permute(0, 2, 3, 1, 4, 5).reshape(batch * height * width, -1)
    outputs = inputs @ weight.flatten(1).T
    return outputs.view(batch, height, width, len(weight)).permute(0, 3, 1, 2)


def _batch_norm(layer: nn.BatchNorm2d | nn.BatchNorm1d, like: Tensor) -> Operation:
    """With the running statistics, as in evaluation mode."""
    if layer.running_mean is None or layer.running_var is None:
        raise unknown("BatchNorm without running statistics")
    scale = (layer.running_var.to(like.dtype) + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight.to(like.dtype)
    # A copy: a pass in training mode moves the statistics before the gradients are computed.
    mean, bias = layer.running_mean.to(like.dtype, copy=True), _to(layer.bias, like)
    bias = torch.zeros_like(mean) if bias is None else bias
    shape = (-1, *[1] * (like.ndim - 2))
    return _scaled(*(value.view(shape) for value in (scale, mean, bias)), like=like, terms=6)


def _normalised(layer: Normalisation, like: Tensor) -> Operation:
    mean, deviation = layer.mean.to(like.dtype), layer.deviation.to(like.dtype)
    return _scaled(1 / deviation, mean, torch.zeros_like(mean), like=like, terms=2)


def _scaled(scale: Tensor, mean: Tensor, bias: Tensor, *, like: Tensor, terms: int) -> Operation:
    """(x - mean) · scale + bias."""
    if torch.broadcast_shapes(scale.shape, like.shape[1:]) != like.shape[1:]:
        raise unknown("a normalisation by channel of images that have fewer channels")
    return Affine(
        lambda x: x * scale,
        lambda x: x * scale.abs(),
        bias - mean * scale,
        terms=terms,
        transposed=lambda rows, _: rows * scale,
        summands=(mean * scale).abs() + bias.abs(),
        mixes=False,
    )


def _averaged(layer: nn.AvgPool2d | nn.AdaptiveAvgPool2d, like: Tensor) -> Operation:
    if getattr(layer, "divisor_override", None) is not None:
        raise unknown("average-pooling with a divisor of its own")
    terms = like.shape[-1] * like.shape[-2] + 2
    return Affine(layer.forward, layer.forward, terms=2 * terms)


def _largest_of_windows(layer: nn.MaxPool2d, like: Tensor) -> Operation:
    return _max_pool(like, **{name: getattr(layer, name) for name in _POOLING})


def _max_pool(like: Tensor, *sizes: Any, **named: Any) -> Operation:
    if like.ndim != 4:
        raise unknown(f"max-pooling of {like.ndim - 1} dimensions for each image instead of 3")
    settings = {**_POOLING, **dict(zip(_POOLING, sizes, strict=False)), **named}
    if settings.pop("return_indices"):
        raise unknown("max-pooling that returns indices")
    settings["stride"] = settings["stride"] or settings["kernel_size"]
    return MaxPool(**settings)


_POOLING: Mapping[str, Any] = {
    "kernel_size": None,
    "stride": None,
    "padding": 0,
    "dilation": 1,
    "ceil_mode": False,
    "return_indices": False,
}
"""Parameters of `torch.nn.functional.max_pool2d` in their order, with defaults."""


def _rectified(like: Tensor, inplace: bool = False) -> Operation:
    return Relu()


def _same(*_: Any, **__: Any) -> Operation:
    return Moved(lambda x: x, ordered=True)


def _reshaped(function: Callable[..., Tensor], like: Tensor, *args: Any, **named: Any) -> Operation:
    if function(like, *args, **named).shape[:1] != like.shape[:1]:
        raise unknown("a change of shape across images")
    return Moved(lambda x: function(x, *args, **named), ordered=True)


def _permuted(function: Callable[..., Tensor], like: Tensor, *args: Any, **named: Any) -> Operation:
    if function(like.new_empty(3, *[2] * (like.ndim - 1)), *args, **named).shape[0] != 3:
        raise unknown("a change of shape across images")
    return Moved(lambda x: function(x, *args, **named), ordered=False)


def _to(bias: Tensor | None, like: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(like.dtype)


MODULES: Mapping[type[nn.Module], Callable[[Any, Tensor], Operation]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm1d: _batch_norm,
    BatchRenorm2d: _batch_norm,
    Normalisation: _normalised,
    nn.AvgPool2d: _averaged,
    nn.AdaptiveAvgPool2d: _averaged,
    nn.ReLU: lambda layer, like: _rectified(like),
    nn.MaxPool2d: _largest_of_windows,
    nn.Flatten: lambda layer, like: _reshaped(torch.flatten, like, layer.start_dim, layer.end_dim),
    nn.Identity: _same,
    nn.Dropout: _same,
}
FORWARDS = {kind: kind.forward for kind in MODULES}
"""The forward methods that the operations stand for."""

FUNCTIONS: Mapping[Callable[..., Any], Callable[..., Operation]] = {
    torch.relu: _rectified,
    functional.relu: _rectified,
    functional.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool,
    torch.flatten: partial(_reshaped, torch.flatten),
    torch.reshape: partial(_reshaped, torch.reshape),
    torch.permute: partial(_permuted, torch.permute),
    torch.transpose: partial(_permuted, torch.transpose),
}
SUMS = (operator.add, operator.iadd, torch.add)

METHODS: Mapping[str, Callable[..., Operation]] = {
    "relu": _rectified,
    "relu_": _rectified,
    "flatten": partial(_reshaped, torch.flatten),
    "reshape": partial(_reshaped, Tensor.reshape),
    "view": partial(_reshaped, Tensor.reshape),
    "permute": partial(_permuted, Tensor.permute),
    "transpose": partial(_permuted, torch.transpose),
    "contiguous": _same,
}
SIZES: Mapping[str, Callable[..., Any]] = {"size": Tensor.size, "dim": Tensor.dim}
"""Methods that give a tensor's shape or a part of it."""
