"""A lower bound of robust accuracy that no attack can pass: interval bound propagation.

Every layer turns an interval for each of its inputs into one for each of its outputs, so that what
the network can say of any image within ε is enclosed. An image is certified if the label's logit
then stays above all others. The bounds are computed in float64 and widened, layer by layer, by what
single precision may round away, so they hold for the network as it computes: layer by layer, in
float32, its sums in any order.

Shapes: B batch, K classes, S one image (C H W).  Units: pixels in [0, 1].
Source: Gowal et al. 2018, "On the effectiveness of interval bound propagation".
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sparring.attacks import L2, Linf, Threat
from sparring.errors import ConfigError
from sparring.evaluation.accuracy import parts
from sparring.evaluation.judge import TOLERANCE
from sparring.models import OnCopies, evaluation_mode
from sparring.models.normalised import Normalisation
from sparring.records import Proportion

UNIT = 2.0**-24
"""Half the distance from 1 to the next float32: the largest relative error of one operation."""


class Interval(NamedTuple):
    """What a layer's output may be."""

    low: Tensor
    """At least this."""
    high: Tensor
    """At most this."""

    @property
    def largest(self) -> Tensor:
        """The largest size that it may have."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def widened(self, slack: Tensor) -> "Interval":
        """By so much on both sides."""
        return Interval(self.low - slack, self.high + slack)


def certified(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat) -> Proportion:
    """Images that no change within the threat can make this network misclassify, of all.

    `model` is taken in evaluation mode: linear layers and convolutions, ReLU, max- and
    average-pooling, BatchNorm, normalisation, sums and changes of shape. A ball in L2 is enclosed
    in the cube of the same size, which is sound and loose. Cost: three forward passes in float64,
    and one of the network itself.
    Raises `ConfigError` for a layer of which no bound is known, for weights below float32, and for
    a network whose own logits of clean images lie outside the bounds.
    """
    held = 0
    first = next(model.parameters(), images)
    device = first.device
    if first.dtype not in (torch.float32, torch.float64):
        raise _unknown(f"weights in {first.dtype}")
    with torch.no_grad(), evaluation_mode(model):
        bounds = Bounds(model)
        for part in parts(len(labels)):
            clean = images[part].to(device)
            box = bounds.of(around(clean, threat))
            _check_encloses(box, OnCopies(model)(clean.to(first.dtype)))
            held += int(_holds(box, labels[part].to(device)).sum())
    return Proportion(successes=held, total=len(labels))


def around(images: Tensor, threat: Threat) -> Interval:
    """A box that holds all images that the judge lets pass as being within the threat."""
    if not isinstance(threat, Linf | L2):
        raise ConfigError(
            f"a certificate needs a threat in L-infinity or L2; got {type(threat).__name__}."
        )
    centre, reach = images.double(), threat.eps + TOLERANCE
    return Interval((centre - reach).clamp_min(0), (centre + reach).clamp_max(1))


def _check_encloses(box: Interval, logits: Tensor) -> None:
    """A trace does not show everything: a sum in place, say, that changes what another name holds.

    Raises `ConfigError` where a network does not say of clean images what its trace does.
    """
    if not bool(((logits >= box.low) & (logits <= box.high)).all()):
        raise ConfigError(
            "a certificate needs a network that computes what its trace shows, in float32 or more, "
            "because the bounds are of the trace; its logits of clean images lie outside them. "
            "Replace operations in place, such as +=, or leave the certificate out."
        )


def _holds(logits: Interval, labels: Tensor) -> Tensor:
    """Where the label's logit is above every other, whatever the image."""
    label = labels[:, None]
    others = logits.high.scatter(1, label, -torch.inf).amax(1)
    return logits.low.gather(1, label)[:, 0] > others


class Bounds:
    """Intervals through a network, operation by operation, as torch.fx traces it."""

    def __init__(self, model: nn.Module) -> None:
        whole = nn.Sequential(model)  # so that a single layer is a leaf, too
        try:
            self._graph = fx.GraphModule(whole, _Tracer().trace(whole))
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                "a certificate needs a network whose operations do not depend on the images, "
                f"because they are traced once; this one cannot be traced ({reason}). Leave the "
                "certificate out."
            ) from error

    def of(self, images: Interval) -> Interval:
        """What the network may say of any image in the box."""
        try:
            return _Walk(self._graph).run(images)
        except ConfigError as error:  # to which fx adds what it was doing
            raise ConfigError(str(error).partition("\n")[0]) from error


