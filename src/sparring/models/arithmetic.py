"""Working copies: the precision and form in which a network's passes are computed.

Training keeps its weights in single precision. A *working copy* holds them in the cheapest form for
the hardware; it is derived once after every update, for all passes of the attack and the update.
The derivation is differentiable, so the update's gradient arrives at the single-precision weights.

Shapes: B batch, K classes, C H W image.  Units: pixels in [0, 1].
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from sparring.errors import ConfigError, OwnCodeFailed, cause
from sparring.models.forms import WorkingCopy, device_of, precision_of, registered_copy
from sparring.models.hardware import has_bf16_units
from sparring.models.networks import Normalisation
from sparring.models.spec import drawing_from
from sparring.models.state import copied, evaluation_mode, training_mode
from sparring.records.checks import choice

Precision = Literal["auto", "bf16", "fp32"]
""""auto" is bf16 if the hardware has units for it."""

PROBES = 8
"""Images on which a network is tried."""
WIDER = (torch.float64, torch.complex128)
"""Types of parameters that "auto" does not round to bf16."""
ALIKE = 1e-3
"""Largest difference of a form's logits from the network's, in units of the largest or `LEAST`."""
LEAST = 1e-2
"""Smallest unit: logits near 0 are differences of larger numbers, with the errors of those."""
CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
"""In order of their dimensions."""
GROUP_NORMS = (torch.group_norm, functional.group_norm)
NORMALISING = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
"""Layers that take bf16 activations beside weights and statistics in single precision."""


class DirectCopy(WorkingCopy):
    """The network itself, layer by layer, in its own precision: any `torch.nn.Module`."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.name = network, f"{precision_of(network)} direct"

    @override
    def refresh(self) -> None:
        pass  # the parameters are the network's own

    @override
    def attacked(self, images: Tensor) -> Tensor:
        with evaluation_mode(self.attacked):
            return self.network(images.clone())

    @override
    def trained(self, images: Tensor) -> Tensor:
        return self.network(images.clone())


