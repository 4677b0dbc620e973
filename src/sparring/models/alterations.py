"""What a call of a network does beside the code of its classes: hooks, patches, parametrisations.

A form of a network that is derived from its weights and classes, be it passes of another kind or
bounds, knows nothing of these.
"""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

_CALL = nn.Module.__call__


def alterations(network: nn.Module) -> Iterator[str]:
    """Each in a few words, with the layer's name; parametrised layers are not among them."""
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        yield "a forward hook on all modules"
    for name, layer in network.named_modules():
        for what in _of_one(layer):
            yield f"{what} on {type(layer).__name__} {name}".rstrip()


def is_plain(network: nn.Module, shown: str) -> bool:
    """Whether nothing in it is altered, and its layers and their settings are those `shown`.

    `shown` is the `repr` of a network of the same class.
    """
    return (
        repr(network) == shown
        and not any(map(parametrize.is_parametrized, network.modules()))
        and next(alterations(network), None) is None
    )


def _of_one(layer: nn.Module) -> Iterator[str]:
    if layer._forward_hooks:
        yield "a forward hook"
    if layer._forward_pre_hooks:
        yield "a forward pre-hook"
    if layer._compiled_call_impl is not None:
        yield "a compiled call"
    if type(layer).__call__ is not _CALL:
        yield "a __call__ of its own"
    for name in vars(layer):
        if callable(getattr(type(layer), name, None)):
            yield f"a replaced {name}"