class _Tracer(fx.Tracer):
    """Goes into every module but PyTorch's own and those that have a rule."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in MODULES or super().is_leaf_module(m, module_qualified_name)


class _Walk(fx.Interpreter):
    """Carries an `Interval` where the network carries a tensor."""

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        layer = self.fetch_attr(target)
        rule = next((MODULES[kind] for kind in type(layer).__mro__ if kind in MODULES), None)
        if rule is None or kwargs or len(args) != 1:
            raise _unknown(type(layer).__name__)
        return rule(layer, args[0])

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in (operator.add, operator.iadd, torch.add) and not kwargs:
            return _sum(*args)
        return self._ends(FUNCTIONS.get(target), target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._ends(METHODS.get(target), target, args, kwargs)

    def _ends(self, rule: Callable[..., Tensor] | None, target: Any, args: Any, kwargs: Any) -> Any:
        """A rule at both ends; arguments beside the interval stay as they are."""
        if rule is None or not args or not isinstance(args[0], Interval):
            raise _unknown(getattr(target, "__name__", str(target)))
        x, *others = args
        return Interval(rule(x.low, *others, **kwargs), rule(x.high, *others, **kwargs))


FUNCTIONS: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    torch.relu: torch.relu,
    functional.relu: functional.relu,
    functional.max_pool2d: functional.max_pool2d,
    torch.max_pool2d: torch.max_pool2d,
    torch.flatten: torch.flatten,
    torch.permute: torch.permute,
    torch.transpose: torch.transpose,
    torch.reshape: torch.reshape,
}
"""Functions that round nothing and never fall where an input rises: ends go to ends."""

METHODS: Mapping[str, Callable[..., Tensor]] = {
    "relu": torch.relu,
    "relu_": torch.relu_,
    "flatten": torch.flatten,
    "permute": Tensor.permute,
    "transpose": torch.transpose,
    "reshape": Tensor.reshape,
    "view": Tensor.reshape,
    "contiguous": Tensor.contiguous,
}
"""Methods of which the same is true."""


def _sum(one: Any, other: Any) -> Interval:
    if not (isinstance(one, Interval) and isinstance(other, Interval)):
        raise _unknown("a sum with something that is not computed from the images")
    total = Interval(one.low + other.low, one.high + other.high)
    return total.widened(2 * UNIT * total.largest)


def _linear(layer: nn.Linear, x: Interval) -> Interval:
    return _affine(x, layer.weight, layer.bias, functional.linear, layer.in_features)


def _convolution(layer: nn.Conv2d, x: Interval) -> Interval:
    if layer.padding_mode != "zeros":
        raise _unknown(f"a convolution with padding mode {layer.padding_mode}")

    def product(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.conv2d(
            values, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )

    return _affine(x, layer.weight, layer.bias, product, layer.weight[0].numel())


def _affine(
    x: Interval,
    weight: Tensor,
    bias: Tensor | None,
    product: Callable[..., Tensor],
    terms: int,
) -> Interval:
    """Centre and radius; then n u / (1 - n u) of the sum of sizes, for n terms in any order.

    `product` is of values, weight and, if given, bias, and knows along which dimension that goes.
    """
    weight, sizes = weight.double(), weight.double().abs()
    shift = None if bias is None else bias.double()
    centre, radius = (x.low + x.high) / 2, (x.high - x.low) / 2
    middle, spread = product(centre, weight, shift), product(radius, sizes)
    size = product(x.largest, sizes, None if shift is None else shift.abs())
    error = (terms + 2) * UNIT / (1 - (terms + 2) * UNIT)
    return Interval(middle - spread, middle + spread).widened(size * error)


def _batch_norm(layer: nn.BatchNorm2d | nn.BatchNorm1d, x: Interval) -> Interval:
    if layer.running_mean is None or layer.running_var is None:
        raise _unknown("BatchNorm without running statistics")
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight.double()
    shape = (-1, *[1] * (x.low.ndim - 2))
    mean = layer.running_mean.double().view(shape)
    shift = 0.0 if layer.bias is None else layer.bias.double().view(shape)
    scale = scale.view(shape)
    ends = ((x.low - mean) * scale, (x.high - mean) * scale)
    low, high = torch.minimum(*ends) + shift, torch.maximum(*ends) + shift
    size = x.largest + mean.abs()
    return Interval(low, high).widened(8 * UNIT * (size * scale.abs() + abs(shift)))


def _normalised(layer: Normalisation, x: Interval) -> Interval:
    mean, deviation = layer.mean.double(), layer.deviation.double()
    low, high = ((end - mean) / deviation for end in x)
    return Interval(low, high).widened(4 * UNIT * (x.largest + mean.abs()) / deviation)


def _pooled(layer: nn.AvgPool2d | nn.AdaptiveAvgPool2d, x: Interval) -> Interval:
    terms = x.low.shape[-1] * x.low.shape[-2] + 2
    return Interval(layer(x.low), layer(x.high)).widened(2 * terms * UNIT * layer(x.largest))


def _each_end(layer: nn.Module, x: Interval) -> Interval:
    return Interval(layer(x.low), layer(x.high))


MODULES: Mapping[type[nn.Module], Callable[[Any, Interval], Interval]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm1d: _batch_norm,
    Normalisation: _normalised,
    nn.AvgPool2d: _pooled,
    nn.AdaptiveAvgPool2d: _pooled,
    nn.ReLU: _each_end,
    nn.MaxPool2d: _each_end,
    nn.Flatten: _each_end,
    nn.Identity: _each_end,
    nn.Dropout: _each_end,
}
"""Layers with a bound."""


def _unknown(what: str) -> ConfigError:
    return ConfigError(
        "a certificate needs a bound for every operation of the network; none is known for "
        f"{what}. Leave the certificate out."
    )
