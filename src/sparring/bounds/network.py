"""Intervals through a network, operation by operation, and linear forms back through it.

`NetworkBounds` serves training and certificates. In training it is a differentiable pass in the
arithmetic of the box that it is given. For a certificate the box is in float64, and every operation
is widened by the rounding of single precision; so the bounds hold for the network as it computes:
layer by layer, in float32, with sums in any order.

Shapes: B batch, K classes, R linear forms of each image, S one image or one layer's output.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from sparring.bounds.boxes import Box, Region, product
from sparring.bounds.layers import (
    FORWARDS,
    FUNCTIONS,
    METHODS,
    MODULES,
    SIZES,
    SUMS,
)
from sparring.bounds.operations import Operation, Relu, Sum, unknown
from sparring.models import evaluation_mode
from sparring.models.tracing import traced, unshown

FLAT = Relu(flat=True)
COPIES = 6
"""Tensors of a form's size that exist at once while it goes back through an operation."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a pass; `operation` is `None` for the images themselves."""

    box: Box
    operation: Operation | None = None
    sources: tuple[fx.Node, ...] = ()
    slack: Tensor | None = None
    """The rounding error of each output, which `box` contains."""

    def part(self, places: Tensor | slice) -> "Step":
        """The step for these images."""
        slack = None if self.slack is None else self.slack[places]
        return Step(self.box.part(places), self.operation, self.sources, slack)


