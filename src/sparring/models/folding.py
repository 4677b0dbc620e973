"""Any network for attacks: BatchNorm folded into other layers, no dropout, channels-last on a CPU.

The form is derived from the network's trace. It computes in the network's own precision; folded
weights are computed in double precision and then rounded.

Shapes: B batch, S one image (C H W), K classes.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from typing_extensions import override

from sparring.models.forms import AttackPasses, device_of, precision_of, unusual
from sparring.models.networks import BatchRenorm2d, Normalisation
from sparring.models.regional import Regions
from sparring.models.state import evaluation_mode
from sparring.models.tracing import traced, unshown

PROBED = 2
"""Images from which the shapes of all outputs are known."""
LEAVES = (BatchRenorm2d, Normalisation)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchRenorm2d)
DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.Identity,
)
DROPPING = (
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
)
"""Functions of `input, p, training, inplace`."""
WEIGHTED: Mapping[object, int] = {
    nn.Linear: 2,
    nn.Conv1d: 3,
    nn.Conv2d: 4,
    nn.Conv3d: 5,
    functional.linear: 2,
    functional.conv1d: 3,
    functional.conv2d: 4,
    functional.conv3d: 5,
}
"""Operations that BatchNorm is folded into, with the dimensions of their outputs."""
SUMS = (operator.add, torch.add)
RELUS = (torch.relu, functional.relu)


class FoldedPasses(AttackPasses):
    """The logits of a network with its present weights, for attacks. Made by `folded_passes`."""

    threads = 0

    def __init__(self, trace: fx.GraphModule, layout: torch.memory_format, name: str) -> None:
        self._trace, self._layout, self.name = trace, layout, name

    @override
    def __call__(self, images: Tensor) -> Tensor:
        if self._layout is torch.channels_last and images.ndim == 4:
            images = _ChannelsLast.apply(images)
        return self._trace(images)


class _ChannelsLast(torch.autograd.Function):
    """Images channels-last; their gradient is contiguous, as the attacks' arithmetic wants it."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.to(memory_format=torch.channels_last, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


class RegionalPasses(FoldedPasses):
    """Folded passes that compute convolutions only where a change of few pixels reaches them."""

    def __init__(self, trace: fx.GraphModule, layout: torch.memory_format, name: str) -> None:
        super().__init__(trace, layout, name)
        self.regions = Regions(trace)

    def remember(self, images: Tensor) -> dict[str, Tensor]:
        """The maps of images that `revised` needs, 3 MiB an image at most. Cost: a pass.

        `revised` holds as much again until the next call.
        """
        return self.regions.remember(images)

    def revised(
        self, memory: Mapping[str, Tensor], before: Tensor, after: Tensor, rows: Tensor
    ) -> Tensor:
        """Logits [R, K] of `after` at these rows, where `memory` is of `before`.

        Cost: a pass for changes of many pixels, some two thirds of one for 2x2 pixels of 28x28.
        """
        return self.regions.revised(memory, before, after, rows)

    def keep(
        self, memory: Mapping[str, Tensor], before: Tensor, after: Tensor, rows: Tensor
    ) -> None:
        """Make the memory, in place, that of `after` at these rows. Cost: less than `revised`."""
        self.regions.keep(memory, before, after, rows)


def folded_passes(network: nn.Module, images: Tensor) -> FoldedPasses | None:
    """The passes of a network in evaluation mode; `None` if there is nothing to gain.

    Shapes of its outputs are taken from a pass over the first `images` [B, *S]. The network is not
    changed, and its weights must stay as they are while the form is used.
    Raises `ConfigError` for a network that its trace does not show, one with hooks, patches or
    parametrisations, and one with layers that act as in training.
    """
    with torch.no_grad(), evaluation_mode(network):
        for what in unusual(network):
            unshown(what)
        for name, layer in network.named_modules():
            if layer.training or (isinstance(layer, NORMS) and layer.running_mean is None):
                unshown(f"a {type(layer).__name__} {name}".rstrip() + " that acts as in training")
        trace = traced(network, LEAVES)
        _Shapes(trace).run(images[:PROBED].to(device_of(network), copy=True))
    fold = _Fold(trace)
    layout = fold.layout()
    gain = fold.without_dropout() + fold.without_norms() + fold.in_place()
    if not gain and layout is torch.contiguous_format:
        return None
    fold.lay_out(layout)
    trace.graph.lint()
    trace.recompile()
    kind = FoldedPasses if layout is torch.contiguous_format else RegionalPasses
    return kind(trace, layout, f"{precision_of(network)} folded")


