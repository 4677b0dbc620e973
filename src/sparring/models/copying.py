"""Copies of networks, also of those that keep results of a computation."""

import copy
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparring.errors import ConfigError, cause

Network = TypeVar("Network", bound=nn.Module)


def copied(network: Network) -> Network:
    """A deep copy, in which tensors that were computed from others are constants.

    PyTorch refuses to copy such tensors. Networks keep them as features of the last pass, or as
    weights that a hook computes again before every pass (`weight_norm`, pruning).
    Raises `ConfigError` if something else in the network cannot be copied.
    """
    try:
        with _ConstantResults():
            return copy.deepcopy(network)
    except Exception as error:  # of anything that a network of one's own may hold
        raise ConfigError(
            f"the network, a {type(network).__name__}, cannot be copied: {cause(error)}. A copy is "
            "trained and another one is averaged. Keep locks, open files and generators out of it."
        ) from error


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
