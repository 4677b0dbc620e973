"""The operations of a network as torch.fx records them, if the record is complete.

Shapes: B batch, S one image (C H W).  Units: pixels in [0, 1].
"""

import inspect
import operator
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import resolve_name

from sparring.errors import ConfigError, cause
from sparring.models.forms import TRACING, alterations

PARAMETRISATIONS = (
    parametrizations._WeightNorm,
    parametrizations._SpectralNorm,
    parametrizations._Orthogonal,
)
"""Parametrisations whose weights are the same in every pass in evaluation mode."""
SAME = 1e-6
"""Largest difference between a network and its trace, relative to the largest logit of a batch."""
FRESH = (nn.Linear, nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
"""Layers whose outputs share no memory with their inputs; others are assumed to share it."""
NEW = (
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.cat, torch.stack),
    *(torch.relu, functional.relu),
)
"""Functions whose results share no memory with their arguments, unless they write into one."""
IN_PLACE = {
    getattr(operator, f"i{name.strip('_')}"): getattr(operator, name)
    for name in (
        *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"),
        *("and_", "or_", "xor", "lshift", "rshift"),
    )
}
"""Operators that change a tensor, each with the one that returns a new tensor."""
SIZES = ("size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "get_device")
"""Methods that return numbers, which nothing changes in place."""
_SIZE_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "layout", "itemsize", "nbytes")
_OPERATORS = ("_operator", "math")
"""Modules of functions that change no argument, but for those in `IN_PLACE`."""
_FIELDS = ("tracer", "node", "root", "attr", "_node")
_PLAIN = (bool, int, float, str, type(None))
_OF_MODULES = frozenset(vars(nn.Module()))


def traced(model: nn.Module, leaves: Collection[type[nn.Module]]) -> fx.GraphModule:
    """The operations of a network in evaluation mode, with layers of these classes as one each.

    Raises `ConfigError` if the trace is not complete: for a hook, a replaced method, an unknown
    parametrisation, an operation that depends on the images' values, one in place whose input is
    used again, or one whose result is not used but that may change others. Networks may be called
    in other threads meanwhile.
    """
    for what in alterations(model):
        unshown(what)
    for layer in model.modules():
        _check_parametrisation(layer)
    whole = nn.Sequential(model)  # makes a single layer a leaf, too
    with TRACING, _attributes_kept(model):
        try:
            graph = _Tracer(leaves).trace(whole)
        except Exception as error:
            raise ConfigError(
                "bounds and cheaper passes need a network whose operations do not depend on the "
                f"images; this one cannot be traced ({cause(error)})."
            ) from error
    found = fx.GraphModule(whole, graph)
    _check_in_place(found)
    for node in reversed(found.graph.nodes):  # operations whose result is not used
        if node.users or node.op in ("output", "placeholder"):
            continue
        if not _written(node, found) and not _is_pure(node):
            name = getattr(node.target, "__name__", node.target)
            unshown(f"an operation, {name}, whose result is not used but that may change others")
        found.graph.erase_node(node)
    found.recompile()
    return found


def check_same(model: nn.Module, trace: fx.GraphModule, batches: Sequence[Tensor]) -> list[Tensor]:
    """The network's logits of these images [B, *S]. Raises `ConfigError` if its trace gives others.

    Cost: two forward passes.
    """
    found = []
    for images in batches:
        logits = model(images.clone())
        again = trace(images.clone())
        if not float((logits - again).abs().max()) <= SAME * float(logits.abs().max()):
            unshown("other logits than its trace")
        found.append(logits)
    return found


@contextmanager
def unchanging(model: nn.Module) -> Iterator[None]:
    """Raise `ConfigError` after the block if passes in it changed the network's state."""
    before = _state(model)
    yield
    if _state(model) != before:
        unshown("state that changes from call to call")


def unshown(what: str) -> NoReturn:
    """Raise `ConfigError` for something that a trace does not show."""
    raise ConfigError(
        "bounds and cheaper passes need a network that computes what its trace shows; this one has "
        f"{what}."
    )


class _Tracer(fx.Tracer):
    """Traces into every module except PyTorch's own and those with a rule.

    Modules that other threads call compute as always: `torch.fx` asks the tracer for them as well.
    """

    def __init__(self, leaves: Collection[type[nn.Module]]) -> None:
        super().__init__()
        self._leaves, self._thread = leaves, threading.get_ident()

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in self._leaves or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _InPlaceProxy(node, self)


class _InPlaceProxy(fx.Proxy):
    """Records `+=` and the like as in place, and refuses to set an attribute of a tensor.

    fx records an operation that does not change its operands, and no attribute that is set.
    """

    def __getattr__(self, k: str) -> Attribute:
        return _InPlaceAttribute(self, k)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _FIELDS:
            raise TypeError(f"it sets the attribute {name} of a tensor")
        super().__setattr__(name, value)


class _InPlaceAttribute(_InPlaceProxy, Attribute):
    """An attribute of a tensor, such as its `data`."""


