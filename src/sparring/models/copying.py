"""Copies of networks, also of those that keep results of a computation."""

import copy
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from sparring.errors import ConfigError, cause

Network = TypeVar("Network", bound=nn.Module)


def copied(network: Network) -> Network:
    """A deep copy, in which tensors that were computed from others are constants.

    PyTorch refuses to copy such tensors. Networks keep them as features of the last pass, or as
    weights that a hook computes again before every pass (`weight_norm`, pruning).
    Raises `ConfigError` if something else in the network cannot be copied, or if two weights share
    memory: their copies would not.
    """
    try:
        _check_apart(network)
        with _ConstantResults():
            return copy.deepcopy(network)
    except ConfigError:
        raise
    except Exception as error:  # of anything that a network of one's own may hold
        raise ConfigError(
            f"the network, a {type(network).__name__}, cannot be copied: {cause(error)}. A copy is "
            "trained and another one is averaged. Keep locks, open files and generators out of it."
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
                "tensors in the same memory, which copies of the network would not share. Assign "
                "one parameter to both places, or give each a clone()."
            )


def _extent(value: Tensor) -> int:
    """Bytes from a tensor's first number to the end of its last."""
    places = zip(value.shape, value.stride(), strict=True)
    return (sum((size - 1) * stride for size, stride in places) + 1) * value.element_size()


class _ConstantResults(TorchFunctionMode):
    """While active, `copy.deepcopy` copies the numbers of a computed tensor, not its history."""

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
