"""In which numbers, and in which order, a network's passes are computed.

Training keeps its weights in single precision. A *working copy* holds them in the form in which
passes are cheapest on the hardware at hand; it is derived afresh after every update, once, and
serves the many passes of an attack and the one of the update. The derivation is differentiable,
so the update's gradient arrives at the single-precision weights.

Shapes: B batch, K classes, C H W image.  Units: pixels in [0, 1].
"""

from collections.abc import Iterator, Mapping
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparring.errors import ConfigError, cause
from sparring.models.copying import copied
from sparring.models.hardware import has_bf16_units, has_matrix_units
from sparring.models.modes import evaluation_mode, training_mode
from sparring.models.normalised import Normalisation
from sparring.models.paper_cnn import PaperCNN, is_paper_cnn
from sparring.models.spec import drawing_from
from sparring.models.spectral import SpectralWeights, spectral_logits, spectral_weights

Precision = Literal["auto", "bf16", "fp32"]
"""What the user asks for; "auto" takes bf16 where the hardware has units for it."""


PROBES = 8
"""Images that a network is asked about before anything depends on it."""
WIDER = (torch.float64, torch.complex128)
"""Types of parameters that only an express wish rounds to bf16."""
NORMALISING = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
"""Layers that take bf16 activations beside weights and statistics in single precision."""


@runtime_checkable
class WorkingCopy(Protocol):
    """A network's weights in the form in which its passes are computed."""

    name: str
    """Precision and method, as environment.json gives them."""

    def refresh(self) -> None:
        """Derive the weights afresh; call after every update. Cost: less than one pass."""
        ...

    def attacked(self, images: Tensor) -> Tensor:
        """Logits in evaluation mode, for attacks: the gradient reaches the images only."""
        ...

    def trained(self, images: Tensor) -> Tensor:
        """Logits for one update: the gradient reaches the network's parameters."""
        ...


class DirectCopy:
    """The network itself, layer by layer, in its own precision: any `torch.nn.Module`."""

    name = "fp32 direct"

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def refresh(self) -> None:
        """Nothing to derive; the attack's view follows the parameters by itself."""

    def attacked(self, images: Tensor) -> Tensor:
        """Logits in evaluation mode, the parameters held constant."""
        with evaluation_mode(self.attacked):
            return self.network(images.clone())

    def trained(self, images: Tensor) -> Tensor:
        """Logits in the network's own mode."""
        return self.network(images.clone())


