"""The operations of a network as torch.fx records them, if the record is complete.

Shapes: B batch, S one image (C H W).  Units: pixels in [0, 1].
"""

import operator
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from sparring.errors import ConfigError, cause
from sparring.models.forms import TRACING, alterations

PARAMETRISATIONS = (
    parametrizations._WeightNorm,
    parametrizations._SpectralNorm,
    parametrizations._Orthogonal,
)
"""Parametrisations whose weights are the same in every pass in evaluation mode."""
SAME = 1e-6
"""Largest difference between a network and its trace, relative to the largest logit if above 1."""
FRESH = (nn.Linear, nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
"""Layers whose outputs share no memory with their inputs; others are assumed to share it."""
_PLAIN = (bool, int, float, str, type(None))
_OF_MODULES = frozenset(vars(nn.Module()))


def traced(model: nn.Module, leaves: Collection[type[nn.Module]]) -> fx.GraphModule:
    """The operations of a network in evaluation mode, with layers of these classes as one each.

    Raises `ConfigError` if the trace is not complete: for a hook, a replaced method, an unknown
    parametrisation, an operation that depends on the images' values, or one in place whose input is
    used again. Networks may be called in other threads meanwhile.
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
        if not node.users and node.op not in ("output", "placeholder"):
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
        unit = max(1.0, float(logits.abs().max()))
        if not float((logits - again).abs().max()) <= SAME * unit:
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
    """Records `+=` as in place; fx records a sum that does not change its operands."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


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
    """Refuse an operation in place whose input is used afterwards."""
    order = {node: place for place, node in enumerate(trace.graph.nodes)}
    memory: dict[fx.Node, fx.Node] = {}
    for node, place in order.items():
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        memory[node] = node if source is None or _is_fresh(node, trace) else memory[source]
        if source is None or not _writes(node, trace):
            continue
        earlier = [other for other, at in order.items() if at < place]
        names = [other for other in earlier if memory[other] is memory[node]]
        if any(order[user] > place for name in names for user in name.users):
            unshown("an operation in place, such as +=, that changes what is used again")


def _is_fresh(node: fx.Node, trace: fx.GraphModule) -> bool:
    if node.op == "call_module":
        layer = trace.get_submodule(str(node.target))
        return isinstance(layer, FRESH) or (
            isinstance(layer, nn.ReLU | nn.MaxPool2d) and not _writes(node, trace)
        )
    return node.target in (operator.add, torch.add)


def _writes(node: fx.Node, trace: fx.GraphModule) -> bool:
    if node.op == "call_module":
        return bool(getattr(trace.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    given = node.args[1:2] if node.target is functional.relu else ()
    is_inplace = node.kwargs.get("inplace", given[0] if given else False) is not False
    return node.target is operator.iadd or is_inplace


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
