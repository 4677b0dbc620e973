"""Cheaper forms of a network: how they are registered, and for which networks they stand in.

A form computes what the networks of one class compute, from their weights, in another way. It knows
nothing of hooks, patches and parametrisations, so it stands in only for a network without them.

Shapes: B batch, C H W image, K classes.  Units: pixels in [0, 1].
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

from sparring.errors import ConfigError, cause

Network = TypeVar("Network", bound=nn.Module)
Of = TypeVar("Of", bound=nn.Module, contravariant=True)
Built = TypeVar("Built")


@runtime_checkable
class WorkingCopy(Protocol):
    """A network's weights in the form in which training computes its passes."""

    name: str
    """Precision and method, as environment.json gives them."""

    def refresh(self) -> None:
        """Derive the weights afresh; called after every update. Cost: less than one pass."""
        ...

    def attacked(self, images: Tensor) -> Tensor:
        """Logits [B, K] in evaluation mode, for attacks: the gradient reaches the images only."""
        ...

    def trained(self, images: Tensor) -> Tensor:
        """Logits [B, K] for one update: the gradient reaches the network's parameters."""
        ...


@runtime_checkable
class AttackPasses(Protocol):
    """A network with the weights that it had when this was built, for an evaluation's attacks."""

    name: str
    """Precision and method, as evaluation.json gives them."""
    threads: int
    """CPU threads that PyTorch has while this is attacked; 0 leaves their number as it is."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, K] in evaluation mode, differentiable in the images."""
        ...


@runtime_checkable
class Form(Protocol[Of]):
    """A cheaper way to compute the networks of one class; inherit from it, and register it.

    Both methods get a network of exactly that class, without hooks, patches or parametrisations,
    and return `None` where the form is not for this network, device or precision. A method that is
    not overridden returns `None`.
    """

    def working_copy(
        self, network: Of, *, device: torch.device, rounded: bool
    ) -> WorkingCopy | None:
        """The network as training computes it on this device.

        With `rounded` from weights and images that are rounded to bf16, otherwise in the network's
        own precision.
        """
        return None

    def attack_passes(self, network: Of, *, device: torch.device) -> AttackPasses | None:
        """The network as evaluations attack it, in its own precision on this device."""
        return None


_FORMS: dict[type[nn.Module], list[Form[Any]]] = {}
"""The forms of each class, the newest last."""


def register_form(network_type: type[Network], form: Form[Network]) -> None:
    """Compute the networks of exactly this class by a form, in this process.

    A subclass has none of its class's forms. Of several forms, the newest is used that is for the
    device and the precision. Call this in the module that defines the class: each process that
    builds the network, such as a worker, then has the form.
    A form must compute what a call of the network computes, up to rounding. Training compares the
    two on a few images before it starts; an evaluation does without a form that differs.
    Raises `ConfigError` for what is no class of networks or no form.
    """
    if not isinstance(network_type, type) or not issubclass(network_type, nn.Module):
        raise ConfigError(
            f"network_type must be a subclass of torch.nn.Module; got {network_type!r}. Pass the "
            "class of the network, not a network."
        )
    if isinstance(form, type):
        raise ConfigError(
            f"form must be an object, not its class; got the class {form.__name__}. Build it: "
            f"{form.__name__}()."
        )
    if not isinstance(form, Form):
        raise ConfigError(
            "form must have the methods working_copy and attack_passes; "
            f"{type(form).__name__} has not. Inherit from sparring.models.Form."
        )
    _FORMS.setdefault(network_type, []).append(form)


def registered_copy(
    network: nn.Module, *, device: torch.device, rounded: bool
) -> WorkingCopy | None:
    """The working copy of the newest form that has one; `None` without such a form.

    Raises `ConfigError` if the form fails or returns something else.
    """
    return _first(
        network,
        WorkingCopy,
        lambda form: form.working_copy(network, device=device, rounded=rounded),
    )


def attack_passes(network: nn.Module) -> AttackPasses | None:
    """The attack passes of the newest form that has some; `None` without such a form.

    Raises `ConfigError` if the form fails or returns something else.
    """
    device = device_of(network)
    return _first(network, AttackPasses, lambda form: form.attack_passes(network, device=device))


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters are; the CPU if it has none."""
    return next((value.device for value in network.parameters()), torch.device("cpu"))


def alterations(network: nn.Module) -> Iterator[str]:
    """What a call of a network does beside the code of its classes: hooks and patches.

    Each in a few words, with the layer's name. Parametrised layers are not among them.
    """
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        yield "a forward hook on all modules"
    for name, layer in network.named_modules():
        for what in _alterations_of_one(layer):
            yield f"{what} on {type(layer).__name__} {name}".rstrip()


_CALL = nn.Module.__call__


def _alterations_of_one(layer: nn.Module) -> Iterator[str]:
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


def _is_plain(network: nn.Module) -> bool:
    """Whether a call of the network is the code of its classes on its weights."""
    return next(alterations(network), None) is None and not any(
        map(parametrize.is_parametrized, network.modules())
    )


def _first(
    network: nn.Module, kind: type[Built], build: Callable[[Form[Any]], Built | None]
) -> Built | None:
    """What the newest form builds that builds something."""
    forms = _FORMS.get(type(network), [])
    if not forms or not _is_plain(network):
        return None
    for form in reversed(forms):
        name = f"the form {type(form).__name__} of {type(network).__name__}"
        try:
            found = build(form)
        except Exception as error:  # of any kind: a form may be the user's own
            raise ConfigError(
                f"{name} failed: {cause(error)}. It must return None where it cannot be used; "
                "--debug shows where."
            ) from error
        if found is not None and not isinstance(found, kind):
            raise ConfigError(
                f"{name} returned a {type(found).__name__}; it must return a {kind.__name__} or "
                f"None. Inherit from sparring.models.{kind.__name__}."
            )
        if found is not None:
            return found
    return None
