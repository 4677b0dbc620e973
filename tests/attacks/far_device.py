"""A second device where there is none: its tensors compute here, and mix with no others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

FAR = "meta"
"""Its name: that of PyTorch's device without memory, whose tensors have none of their own here."""
MAY_MIX = ("aten::copy_", "aten::_to_copy")
"""What goes from device to device."""
INDEXING = ("aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
"""What takes places that are kept on the CPU."""


@contextmanager
def far_device() -> Iterator[None]:
    """While it lasts, tensors can be put on `FAR`, and what CUDA would refuse is an error."""
    with _Made(), _Watched():
        yield


class _Far(Tensor):
    """A tensor on the far device."""

    @staticmethod
    def __new__(cls, near: Tensor) -> "_Far":
        return Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), dtype=near.dtype, device=torch.device(FAR)
        )

    def __init__(self, near: Tensor) -> None:
        self.near = near

    def tolist(self) -> Any:
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Watched(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and to look costs PyTorch two seconds of imports."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Made(TorchFunctionMode):
    """Numbers are turned into tensors on the CPU and go on from there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and "device" in kwargs:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    far = any(isinstance(each, _Far) for each in tensors)
    if far and not func.name().startswith(MAY_MIX):
        _check(func, args, tensors)
    if (device := kwargs.get("device")) is not None:
        far, kwargs = str(device) == FAR, kwargs | {"device": torch.device("cpu")}
    near_args, near_kwargs = tree_map_only(_Far, lambda each: each.near, (args, kwargs))
    found = func(*near_args, **near_kwargs)
    if isinstance(args[0] if args else None, _Far) and found is near_args[0]:
        return args[0]
    return tree_map_only(Tensor, _Far, found) if far else found


def _check(func: Any, args: Any, tensors: list[Tensor]) -> None:
    if func.name().startswith(INDEXING):
        tensors = [each for each in (args[0], *args[2:]) if isinstance(each, Tensor)]
    near = [each for each in tensors if each.dim() and not isinstance(each, _Far)]
    if near:
        shapes = [tuple(each.shape) for each in near]
        raise RuntimeError(f"{func.name()}: tensors {shapes} are not on the device of the others")
