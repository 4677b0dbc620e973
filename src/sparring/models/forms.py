"""Cheaper forms of a network, and their registry.

A form computes the networks of one class in another way. It ignores hooks, patches and
parametrisations, so it is used only for networks without them.

Shapes: B batch, C H W image, K classes.  Units: pixels in [0, 1].
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

from sparring.errors import ConfigError, cause
from sparring.records.text import kind_text

Network = TypeVar("Network", bound=nn.Module)
Of = TypeVar("Of", bound=nn.Module, contravariant=True)
Built = TypeVar("Built")


@runtime_checkable
class WorkingCopy(Protocol):
    """A network in the form in which training computes its passes."""

    name: str
    """Precision and method, for environment.json."""

    def refresh(self) -> None:
        """Derive the weights again; called after every update. Cost: less than one pass."""
        ...

    def attacked(self, images: Tensor) -> Tensor:
        """Logits [B, K] in evaluation mode, for attacks: the gradient reaches the images only."""
        ...

    def trained(self, images: Tensor) -> Tensor:
        """Logits [B, K] for one update: the gradient reaches the network's parameters."""
        ...


@runtime_checkable
class AttackPasses(Protocol):
    """A network with its present weights, for an evaluation's attacks."""

    name: str
    """Precision and method, for evaluation.json."""
    threads: int
    """CPU threads of PyTorch during attacks; 0 leaves their number as it is."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, K] in evaluation mode, differentiable in the images."""
        ...


@runtime_checkable
class Form(Protocol[Of]):
    """A cheaper way to compute the networks of one class; inherit from it, and register it.

    Both methods get a network of exactly that class, without hooks, patches or parametrisations.
    They return `None`, as by default, if the form does not fit the network, device or precision.
    """

    def working_copy(
        self, network: Of, *, device: torch.device, rounded: bool
    ) -> WorkingCopy | None:
        """The form for training: in bf16 if `rounded`, else in the network's own precision."""
        return None

    def attack_passes(self, network: Of, *, device: torch.device) -> AttackPasses | None:
        """The form for evaluations, in the network's own precision."""
        return None


_FORMS: dict[type[nn.Module], list[Form[Any]]] = {}
"""The forms of each class, the newest last."""


def register_form(network_type: type[Network], form: Form[Network]) -> None:
    """Compute the networks of exactly this class by a form, in this process.

    Subclasses do not inherit forms. The newest form that fits is used. Call this in the module that
    defines the class, so that workers register the form as well.
    A form must compute the same as the network, up to rounding. Training compares the two on a few
    images before it starts; an evaluation does not use a form that differs.
    Raises `ConfigError` for what is no class of networks or no form.
    """
    if not isinstance(network_type, type) or not issubclass(network_type, nn.Module):
        rule = "network_type must be a subclass of torch.nn.Module"
        raise ConfigError.expected(rule, repr(network_type))
    if isinstance(form, type):
        raise ConfigError(f"form is the class {form.__name__}. Build it: {form.__name__}().")
    if not isinstance(form, Form):
        raise ConfigError(
            f"{type(form).__name__} lacks the methods of a form. Inherit from sparring.models.Form."
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
    """The device of the parameters; the CPU if there are none."""
    return next((value.device for value in network.parameters()), torch.device("cpu"))


_CALL = nn.Module.__call__
TRACING = threading.RLock()
"""Held during a trace: torch.fx replaces `nn.Module.__call__` for the whole process."""


_PRECISIONS = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}


def precision_of(network: nn.Module) -> str:
    """How results cite the dtype of the weights, such as `fp32`; all of them if they differ."""
    kinds = {
        value.dtype
        for value in network.parameters()
        if value.is_floating_point() or value.is_complex()
    }
    names = (_PRECISIONS.get(kind, str(kind).removeprefix("torch.")) for kind in kinds)
    return "/".join(sorted(names)) or "fp32"


def alterations(network: nn.Module) -> Sequence[str]:
    """Descriptions of a network's hooks and patches, but not of parametrisations."""
    found = list[str]()
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        found.append("a forward hook on all modules")
    with TRACING:
        for name, layer in network.named_modules():
            for what in _alterations_of_one(layer):
                found.append(f"{what} on {type(layer).__name__} {name}".rstrip())
    return found


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


def unusual(network: nn.Module) -> Iterator[str]:
    """Descriptions of a network's hooks, patches and parametrisations, which no form has."""
    yield from alterations(network)
    if torch_module._global_backward_hooks or torch_module._global_backward_pre_hooks:
        yield "a backward hook on all modules"
    for name, layer in network.named_modules():
        kind = parametrize.type_before_parametrizations(layer).__name__
        if layer._backward_hooks or layer._backward_pre_hooks:
            yield f"a backward hook on {kind} {name}".rstrip()
        if parametrize.is_parametrized(layer):
            yield f"a parametrisation of {kind} {name}".rstrip()


def _first(
    network: nn.Module, kind: type[Built], build: Callable[[Form[Any]], Built | None]
) -> Built | None:
    """The result of the newest form that fits."""
    forms = _FORMS.get(type(network), [])
    if not forms or next(unusual(network), None) is not None:
        return None
    for form in reversed(forms):
        name = f"the form {type(form).__name__} of {type(network).__name__}"
        try:
            found = build(form)
        except Exception as error:  # a form of your own may raise anything
            raise ConfigError(
                f"{name} failed: {cause(error)}. It must return None if it cannot be used; --debug "
                "shows where."
            ) from error
        if found is not None and not isinstance(found, kind):
            raise ConfigError(
                f"{name} returned {kind_text(found)}, not None or a {kind.__name__}. Inherit "
                f"from sparring.models.{kind.__name__}."
            )
        if found is not None:
            return found
    return None