def _records(function: Callable[[Any, Any], Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def record(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


for _function in IN_PLACE:
    setattr(_InPlaceProxy, f"__{_function.__name__}__", _records(_function))


def _check_parametrisation(layer: nn.Module) -> None:
    if not parametrize.is_parametrized(layer):
        return
    for name, parts in layer.parametrizations.items():  # pyright: ignore
        for part in parts:
            if type(part) not in PARAMETRISATIONS:
                unshown(f"a parametrisation, {type(part).__name__}, of {name} that is not known")


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """What a forward pass stores in its modules during a trace is not left there."""
    kept = [(vars(module), dict(vars(module))) for module in model.modules()]
    inside = [(value, copy(value)) for _, values in kept for value in _containers(values)]
    try:
        yield
    finally:
        # Never empty meanwhile: another thread may be calling the same network.
        for now, before in kept:
            for name in now.keys() - before.keys():
                del now[name]
            now.update(before)
        for value, before in inside:
            if not _same_items(value, before):
                value.clear()
                (value.extend if isinstance(value, list | deque) else value.update)(before)


def _same_items(value: Any, before: Any) -> bool:
    """Whether a container holds the same objects, in the same order."""
    if isinstance(value, dict):
        return _same_items([*value, *value.values()], [*before, *before.values()])
    return len(value) == len(before) and all(map(operator.is_, value, before))


def _containers(values: Mapping[str, Any]) -> Iterator[Any]:
    """Attributes of a module that hold others, but for those of `torch.nn.Module`."""
    for name, value in values.items():
        if type(value) in (list, dict, set, deque) and name not in _OF_MODULES:
            yield value


def _check_in_place(trace: fx.GraphModule) -> None:
    """Refuse an operation in place whose input is used afterwards; others need not be in place."""
    order = {node: place for place, node in enumerate(trace.graph.nodes)}
    memory: dict[fx.Node, frozenset[fx.Node]] = {}
    sizes: set[fx.Node] = set()
    for node, place in order.items():
        if _is_size(node, sizes):
            sizes.add(node)
        written = [each for each in _written(node, trace) if each not in sizes]
        shared = written or ([] if _is_fresh(node, trace) else node.all_input_nodes)
        memory[node] = frozenset().union(*(memory[each] for each in shared if each not in sizes))
        memory[node] = memory[node] or frozenset([node])
        if not written:
            continue
        if any(each.op == "get_attr" for each in memory[node]):
            unshown("an operation in place, such as +=, that changes what is kept between calls")
        names = [
            other for other, at in order.items() if at < place and memory[other] & memory[node]
        ]
        if any(order[user] > place for name in names for user in name.users):
            unshown("an operation in place, such as +=, that changes what is used again")
    for node in order:
        if node.target in IN_PLACE and node.target is not operator.iadd:
            node.target = IN_PLACE[node.target]


def _is_size(node: fx.Node, sizes: Collection[fx.Node]) -> bool:
    """Whether a node is no tensor: a size, another property, or computed from some alone."""
    if node.op == "call_method":
        return node.target in SIZES
    if node.target is getattr:
        return node.args[1] in _SIZE_ATTRIBUTES
    inputs = node.all_input_nodes
    return bool(inputs) and _is_operator(node) and all(each in sizes for each in inputs)


def _is_operator(node: fx.Node) -> bool:
    return getattr(node.target, "__module__", None) in _OPERATORS


def _is_fresh(node: fx.Node, trace: fx.GraphModule) -> bool:
    if node.op == "call_module":
        layer = trace.get_submodule(str(node.target))
        return isinstance(layer, (*FRESH, nn.ReLU, nn.MaxPool2d))
    return node.target in NEW


def _is_pure(node: fx.Node) -> bool:
    """Whether a node that writes into no argument is known to change nothing else."""
    if node.op == "call_method":  # an array shares its tensor's memory
        return hasattr(Tensor, str(node.target)) and node.target != "numpy"
    if node.op != "call_function" or _is_operator(node):
        return True
    target: Any = node.target
    return target in (getattr, len, torch._assert) or resolve_name(target) is not None


def _written(node: fx.Node, trace: fx.GraphModule) -> Sequence[fx.Node]:
    """The arguments that a node changes."""
    out = None
    if node.op == "call_module":
        writes = bool(getattr(trace.get_submodule(str(node.target)), "inplace", False))
    elif node.op == "call_method":
        out, writes = node.kwargs.get("out"), str(node.target).endswith("_")
    elif node.op == "call_function":
        out, writes = _argument(node, "out"), _is_named_in_place(node)
        writes = writes or bool(_argument(node, "inplace"))
    else:
        return []
    if out is None and not writes:
        return []
    return _nodes(out) or _nodes(node.args[:1]) or node.all_input_nodes


def _is_named_in_place(node: fx.Node) -> bool:
    """Whether a function is an operator such as `+=`, or PyTorch's name for it ends in `_`."""
    if _is_operator(node):
        return node.target in IN_PLACE
    name = str(getattr(node.target, "__name__", "")).partition(".")[0]  # of relu_.default
    return name.endswith("_") and not name.endswith("__")


def _argument(node: fx.Node, name: str) -> Any:
    """An argument of a function by its name; `None` where it is not given, or cannot be told."""
    if name in node.kwargs:
        return node.kwargs[name]
    target: Any = node.target
    try:
        names = list(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # of a function in C++
        return None
    return dict(zip(names, node.args, strict=False)).get(name)


def _nodes(argument: Any) -> list[fx.Node]:
    """The nodes in an argument, which may be nested."""
    found: list[fx.Node] = []
    fx.map_arg(argument, found.append)
    return found


def _state(model: nn.Module) -> list[object]:
    """State that must not change in a call: tensors, by place and sum, and attributes."""
    return [
        *((id(value), _sum(value)) for value in (*model.parameters(), *model.buffers())),
        *(
            {
                name: _content(value)
                for name, value in vars(module).items()
                if name not in _OF_MODULES or type(value) in _PLAIN
            }
            for module in model.modules()
        ),
    ]


def _content(value: object) -> object:
    """What is compared of an attribute: plain values, and containers of them and of others."""
    if isinstance(value, dict):
        return [(name, _content(inner)) for name, inner in value.items()]
    if isinstance(value, list | tuple | set | deque):
        return [_content(inner) for inner in value]
    return value if type(value) in _PLAIN else None


def _sum(value: Tensor) -> str:
    """As text, for NaN does not equal itself."""
    return repr(value.detach().double().sum().item())
