"""The state of a module: restored after a call, or copied.

Shapes: B batch, C H W image, K classes.
"""

import copy
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from sparring.errors import ConfigError, cause

_HELD: dict[int, "_Kept"] = {}
"""What modules in evaluation mode were before, by their ids."""
_HOLDING = threading.RLock()
"""Held while a block begins or ends: blocks of several threads may share a module."""


@contextmanager
def evaluation_mode(model: object) -> Iterator[None]:
    """Put a module into evaluation mode with constant weights, and restore it afterwards.

    Restored are the training flag of every submodule, `requires_grad` of the parameters, and the
    values of buffers and parameters, also after an error. A backward pass must end inside the
    block: activation checkpointing computes layers again in it. The method `attacked` of a working
    copy stands for its network. Other functions are left alone. Blocks may be nested, and overlap
    in several threads; the last to end restores.
    Cost: a copy of the buffers and, of a module itself, of the parameters.
    """
    module = module_of(model)
    if module is None:
        yield
        return
    kept = _joined(module, weights=module is model)
    try:
        _evaluate(module)  # also a held one: a pass may have put it into training mode
        yield
    finally:
        _left(kept)


def _joined(module: nn.Module, *, weights: bool) -> "_Kept":
    """What a module was before its first block, with one block more; held from now on."""
    with _HOLDING:
        kept = _HELD.get(id(module))
        if kept is None:
            kept = _Kept(module, weights=weights)
            kept.hold()
            _HELD[id(module)] = kept
        kept.blocks += 1
        return kept


def _left(kept: "_Kept") -> None:
    """With one block less; the last restores the module."""
    with _HOLDING:
        kept.blocks -= 1
        if not kept.blocks:
            del _HELD[id(kept.module)]
            kept.restore()


class OnCopies:
    """Calls a model on a copy of the images, which it may change in place.

    The copy is no leaf of the graph, so that gradients pass.
    """

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model = model

    def __call__(self, images: Tensor) -> Tensor:
        """The model's logits."""
        return self.model(images.clone())


def module_of(model: object) -> nn.Module | None:
    """The module of a classifier: itself, or the network of a working copy."""
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, OnCopies):
        return module_of(model.model)
    network = getattr(getattr(model, "__self__", None), "network", None)
    is_attacked = getattr(model, "__name__", "") == "attacked"
    return network if is_attacked and isinstance(network, nn.Module) else None


class _Kept:
    """What a module was before it was held."""

    def __init__(self, module: nn.Module, *, weights: bool) -> None:
        self.module, self.blocks = module, 0
        parts = list(module.modules())
        # A frozen ScriptModule has no flag.
        self._flags = [(part, part.training) for part in parts if hasattr(part, "training")]
        self._trained = [(each, each.requires_grad) for each in module.parameters() if each.is_leaf]
        self._buffers = [(part, dict(part._buffers)) for part in parts if not _is_compiled(part)]
        named = [(part, *each) for part in parts for each in part.named_buffers(recurse=False)]
        if weights:
            named += [
                (part, *each) for part in parts for each in part.named_parameters(recurse=False)
            ]
        self._values = [(part, name, value, value.detach().clone()) for part, name, value in named]

    def hold(self) -> None:
        for parameter, _ in self._trained:
            parameter.requires_grad = False

    def restore(self) -> None:
        with torch.no_grad():
            for part, name, value, before in self._values:
                if getattr(part, name, None) is not value:
                    setattr(part, name, value)
                put_back(value, before)
        for part, buffers in self._buffers:  # those that a pass has made are gone again
            for name in set(part._buffers) - set(buffers):
                del part._buffers[name]
            part._buffers.update({name: None for name in buffers if buffers[name] is None})
        for parameter, trained in self._trained:
            parameter.requires_grad = trained
        for part, flag in self._flags:
            part.training = flag


def _evaluate(module: nn.Module) -> None:
    for part in module.modules():
        if hasattr(part, "training"):
            part.training = False


def _is_compiled(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def put_back(value: Tensor, before: Tensor) -> None:
    """Write only changes: any other write would spoil a later backward pass."""
    if value.shape != before.shape:
        value.data = before
    elif not torch.equal(value, before):
        value.copy_(before)


def training_mode(network: nn.Module) -> None:
    """Put a network into training mode, except layers that are in evaluation mode now."""
    kept = [module for module in network.modules() if not module.training]
    network.train()
    for module in kept:
        module.training = False


def kept_layers(network: nn.Module) -> dict[str, list[str]]:
    """Names of the layers in evaluation mode, and of the frozen weights."""
    return {
        "evaluation": [name for name, module in network.named_modules() if not module.training],
        "frozen": [name for name, each in network.named_parameters() if not each.requires_grad],
    }


Network = TypeVar("Network", bound=nn.Module)


def copied(network: Network) -> Network:
    """A deep copy, in which tensors with a history, which PyTorch cannot copy, are constants.

    Such tensors are features of the last pass, or weights that a hook computes before every pass
    (`weight_norm`, pruning). Raises `ConfigError` if the network cannot be copied, or if two
    weights share memory.
    """
    try:
        _check_apart(network)
        with _ConstantResults():
            return copy.deepcopy(network)
    except ConfigError:
        raise
    except Exception as error:  # a network of your own may hold anything
        raise ConfigError(
            f"the network, a {type(network).__name__}, cannot be copied: {cause(error)}. Keep "
            "locks, open files and generators out of it."
        ) from error


def _check_apart(network: nn.Module) -> None:
    """Refuse a trained weight that overlaps in memory with another tensor of the network."""
    spans = sorted(
        (each.untyped_storage().data_ptr(), begin, begin + _extent(each), name)
        for name, each in [*network.named_parameters(), *network.named_buffers()]
        if each.layout is torch.strided and not is_lazy(each) and not each.is_meta and each.numel()
        for begin in [each.storage_offset() * each.element_size()]
    )
    trained = {name for name, each in network.named_parameters() if each.requires_grad}
    for (storage, _, end, name), (next_storage, begin, _, other) in pairwise(spans):
        if storage == next_storage and begin < end and trained & {name, other}:
            raise ConfigError(
                f"{name} and {other} of the network, a {type(network).__name__}, are different "
                "tensors in the same memory. Assign one parameter to both places, or give each a "
                "clone()."
            )


def _extent(value: Tensor) -> int:
    """Bytes from a tensor's first number to the end of its last."""
    places = zip(value.shape, value.stride(), strict=True)
    return (sum((size - 1) * stride for size, stride in places) + 1) * value.element_size()


class _ConstantResults(TorchFunctionMode):
    """While active, `copy.deepcopy` copies tensors without their history."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            result, memo = args
            return memo.setdefault(id(result), result.detach().clone())
        return func(*args, **(kwargs or {}))
