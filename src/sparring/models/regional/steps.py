"""The operations of a trace that may be computed on windows of their maps."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sparring.models.networks import Normalisation
from sparring.models.regional.windows import Pair, Slide, by_axis

SHARE = 0.6
"""Largest share of a map that is computed as a window."""
MOST = 3 * 2**20
"""Bytes that may be kept of an image."""
WORTH = 4_000_000
"""Multiplications of an image that windows must save where one pixel changes."""
POINTWISE = (
    *(operator.add, operator.sub, operator.mul, operator.truediv),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.addcmul),
    *(torch.relu, torch.relu_, functional.relu, "relu"),
)
"""Functions and methods that compute a pixel of their output from the same pixel of each map."""
POINTWISE_LAYERS = (
    *(Normalisation, nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU),
    *(nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A node whose output is a map that may be computed as a window."""

    sources: tuple[fx.Node, ...]
    """The maps that it is computed from."""
    channels: int
    whole: Pair
    """Height and width of its output."""
    dtype: torch.dtype
    slide: Slide | None = None
    """`None` for a pointwise function."""
    margin: Pair = (0, 0)
    """Zeros above and below, left and right of the map that is kept of it."""
    kept: bool = False
    """Whether a map is kept of it."""

    @property
    def padded(self) -> tuple[int, int, int]:
        """Shape of the map that is kept."""
        high, wide = by_axis(lambda a: self.whole[a] + 2 * self.margin[a])
        return high, wide, self.channels

    def products(self, size: Pair) -> int:
        """Multiplications for a window of this size."""
        return 0 if self.slide is None else size[0] * size[1] * self.slide.products

    def is_much(self, size: Pair) -> bool:
        """Whether a window of this size is so large that the whole map is computed."""
        return size[0] * size[1] > SHARE * self.whole[0] * self.whole[1]


def steps_of(trace: fx.GraphModule) -> dict[fx.Node, Step]:
    """The nodes that may be computed as windows, in order, as far as the memory allows.

    None if they save little: a window costs as much time as some hundred thousand multiplications.
    """
    found: dict[fx.Node, Step] = {}
    least: dict[fx.Node, Pair] = {}
    for node in trace.graph.nodes:
        step = _step(trace, node, found)
        if step is None:
            continue
        before = [least[source] for source in step.sources]
        size = (
            (max(high for high, _ in before), max(wide for _, wide in before)) if before else (1, 1)
        )
        if step.slide is not None:
            size = step.slide.reached(size, step.whole)
        if not step.is_much(size):
            found[node], least[node] = step, size
    while True:
        known = {node: _with_memory(node, step, found) for node, step in found.items()}
        spent = sum(
            step.padded[0] * step.padded[1] * step.channels * step.dtype.itemsize
            for step in known.values()
            if step.kept
        )
        if spent <= MOST:
            saved = sum(
                step.products(step.whole) - step.products(least[node])
                for node, step in known.items()
            )
            return known if saved >= WORTH else {}
        found.popitem()


def _with_memory(node: fx.Node, step: Step, steps: Mapping[fx.Node, Step]) -> Step:
    """The step, with a map kept of it if anything but a function of its window uses it."""
    by = [steps.get(user) for user in node.users]
    simple = all(each is not None and each.slide is None and len(each.sources) == 1 for each in by)
    slides = [each.slide.padding for each in by if each is not None and each.slide is not None]
    high = max((padding for padding, _ in slides), default=0)
    wide = max((padding for _, padding in slides), default=0)
    return replace(step, margin=(high, wide), kept=not simple and node.op != "placeholder")


def _step(trace: fx.GraphModule, node: fx.Node, known: Mapping[fx.Node, Step]) -> Step | None:
    """The step of a node; `None` if it must be computed whole."""
    shape = node.meta.get("shape", ())
    if len(shape) != 4:
        return None
    about: dict[str, Any] = {
        "channels": shape[1],
        "whole": tuple(shape[2:]),
        "dtype": node.meta["dtype"],
    }
    if node.op == "placeholder":
        return Step(sources=(), **about)
    maps = tuple(each for each in node.all_input_nodes if each.op != "get_attr")
    if (
        not maps
        or any(each not in known for each in maps)
        or any(isinstance(each, fx.Node) for each in node.kwargs.values())
    ):
        return None
    if node.op == "call_module":
        layer = trace.get_submodule(str(node.target))
        if type(layer) in POINTWISE_LAYERS:
            return Step(sources=maps, **about)
        slide = _slide(layer)
        return None if slide is None else Step(sources=maps, slide=slide, **about)
    slide = _pooling(node)
    if slide is not None:
        return Step(sources=maps, slide=slide, **about)
    if node.target not in POINTWISE or any(each.meta["shape"] != shape for each in maps):
        return None
    fits = all(_is_by_channel(trace, each) for each in node.args if each not in maps)
    return Step(sources=maps, **about) if fits else None


def _is_by_channel(trace: fx.GraphModule, arg: object) -> bool:
    """Whether an argument is the same for all pixels of a channel."""
    if isinstance(arg, fx.Node):
        value = operator.attrgetter(str(arg.target))(trace)
        return isinstance(value, Tensor) and (value.numel() == 1 or value.shape[-2:] == (1, 1))
    return isinstance(arg, int | float)


def _slide(layer: nn.Module) -> Slide | None:
    """How a layer slides over a map, if it pads with zeros or not at all."""
    kind: Any = type(layer)
    of: Any = layer
    if kind is nn.Conv2d and of.padding_mode == "zeros" and not isinstance(of.padding, str):
        settings = {"stride": of.stride, "dilation": of.dilation, "groups": of.groups}
        apply = partial(functional.conv2d, weight=of.weight, bias=of.bias, **settings)
        products = of.weight.numel()
        return Slide(of.kernel_size, of.stride, of.padding, of.dilation, products, apply)
    if kind is nn.MaxPool2d and not of.return_indices:
        return _pooled(
            functional.max_pool2d, of.kernel_size, of.stride, of.padding, of.dilation, of.ceil_mode
        )
    if kind is nn.AvgPool2d and of.divisor_override is None:
        return _pooled(
            functional.avg_pool2d, of.kernel_size, of.stride, of.padding, 1, of.ceil_mode
        )
    return None


def _pooling(node: fx.Node) -> Slide | None:
    """How a function that pools slides over a map."""
    if node.target not in (functional.max_pool2d, functional.avg_pool2d):
        return None
    names = ("input", "kernel_size", "stride", "padding")
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | node.kwargs
    if len(node.args) > len(names) or set(given) - set(names):
        return None
    stride = given.get("stride") or given["kernel_size"]
    function: Any = node.target
    return _pooled(function, given["kernel_size"], stride, given.get("padding", 0), 1, ceil=False)


def _pooled(  # noqa: PLR0913 - what a pooling has
    function: Callable[..., Tensor],
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil: bool,
) -> Slide | None:
    """How pooling slides over a map; `None` where it pads or counts what lies outside."""
    kernel, stride, padding, dilation = (
        (each, each) if isinstance(each, int) else tuple(each)
        for each in (kernel, stride, padding, dilation)
    )
    if ceil or padding != (0, 0):
        return None
    settings = {"kernel_size": kernel, "stride": stride}
    if dilation != (1, 1):
        settings["dilation"] = dilation
    return Slide(kernel, stride, padding, dilation, 0, partial(function, **settings))