@dataclass(frozen=True, slots=True)
class Pass:
    """Bounds of all outputs of all operations for a batch of images."""

    images: Region
    steps: dict[fx.Node, Step]
    """In the order of the operations."""

    @property
    def last(self) -> fx.Node:
        """The operation that gives the logits."""
        return next(reversed(self.steps))

    @property
    def logits(self) -> Box:
        """Bounds of the logits [B, K]."""
        return self.steps[self.last].box

    def part(self, places: Tensor | slice) -> "Pass":
        """The pass of these images."""
        steps = {node: step.part(places) for node, step in self.steps.items()}
        return Pass(self.images.part(places), steps)

    def lowest(
        self, node: fx.Node, forms: Tensor, *, affine: bool = False, flat: bool = False
    ) -> Tensor:
        """A lower bound [B, R] of linear forms [B, R, *S] in the outputs of an operation.

        Forms go back to the images, by linear relaxation (CROWN). With `affine` they go back
        through affine operations only; the box of the others' outputs bounds them, and forms
        [1, R, *S] are those of all images. `flat` is that of `Relu`.
        """
        pending = {node: forms}
        total = forms.new_zeros(forms.shape[:2])
        for at, step in reversed(self.steps.items()):
            if at not in pending:
                continue
            forms, operation = pending.pop(at), step.operation
            if flat and isinstance(operation, Relu):
                operation = FLAT
            if operation is None:
                total = total + self.images.lowest(forms)
            elif affine and not operation.affine:
                total = total + step.box.lowest(forms)
            else:
                inputs = [self.steps[source].box for source in step.sources]
                back, constant = operation.back(forms, *inputs)
                if step.slack is not None:  # of float32, with room for the rounding of float64 here
                    constant = constant - product(forms.abs().flatten(2), step.slack)
                total = total + constant
                for source, found in zip(step.sources, back, strict=True):
                    pending[source] = pending[source] + found if source in pending else found
        return total

    def bytes_of_form(self, *, affine: bool = False) -> int:
        """Bytes that a form of one image takes on its way back, in float64, as `lowest` goes."""
        reached, sizes = {self.last}, list[int]()
        for node, step in reversed(self.steps.items()):
            if node in reached:
                sizes.append(step.box.low[0].numel())
                if not affine or (step.operation is not None and step.operation.affine):
                    reached.update(step.sources)
        return 8 * COPIES * max(sizes)

    def margins(
        self, labels: Int64[Tensor, " B"], *, affine: bool = True, memory: int | None = None
    ) -> Float[Tensor, " B K"]:
        """Lower bounds of the label's logit minus each other; about 0 at the label itself.

        Each difference is bounded as one linear form: by intervals of the last nonlinear
        operation's outputs (`affine`), or back to the images by the better line below each ReLU.
        Forms go back together as `memory` bytes allow, by default all.
        """
        low, classes = self.logits.low, self.logits.low.shape[1]
        dtype = torch.promote_types(low.dtype, torch.float32)
        unit = torch.eye(classes, dtype=dtype, device=low.device)
        together = max(1, len(labels)) * classes**2
        if memory is not None:
            together = max(1, memory // self.bytes_of_form(affine=affine))
        if affine and classes <= len(labels) and classes**2 <= together:
            # Forms of all pairs of classes, for all images.
            forms = (unit[:, None] - unit).flatten(0, 1)[None]
            found = self.lowest(self.last, forms, affine=True)
            return found.view(-1, classes, classes)[torch.arange(len(labels)), labels]
        if len(labels) > together:
            places = [slice(at, at + together) for at in range(0, len(labels), together)]
            parts = [
                self.part(some).margins(labels[some], affine=affine, memory=memory)
                for some in places
            ]
            return torch.cat(parts)
        found = []
        for some in unit.split(max(1, together // max(1, len(labels)))):
            forms = unit[labels][:, None] - some
            lowest = self.lowest(self.last, forms, affine=affine)
            if not affine:
                lowest = lowest.maximum(self.lowest(self.last, forms, flat=True))
            found.append(lowest)
        return torch.cat(found, dim=1)


class NetworkBounds:
    """Bounds of a network's outputs in evaluation mode. The network is traced once.

    Raises `ConfigError` for a network that its trace does not show (`traced`). A pass raises it for
    an operation without a known bound.
    """

    def __init__(self, model: nn.Module) -> None:
        with evaluation_mode(model):
            self.trace = traced(model, MODULES)

    def through(
        self,
        images: Box | Region,
        *,
        rounding: bool = False,
        known: Mapping[fx.Node, Box] | None = None,
    ) -> Pass:
        """Intervals of every operation's outputs for images in a box.

        With `rounding` they contain what the network computes in single precision; `images` must be
        float64. `known` are other bounds of some outputs, which the intervals are cut down to.
        """
        if isinstance(images, Box):
            images = Region(images, (images.low + images.high) / 2)
        walk = _Walk(self.trace, images.box, rounding=rounding, known=known or {})
        return Pass(images, walk.steps)


class _Walk:
    """One pass over the trace's nodes."""

    def __init__(
        self, trace: fx.GraphModule, images: Box, *, rounding: bool, known: Mapping[fx.Node, Box]
    ) -> None:
        self._trace, self._images, self._rounding, self._known = trace, images, rounding, known
        self.steps: dict[fx.Node, Step] = {}
        self._sizes: dict[fx.Node, Any] = {}
        for node in trace.graph.nodes:
            if node.op == "output":
                self._end(node.args[0])
            elif node.op == "placeholder" or not self._is_size(node):
                self.steps[node] = self._step(node)

    def _end(self, last: Any) -> None:
        """The output is the last step; steps that it does not need may follow it in the trace."""
        if last not in self.steps:
            raise unknown("an output that is not one tensor")
        self.steps[last] = self.steps.pop(last)

    def _is_size(self, node: fx.Node) -> bool:
        """Whether a node is a shape or a part of one; if so, compute it."""
        first = node.args[0] if node.args else None
        args = [self._value(arg) for arg in node.args]
        if node.op == "call_method" and node.target in SIZES and self._is_step(first):
            found = SIZES[str(node.target)](*args, **node.kwargs)
        elif node.target is getattr and self._is_step(first) and args[1] == "shape":
            found = args[0].shape
        elif node.target is operator.getitem and first in self._sizes:
            found = operator.getitem(*args)
        else:
            return False
        self._sizes[node] = found
        return True

    def _is_step(self, arg: Any) -> bool:
        return isinstance(arg, fx.Node) and arg in self.steps

    def _value(self, arg: Any) -> Any:
        """An argument; a tensor of its shape and type in place of a step."""
        if not isinstance(arg, fx.Node):
            return arg
        return self._sizes[arg] if arg in self._sizes else self.steps[arg].box.low

    def _step(self, node: fx.Node) -> Step:
        if node.op == "placeholder":
            return Step(self._images)
        sources = tuple(arg for arg in node.args if isinstance(arg, fx.Node) and arg in self.steps)
        inputs = [self.steps[source].box for source in sources]
        operation = self._operation(node, len(sources))
        box, slack = operation.ends(*inputs), None
        if self._rounding and (slack := operation.slack(box, *inputs)) is not None:
            box = box.widened(slack)
        if node in self._known:
            box = box.within(self._known[node])
        return Step(box, operation, sources, slack)

    def _operation(self, node: fx.Node, tensors: int) -> Operation:
        """The operation of a node whose first arguments are this number of tensors."""
        target: Any = node.target
        if node.op == "call_module":
            return self._layer(node, self._trace.get_submodule(target))
        if target in SUMS and node.op == "call_function" and not node.kwargs:
            if tensors != 2:
                raise unknown("a sum with something that is not computed from the images")
            one, other = (tuple(self._value(arg).shape[1:]) for arg in node.args)
            if one != other:
                raise unknown(f"a sum of two shapes, {one} and {other}")
            return Sum()
        rule = {"call_function": FUNCTIONS, "call_method": METHODS}.get(node.op, {}).get(target)
        if rule is None or tensors != 1 or not self._is_step(node.args[0]):
            raise unknown(getattr(target, "__name__", str(target)))
        named = {name: self._value(arg) for name, arg in node.kwargs.items()}
        try:
            return rule(*map(self._value, node.args), **named)
        except TypeError as error:  # such as a dtype for a shape
            name = getattr(target, "__name__", str(target))
            raise unknown(f"{name} with these arguments") from error

    def _layer(self, node: fx.Node, layer: nn.Module) -> Operation:
        kind = parametrize.type_before_parametrizations(layer)
        rule = MODULES.get(kind)
        if rule is None or node.kwargs or len(node.args) != 1 or not self._is_step(node.args[0]):
            raise unknown(f"{kind.__name__} {str(node.target).removeprefix('0.')}")
        if kind.forward is not FORWARDS[kind]:
            unshown(f"a replaced forward of {kind.__name__}")
        return rule(layer, self._value(node.args[0]))
