"""A lower bound of robust accuracy for every attack, by interval bound propagation.

Every layer turns an interval for each input into one for each output, which bounds the logits of
every image within ε. An image is certified if the label's logit stays above all others. The bounds
are computed in float64 and widened, layer by layer, by the rounding of single precision. So they
hold for the network as it computes: layer by layer, in float32, with sums in any order.

Shapes: B batch, K classes, S one image (C H W).  Units: pixels in [0, 1].
Source: Gowal et al. 2018, "On the effectiveness of interval bound propagation".
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from sparring.attacks import L2, Linf, Threat
from sparring.errors import ConfigError
from sparring.evaluation.judge import TOLERANCE, parts
from sparring.evaluation.tracing import check_same, traced, unchanging, unshown
from sparring.models import chosen_batch_size, evaluation_mode
from sparring.models.networks import BatchRenorm2d, Normalisation
from sparring.records import Proportion

UNIT = 2.0**-24
"""Half the distance from 1 to the next float32: the largest relative error of one operation."""


class Box(NamedTuple):
    """Bounds of a layer's output."""

    low: Tensor
    high: Tensor

    @property
    def largest(self) -> Tensor:
        """The largest absolute value."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def widened(self, slack: Tensor) -> "Box":
        """The box with `slack` more on both sides."""
        return Box(self.low - slack, self.high + slack)


def certified(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    batch_size: int | None = None,
) -> Proportion:
    """The share of images that no change within the threat makes this network misclassify.

    As `certified_images`.
    """
    held = certified_images(model, images, labels, threat, batch_size=batch_size)
    return Proportion(successes=int(held.sum()), total=len(labels))


def certified_images(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    batch_size: int | None = None,
) -> Bool[Tensor, " N"]:
    """Where no change within the threat makes this network misclassify the image.

    `model` is bounded in evaluation mode. Supported are linear layers, convolutions, ReLU, max- and
    average-pooling, BatchNorm, normalisation, sums and changes of shape. An L2 ball is
    enclosed in the cube of the same size, which is sound and loose. A pass has `batch_size` images,
    by default 128 on a CPU and 1,024 elsewhere (untested).
    Cost: three forward passes in float64, and ten in its own arithmetic.
    Raises `ConfigError` for a layer without a known bound, for weights below float32, for a network
    that its trace does not show (`traced`), and for one whose logits of images of the threat lie
    outside the bounds.
    """
    first = next(model.parameters(), images)
    device = first.device
    _check_arithmetic(model, device)
    held = torch.zeros(len(labels), dtype=torch.bool)
    with torch.no_grad(), evaluation_mode(model), unchanging(model):
        bounds = Bounds(model)
        for part in parts(len(labels), chosen_batch_size(batch_size, device)):
            clean = images[part].to(device)
            region = around(clean, threat)
            box = bounds.of(region)
            bounds.check(model, box, [clean.to(first.dtype), *_probes(clean, threat, first.dtype)])
            held[part] = _holds(box, labels[part].to(device)).cpu()
    return held


def _probes(clean: Tensor, threat: Threat, dtype: torch.dtype) -> Iterator[Tensor]:
    """Images of the threat: all pixels up, all down, and two random ones."""
    drawn = torch.Generator().manual_seed(0)
    up = threat.project(clean + threat.eps, clean)
    down = threat.project(clean - threat.eps, clean)
    for images in (up, down, threat.uniform(clean, drawn), threat.corner(clean, drawn)):
        yield images.to(dtype)


def _check_arithmetic(model: nn.Module, device: torch.device) -> None:
    """The bounds cover rounding to float32 or finer, and plain tensors."""
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
            raise _unknown(f"weights in {value.dtype}")
        if type(value) not in (Tensor, nn.Parameter, nn.Buffer):
            raise _unknown(f"weights of type {type(value).__name__}")
    if torch.is_autocast_enabled(device.type):
        raise _unknown("passes under autocast")
    if torch.get_float32_matmul_precision() != "highest":
        raise _unknown("a float32 matmul precision below highest")


def around(images: Tensor, threat: Threat) -> Box:
    """A box around all images that the judge allows in the threat."""
    if not isinstance(threat, Linf | L2):
        raise ConfigError.expected("a certificate needs Linf or L2", type(threat).__name__)
    centre, reach = images.double(), threat.eps + TOLERANCE
    return Box((centre - reach).clamp_min(0), (centre + reach).clamp_max(1))


def _holds(logits: Box, labels: Tensor) -> Tensor:
    """Where the label's logit is above every other in the whole box."""
    label = labels[:, None]
    others = logits.high.scatter(1, label, -torch.inf).amax(1)
    return logits.low.gather(1, label)[:, 0] > others