class BFloat16Copy(WorkingCopy):
    """A bf16 shadow of the weights, convolutions channels-last unless there is a `GroupNorm`.

    Layers that normalise (BatchNorm and its relatives) keep weights and statistics in single
    precision, which PyTorch mixes with bf16 activations there only: other floating-point buffers
    are not possible, except those of a `Normalisation`. Complex and integer parameters stay.

    Autocast would cast constant weights again at every attack step.
    """

    name = "bf16 shadow, channels-last"

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._kept = {
            f"{path}.{name}" if path else name
            for path, layer in network.named_modules()
            if isinstance(layer, NORMALISING)
            for name, _ in layer.named_parameters(recurse=False)
        }
        # PyTorch 2.13 crashes in the backward pass of a channels-last GroupNorm whose input needs
        # no gradient, as behind frozen layers.
        has_groups = any(isinstance(layer, nn.GroupNorm) for layer in network.modules())
        self._layout = torch.contiguous_format if has_groups else torch.channels_last
        self.refresh()

    @override
    def refresh(self) -> None:
        with torch.enable_grad():
            self._weights = {
                name: value if name in self._kept else _cast(value, self._layout)
                for name, value in _places(self.network)
            }
        self._constant = {name: value.detach() for name, value in self._weights.items()}

    @override
    def attacked(self, images: Tensor) -> Tensor:
        with evaluation_mode(self.attacked):
            return self._call(self._constant, images)

    @override
    def trained(self, images: Tensor) -> Tensor:
        return self._call(self._weights, images)

    def _call(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        # Tied by name, a layer that is used twice would keep the shadow.
        passed = (self.network, dict(weights), _cast(images, self._layout))
        return functional_call(*passed, tie_weights=False).float()


def working_copy(network: nn.Module, precision: Precision = "auto") -> WorkingCopy:
    """The cheapest faithful way to compute this network's passes on its device.

    "auto" takes bf16 if the device is faster in it (`has_bf16_units`), except with parameters of
    double precision; "bf16" takes it on any hardware, where it may be many times slower. The result
    is a registered form of the network's class (`register_form`) that fits, such as the paper's CNN
    by frequencies (docs/decisions/0003), or else layer by layer. Raises `ConfigError` for another
    precision, for bf16 of a network with floating-point buffers, and for a form that fails.
    """
    choice("precision", precision, ("auto", "bf16", "fp32"))
    if precision == "bf16" and (buffered := _buffered(network)):
        raise ConfigError(
            f"{type(network).__name__} has floating-point buffers in {', '.join(buffered)}, "
            "which PyTorch does not mix with precision bf16. Take fp32 or auto."
        )
    rounded = _is_rounded(network, precision)
    own = registered_copy(network, device=device_of(network), rounded=rounded)
    if own is not None:
        return own
    return BFloat16Copy(network) if rounded else DirectCopy(network)


def possible_precision(network: nn.Module, precision: Precision, images: Tensor) -> Precision:
    """The same precision; fp32 if it is "auto" and the network fails in bf16.

    It fails with a constant that is neither parameter nor buffer, which nothing casts, and with
    what `_NoFaultyKernels` refuses. A copy of the network is tried on a few `images` [B C H W]; a
    registered form is compared with the network.
    Raises `ConfigError` for "bf16" and such a network, and for a form that fails or, in single
    precision, gives other logits than the network.
    """
    copy = working_copy(network, precision)
    if isinstance(copy, DirectCopy):
        return precision
    asked = images.detach().to(device_of(network), copy=True).requires_grad_()
    own, direct = copied(network), copied(network)
    wanted = _tried(DirectCopy(direct), direct, asked)
    if isinstance(wanted, Exception):
        return precision  # `check_network` reports failures of any precision
    found = _tried(working_copy(own, precision), own, asked)
    if not isinstance(copy, BFloat16Copy):
        within = math.inf if _is_rounded(network, precision) else ALIKE
        _check_form(copy, type(network).__name__, found, wanted, within)
        return precision
    if not isinstance(found, Exception):
        return precision
    if precision == "bf16" and isinstance(found, ConfigError):
        raise found
    if precision == "bf16":
        raise ConfigError(
            f"{type(network).__name__} failed in precision bf16 ({cause(found)}), which casts "
            "parameters and images only. Give constants as a normalisation (--mean, --std), or "
            "take fp32 or auto."
        ) from found
    return "fp32"


class _NoFaultyKernels(TorchFunctionMode):
    """While active, refuses operations that PyTorch 2.13 gets wrong on CPUs.

    Convolutions whose input is smaller than their stride: the gradient of their weights in bf16 is
    computed from memory that was never written. Group norms of channels-last inputs that need no
    gradient: their backward pass crashes; it is `torch.nn.functional.group_norm` that comes here,
    since networks with a `GroupNorm` are contiguous.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = dict(zip(("input", "weight", "bias", "stride"), args, strict=False))
        given |= kwargs or {}
        if func in CONVOLUTIONS and given["input"].device.type == "cpu":
            stride = given.get("stride", 1)
            sizes = given["input"].shape[-CONVOLUTIONS.index(func) - 1 :]
            steps = [stride] * len(sizes) if isinstance(stride, int) else stride
            if any(size < step for size, step in zip(sizes, steps, strict=False)):
                raise ConfigError(
                    f"a convolution with stride {max(steps)} gets a smaller input, "
                    f"{' x '.join(map(str, sizes))}; bf16 gives wrong gradients then on a CPU. "
                    "Take precision auto or fp32, larger images, or fewer strides."
                )
        if func in GROUP_NORMS and _crashes(given["input"]):
            raise ConfigError(
                "a call of group_norm gets a channels-last input that needs no gradient; PyTorch "
                "crashes then on a CPU. Use torch.nn.GroupNorm, or take precision auto or fp32."
            )
        return func(*args, **(kwargs or {}))


def _crashes(groups: Tensor) -> bool:
    if groups.dim() != 4 or groups.requires_grad or not groups.is_cpu or groups.is_contiguous():
        return False
    return groups.is_contiguous(memory_format=torch.channels_last)


def _check_form(
    copy: WorkingCopy, name: str, found: Tensor | Exception, wanted: Tensor, within: float
) -> None:
    form, rule = f"the {type(copy).__name__} that a form of {name} built", "Correct the form"
    if isinstance(found, Exception):
        raise OwnCodeFailed(f"{form} failed ({cause(found)}). {rule}.") from found
    if found.shape != wanted.shape:
        raise ConfigError(
            f"{form} returned logits of shape {tuple(found.shape)}, not {tuple(wanted.shape)}. "
            f"{rule}."
        )
    apart = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(LEAST))
    if apart > within or math.isnan(apart):
        raise ConfigError(
            f"{form} gives other logits than the network: they differ by {apart:.2g} of the "
            f"largest, more than {within:g}. {rule}, or do not register it."
        )


def _is_rounded(network: nn.Module, precision: Precision) -> bool:
    """Whether weights and images are rounded to bf16."""
    if precision != "auto":
        return precision == "bf16"
    wider = any(value.dtype in WIDER for value in network.parameters())
    return not wider and not _buffered(network) and has_bf16_units(device_of(network))


def real_view(value: Tensor) -> Tensor:
    """A complex tensor as a real one with a last dimension of 2; others unchanged."""
    return torch.view_as_real(value) if value.is_complex() else value


def _tried(copy: WorkingCopy, network: nn.Module, images: Tensor) -> Tensor | Exception:
    """The logits of an attack's pass, or the error of it or of an update's; changes `network`."""
    weights = [value for value in network.parameters() if value.requires_grad]
    # Only around the forward passes: a backward pass inside such a mode has crashed.
    watch = _NoFaultyKernels() if isinstance(copy, BFloat16Copy) else nullcontext()
    try:
        with drawing_from(0), torch.enable_grad():
            with watch:
                attacked = copy.attacked(images)
            torch.autograd.grad(attacked.sum(), images)
            training_mode(network)
            with watch:
                trained = copy.trained(images.detach())
            if weights:
                torch.autograd.grad(trained.sum(), weights, allow_unused=True)
    except Exception as error:  # code of your own may raise anything
        return error
    return attacked.detach()


def _buffered(network: nn.Module) -> list[str]:
    """Layers with buffers that cannot be mixed with bf16 weights."""
    return [
        path or "itself"
        for path, layer in network.named_modules()
        if not isinstance(layer, (*NORMALISING, Normalisation))
        and any(value.is_floating_point() for value in layer.buffers(recurse=False))
    ]


def _places(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every place of a parameter: two of a tied one, one of a shared layer."""
    for path, layer in network.named_modules():
        for name, value in layer.named_parameters(recurse=False):
            yield f"{path}.{name}" if path else name, value


def _cast(value: Tensor, layout: torch.memory_format) -> Tensor:
    """In bf16, unless it is complex or an integer; of four dimensions in this layout."""
    if not value.is_floating_point():
        return value
    layout = layout if value.dim() == 4 else torch.preserve_format
    return value.to(torch.bfloat16, memory_format=layout)