class BFloat16Copy:
    """A bf16 shadow of the weights, convolutions channels-last.

    Layers that normalise (BatchNorm and its relatives) keep weights and statistics in single
    precision, which PyTorch mixes with bf16 activations there, and nowhere else: so other buffers
    of floating-point numbers cannot be had, but for those of a `Normalisation`. Complex and integer
    parameters stay as they are.

    Autocast would cast the weights again at every attack step, because it caches only those that
    require a gradient; a shadow is cast once per update.
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
        self.refresh()

    def refresh(self) -> None:
        """Cast the parameters; buffers stay as they are."""
        with torch.enable_grad():
            self._weights = {
                name: value if name in self._kept else _cast(value)
                for name, value in _places(self.network)
            }
        self._constant = {name: value.detach() for name, value in self._weights.items()}

    def attacked(self, images: Tensor) -> Tensor:
        """Logits in evaluation mode, float32."""
        with evaluation_mode(self.attacked):
            return self._call(self._constant, images)

    def trained(self, images: Tensor) -> Tensor:
        """Logits in the network's own mode, float32."""
        return self._call(self._weights, images)

    def _call(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        # Tied by name, a layer that is used twice would keep the shadow.
        passed = (self.network, dict(weights), _cast(images))
        return functional_call(*passed, tie_weights=False).float()


class SpectralCopy:
    """The paper's CNN by `spectral_logits`, for CPUs without matrix units.

    In the network's own precision or, with `rounded`, from transformed weights and images that are
    rounded to bf16; sums within a product are in single precision either way.
    """

    def __init__(self, network: PaperCNN, *, rounded: bool = False) -> None:
        self.network = network
        self.name = "bf16 spectral" if rounded else "fp32 spectral"
        self._dtype = torch.bfloat16 if rounded else next(network.parameters()).dtype
        self.refresh()

    def refresh(self) -> None:
        """Transform the kernels."""
        with torch.enable_grad():
            weights = spectral_weights(self.network)
            self._weights = SpectralWeights(*(weight.to(self._dtype) for weight in weights))
        self._constant = SpectralWeights(*(weight.detach() for weight in self._weights))

    def attacked(self, images: Tensor) -> Tensor:
        """Logits, the weights held constant; float32 where the network is."""
        return self._logits(images, self._constant)

    def trained(self, images: Tensor) -> Tensor:
        """Logits, differentiable in the weights; float32 where the network is."""
        return self._logits(images, self._weights)

    def _logits(self, images: Tensor, weights: SpectralWeights) -> Tensor:
        return spectral_logits(images.to(self._dtype), weights).to(images.dtype)


def working_copy(network: nn.Module, precision: Precision = "auto") -> WorkingCopy:
    """The cheapest faithful way to compute this network's passes on its device.

    bf16 where the device multiplies faster in it (`has_bf16_units`) and `precision` is not "fp32";
    with parameters of double precision only if `precision` is "bf16".
    The paper's CNN on a CPU without matrix units goes by frequencies in both precisions, everything
    else layer by layer (docs/decisions/0003). "bf16" takes bf16 on any hardware: without units for
    it, up to many times slower.
    Raises `ConfigError` for a precision that is none of the three, and for bf16 asked of a network
    with floating-point buffers of its own.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise ConfigError(
            f"precision must be auto, bf16 or fp32; got {precision!r}. Use auto if in doubt."
        )
    device = _device_of(network)
    buffered = _buffered(network)
    if precision == "bf16" and buffered:
        raise ConfigError(
            "precision bf16 needs a network without floating-point buffers of its own, because "
            f"PyTorch does not mix them with bf16 weights; {type(network).__name__} has some in "
            f"{', '.join(buffered)}. Take fp32 or auto."
        )
    rounded = precision == "bf16" or (
        precision == "auto"
        and not buffered
        and not any(value.dtype in WIDER for value in network.parameters())
        and has_bf16_units(device)
    )
    direct = rounded and has_matrix_units(device)
    if is_paper_cnn(network) and device.type == "cpu" and not direct:
        return SpectralCopy(network, rounded=rounded)
    return BFloat16Copy(network) if rounded else DirectCopy(network)


def possible_precision(network: nn.Module, precision: Precision, images: Tensor) -> Precision:
    """The same precision, or fp32 where auto would take bf16 and the network fails in it.

    As it does with a constant that is neither parameter nor buffer, which nothing casts. A copy of
    it makes the passes of an attack and of an update over a few `images` [B C H W].
    Cost: the copy and the passes, where bf16 would be taken.
    Raises `ConfigError` where bf16 is asked of such a network.
    """
    if not isinstance(working_copy(network, precision), BFloat16Copy):
        return precision
    asked = images.detach().to(_device_of(network), copy=True).requires_grad_()
    error = _failure(BFloat16Copy(copied(network)), asked)
    if error is None or _failure(DirectCopy(copied(network)), asked) is not None:
        return precision  # what fails in any precision is told where the network is checked
    if precision == "bf16":
        raise ConfigError(
            "precision bf16 needs a network whose every number is a parameter, or follows from its "
            "images, because nothing else is cast; "
            f"{type(network).__name__} failed ({cause(error)}). "
            "Give constants as a normalisation (--mean, --std), or take fp32 or auto."
        ) from error
    return "fp32"


def real_view(value: Tensor) -> Tensor:
    """The same numbers; a complex one as two real ones, in a dimension of their own."""
    return torch.view_as_real(value) if value.is_complex() else value


def _failure(copy: DirectCopy | BFloat16Copy, images: Tensor) -> Exception | None:
    """What goes wrong in the passes of an attack and of an update; the network does not stay."""
    weights = [value for value in copy.network.parameters() if value.requires_grad]
    try:
        with drawing_from(0), torch.enable_grad():
            torch.autograd.grad(copy.attacked(images).sum(), images)
            training_mode(copy.network)
            trained = copy.trained(images.detach())
            if weights:
                torch.autograd.grad(trained.sum(), weights, allow_unused=True)
    except Exception as error:
        return error
    return None


def _device_of(network: nn.Module) -> torch.device:
    return next((value.device for value in network.parameters()), torch.device("cpu"))


def _buffered(network: nn.Module) -> list[str]:
    """Layers with buffers that cannot stay beside bf16 weights."""
    return [
        path or "itself"
        for path, layer in network.named_modules()
        if not isinstance(layer, (*NORMALISING, Normalisation))
        and any(value.is_floating_point() for value in layer.buffers(recurse=False))
    ]


def _places(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every place of a parameter, once: two places of a tied one, one place of a shared layer."""
    for path, layer in network.named_modules():
        for name, value in layer.named_parameters(recurse=False):
            yield f"{path}.{name}" if path else name, value


def _cast(value: Tensor) -> Tensor:
    """In bf16, unless it is complex or an integer."""
    if not value.is_floating_point():
        return value
    images = value.dim() == 4
    layout = torch.channels_last if images else torch.preserve_format
    return value.to(torch.bfloat16, memory_format=layout)