class _Shapes(fx.Interpreter):
    """Notes the shapes and types of all outputs."""

    @override
    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        if isinstance(found, Tensor):
            n.meta["shape"], n.meta["dtype"] = tuple(found.shape), found.dtype
        return found


class _Affine(NamedTuple):
    """BatchNorm as x · scale + shift, in double precision."""

    scale: Tensor
    shift: Tensor
    dtype: torch.dtype


class _Fold:
    """Changes the nodes of a trace; the network's own layers stay as they are."""

    def __init__(self, trace: fx.GraphModule) -> None:
        self._trace, self._added = trace, 0

    def without_dropout(self) -> int:
        """Remove dropout that is off in evaluation mode; return how many were removed."""
        gone = [node for node in self._trace.graph.nodes if self._does_nothing(node)]
        for node in gone:
            self._replace(node, node.args[0])
        return len(gone)

    def without_norms(self) -> int:
        """Fold BatchNorm into the layer before it, or make it one multiplication and addition."""
        norms = [(node, self._affine(node)) for node in list(self._trace.graph.nodes)]
        found = [(node, affine) for node, affine in norms if affine is not None]
        for node, affine in found:
            self._fold(node, affine)
        return len(found)

    def in_place(self) -> int:
        """Compute ReLU in place where its input is needed nowhere else."""
        found = [node for node in self._trace.graph.nodes if self._is_relu(node)]
        for node in found:
            source = node.args[0]
            if len(source.users) == 1 and self._may_be_overwritten(source):
                node.op, node.target = "call_function", torch.relu_
                node.args, node.kwargs = (source,), {}
        return len(found)

    def layout(self) -> torch.memory_format:
        """Channels-last on a CPU for two-dimensional convolutions.

        PyTorch 2.13 crashes in some backward passes of a channels-last GroupNorm.
        """
        nodes = list(self._trace.graph.nodes)
        groups = any(
            self._kind(node) in (nn.GroupNorm, functional.group_norm, torch.group_norm)
            for node in nodes
        )
        convolved = [node for node in nodes if WEIGHTED.get(self._kind(node)) == 4]
        on_cpu = device_of(self._trace).type == "cpu"
        if groups or not on_cpu or not convolved:
            return torch.contiguous_format
        return torch.channels_last

    def lay_out(self, layout: torch.memory_format) -> None:
        """Store the weights of convolutions so; `view` needs contiguous outputs, `reshape` none."""
        if layout is not torch.channels_last:
            return
        for node in list(self._trace.graph.nodes):
            if node.op == "call_method" and node.target == "view" and _is_shape(node.args[1:]):
                node.target = "reshape"
            if WEIGHTED.get(self._kind(node)) == 4 and (known := self._weights(node)):
                self._set_weights(node, *known)

    def _kind(self, node: fx.Node) -> Any:
        """The class of a layer, or the function that is called."""
        if node.op == "call_module":
            return type(self._trace.get_submodule(str(node.target)))
        return node.target if node.op == "call_function" else None

    def _does_nothing(self, node: fx.Node) -> bool:
        kind = self._kind(node)
        if kind in DROPOUTS:
            return len(node.args) == 1 and not node.kwargs
        if kind not in DROPPING or not isinstance(node.args[0], fx.Node):
            return False
        named = dict(zip(("p", "training"), node.args[1:], strict=False)) | node.kwargs
        default = kind in (functional.dropout, functional.dropout1d)
        default = default or kind in (functional.dropout2d, functional.dropout3d)
        return named.get("training", default) is False

    def _affine(self, node: fx.Node) -> _Affine | None:
        """A node's BatchNorm; `None` if it is none, or one by the batch's statistics."""
        kind = self._kind(node)
        if kind in NORMS and len(node.args) == 1:
            layer: Any = self._trace.get_submodule(str(node.target))
            values = [layer.running_mean, layer.running_var, layer.weight, layer.bias]
            return _affine(values, layer.eps)
        if kind is not functional.batch_norm:
            return None
        names = ("input", "running_mean", "running_var", "weight", "bias", "training")
        names = (*names, "momentum", "eps")
        given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | node.kwargs
        constants = {name: self._constant(given.get(name)) for name in names[1:5]}
        unknown = any(isinstance(constant, fx.Node) for constant in constants.values())
        if unknown or given.get("training", False) is not False or len(node.args) < 1:
            return None
        return _affine(list(constants.values()), given.get("eps", 1e-5))

    def _fold(self, node: fx.Node, affine: _Affine) -> None:
        source: Any = node.args[0]
        dims = WEIGHTED.get(self._kind(source))
        weights = self._weights(source)
        if weights and len(source.users) == 1 and len(source.meta["shape"]) == dims:
            weight, bias = weights
            scale = affine.scale.view(-1, *[1] * (weight.ndim - 1))
            shift = affine.shift if bias is None else bias.double() * affine.scale + affine.shift
            self._set_weights(source, weight.double() * scale, shift, weight.dtype)
            self._replace(node, source)
            return
        shape = (-1, *[1] * (len(node.meta["shape"]) - 2))
        with self._trace.graph.inserting_before(node):
            scale, shift = (
                self._add(value.view(shape).to(affine.dtype))
                for value in (affine.scale, affine.shift)
            )
            scaled = self._trace.graph.call_function(torch.addcmul, (shift, source, scale))
        scaled.meta = node.meta
        self._replace(node, scaled)

    def _weights(self, node: fx.Node) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias of a layer that BatchNorm can be folded into; `None` for other nodes."""
        if self._kind(node) not in WEIGHTED:
            return None
        if node.op == "call_module":
            layer: Any = self._trace.get_submodule(str(node.target))
            return layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        given = [node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")]
        given += [node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")]
        weight, bias = map(self._constant, given)
        if not isinstance(weight, Tensor) or isinstance(bias, fx.Node):
            return None
        return weight, bias

    def _set_weights(
        self,
        node: fx.Node,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Give a node weights of its own, in `dtype`; the network's layer is not changed."""
        dtype = dtype or weight.dtype
        layout = torch.channels_last if weight.ndim == 4 else torch.preserve_format
        weight = weight.to(dtype, memory_format=layout, copy=True)
        bias = None if bias is None else bias.to(dtype)
        if node.op == "call_module":
            former: Any = self._trace.get_submodule(str(node.target))
            layer = nn.Module.__new__(type(former))
            layer.__dict__.update(former.__dict__)
            layer._parameters = {
                "weight": nn.Parameter(weight, requires_grad=False),
                "bias": None if bias is None else nn.Parameter(bias, requires_grad=False),
            }
            node.target = self._name()
            self._trace.add_submodule(node.target, layer)
            return
        with self._trace.graph.inserting_before(node):
            added = [self._add(weight), None if bias is None else self._add(bias)]
        named = {key: each for key, each in node.kwargs.items() if key not in ("weight", "bias")}
        node.args = (node.args[0], *added, *node.args[3:])
        node.kwargs = named

    def _is_relu(self, node: fx.Node) -> bool:
        """Whether a node is a ReLU that is not in place already."""
        if self._kind(node) is nn.ReLU or (node.op == "call_method" and node.target == "relu"):
            return True
        return self._kind(node) in RELUS and len(node.args) == 1 and not node.kwargs

    def _may_be_overwritten(self, node: fx.Node) -> bool:
        """Whether a node's output is memory of its own that its backward pass does not need."""
        kind = self._kind(node)
        return kind in WEIGHTED or kind in SUMS or kind is torch.addcmul

    def _constant(self, arg: Any) -> Any:
        """The tensor that an argument stands for; other arguments as they are."""
        if not isinstance(arg, fx.Node) or arg.op != "get_attr":
            return arg
        found: Any = operator.attrgetter(str(arg.target))(self._trace)
        return found.detach() if isinstance(found, Tensor) else arg

    def _add(self, value: Tensor) -> fx.Node:
        name = self._name()
        self._trace.register_buffer(name, value)
        return self._trace.graph.get_attr(name)

    def _name(self) -> str:
        self._added += 1
        return f"folded_{self._added}"

    def _replace(self, node: fx.Node, other: Any) -> None:
        node.replace_all_uses_with(other)
        self._trace.graph.erase_node(node)


def _affine(values: Sequence[Tensor | None], eps: float) -> _Affine | None:
    mean, variance, weight, bias = values
    if mean is None or variance is None:
        return None
    scale = (variance.double() + eps).rsqrt()
    scale = scale if weight is None else scale * weight.detach().double()
    shift = -mean.double() * scale
    shift = shift if bias is None else shift + bias.detach().double()
    return _Affine(scale, shift, mean.dtype)


def _is_shape(args: tuple[Any, ...]) -> bool:
    """Whether these are the sizes of a view, and not a dtype."""
    return not any(isinstance(arg, torch.dtype) for arg in args)