class Bounds:
    """Intervals through a network, operation by operation, as torch.fx traces it."""

    def __init__(self, model: nn.Module) -> None:
        self._graph = traced(model, MODULES)

    def of(self, images: Box) -> Box:
        """Bounds of the logits of any image in the box."""
        try:
            return _Walk(self._graph).run(images)
        except ConfigError as error:  # fx adds lines to the message
            raise ConfigError(str(error).partition("\n")[0]) from error

    def check(self, model: nn.Module, box: Box, batches: Sequence[Tensor]) -> None:
        """Compare the network with its trace and bounds on `batches`, images of the box.

        Raises `ConfigError` if its logits differ from the trace's or are outside the bounds.
        """
        for logits in check_same(model, self._graph, batches):
            if not bool(((logits >= box.low) & (logits <= box.high)).all()):
                unshown("logits outside its bounds")


class _Walk(fx.Interpreter):
    """Passes a `Box` instead of a tensor through the network."""

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        layer = self.fetch_attr(target)
        kind = parametrize.type_before_parametrizations(layer)
        rule = MODULES.get(kind)
        if rule is None or kwargs or len(args) != 1:
            raise _unknown(kind.__name__)
        if kind.forward is not FORWARDS[kind]:
            unshown(f"a replaced forward of {kind.__name__}")
        return rule(layer, args[0])

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in (operator.add, operator.iadd, torch.add) and not kwargs:
            return _sum(*args)
        return self._ends(FUNCTIONS.get(target), target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._ends(METHODS.get(target), target, args, kwargs)

    def _ends(self, rule: Callable[..., Tensor] | None, target: Any, args: Any, kwargs: Any) -> Any:
        """Apply a rule to both ends, with the other arguments unchanged."""
        if rule is None or not args or not isinstance(args[0], Box):
            raise _unknown(getattr(target, "__name__", str(target)))
        x, *others = args
        return Box(rule(x.low, *others, **kwargs), rule(x.high, *others, **kwargs))


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
"""Monotone functions without rounding: bounds become bounds."""

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
"""Such methods."""


def _sum(one: Any, other: Any) -> Box:
    if not (isinstance(one, Box) and isinstance(other, Box)):
        raise _unknown("a sum with something that is not computed from the images")
    total = Box(one.low + other.low, one.high + other.high)
    return total.widened(2 * UNIT * total.largest)


def _linear(layer: nn.Linear, x: Box) -> Box:
    return _affine(x, layer.weight, layer.bias, functional.linear, layer.in_features)


def _convolution(layer: nn.Conv2d, x: Box) -> Box:
    if layer.padding_mode != "zeros":
        raise _unknown(f"a convolution with padding mode {layer.padding_mode}")

    def product(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.conv2d(
            values, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )

    return _affine(x, layer.weight, layer.bias, product, layer.weight[0].numel())


def _affine(
    x: Box,
    weight: Tensor,
    bias: Tensor | None,
    product: Callable[..., Tensor],
    terms: int,
) -> Box:
    """By centre and radius, widened by n u / (1 - n u) of the sum of absolute values of n terms.

    `product` takes values, weight and, if given, bias.
    """
    weight, sizes = weight.double(), weight.double().abs()
    shift = None if bias is None else bias.double()
    centre, radius = (x.low + x.high) / 2, (x.high - x.low) / 2
    middle, spread = product(centre, weight, shift), product(radius, sizes)
    size = product(x.largest, sizes, None if shift is None else shift.abs())
    error = (terms + 2) * UNIT / (1 - (terms + 2) * UNIT)
    return Box(middle - spread, middle + spread).widened(size * error)


def _batch_norm(layer: nn.BatchNorm2d | nn.BatchNorm1d, x: Box) -> Box:
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
    return Box(low, high).widened(8 * UNIT * (size * scale.abs() + abs(shift)))


def _normalised(layer: Normalisation, x: Box) -> Box:
    mean, deviation = layer.mean.double(), layer.deviation.double()
    ends = [(end - mean) / deviation for end in x]
    found = Box(torch.minimum(*ends), torch.maximum(*ends))
    return found.widened(4 * UNIT * (x.largest + mean.abs()) / deviation.abs())


def _pooled(layer: nn.AvgPool2d | nn.AdaptiveAvgPool2d, x: Box) -> Box:
    if getattr(layer, "divisor_override", None) is not None:
        raise _unknown("average-pooling with a divisor of its own")
    terms = x.low.shape[-1] * x.low.shape[-2] + 2
    return Box(layer(x.low), layer(x.high)).widened(2 * terms * UNIT * layer(x.largest))


def _each_end(layer: nn.Module, x: Box) -> Box:
    return Box(layer(x.low), layer(x.high))


MODULES: Mapping[type[nn.Module], Callable[[Any, Box], Box]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm1d: _batch_norm,
    BatchRenorm2d: _batch_norm,
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
FORWARDS = {kind: kind.forward for kind in MODULES}
"""The forward methods that the bounds are for."""


def _unknown(what: str) -> ConfigError:
    return ConfigError(
        "a certificate needs a bound for every operation of the network; none is known for "
        f"{what}. Leave the certificate out."
    )
