"""The network that a run trains, as a record that can be stored and built again.

Each record has three methods. `fitted(image_shape, num_classes)` fills in what the data determine;
it raises `ConfigError` if the network cannot take such data. `outputs(num_classes)` is the number
of logits. `build(seed)` gives a new network; its weights depend on the seed only, and the global
random state is restored.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from sparring.errors import ConfigError, cause
from sparring.models.networks import (
    NormalisedNetwork,
    SmallCNN,
    StridedCNN,
    draw_for_bounds,
    preact_resnet_18,
    wide_resnet,
)
from sparring.models.paper_cnn import Initialisation, PaperCNN
from sparring.models.state import copied
from sparring.records.checks import at_least, choice, within
from sparring.records.custom import missing_arguments
from sparring.records.own_code import arguments, imported, own_code
from sparring.records.text import few, kind_text, one_line
from sparring.records.typed import typed_record

ImageShape = tuple[int, int, int]
"""Channels, height and width."""


Spec = TypeVar("Spec", bound="Sized")


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class PaperNetwork:
    """The paper's convolutional network for 28x28 grey images (`PaperCNN`)."""

    initialisation: Initialisation = "madry"
    """"madry": truncated normal 0.1, biases 0.1; "torch": PyTorch's default; "small": PyTorch's
    with the first layer's weights at a quarter and no biases."""

    def fitted(self, image_shape: ImageShape, num_classes: int) -> "PaperNetwork":
        """Itself; with fewer classes some of its ten logits are unused."""
        if image_shape != PaperCNN.image_shape or num_classes > PaperCNN.num_classes:
            raise ConfigError.expected(
                f"the paper's network takes images of shape {PaperCNN.image_shape} in at most "
                f"{PaperCNN.num_classes} classes",
                f"{image_shape} in {num_classes} classes",
                "Choose another network, such as --model small-cnn.",
            )
        return self

    def outputs(self, num_classes: int) -> int:
        """Always ten."""
        return PaperCNN.num_classes

    def build(self, seed: int) -> PaperCNN:
        """A new network."""
        return PaperCNN(self.initialisation, generator=torch.Generator().manual_seed(seed))


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Sized:
    """A network whose channels and logits follow from the data."""

    channels: int = 0
    """Channels of the images; 0 for as many as the data have."""
    num_classes: int = 0
    """Its logits; 0 for as many as the data have classes."""

    def __post_init__(self) -> None:
        at_least("model.channels", self.channels, 0)
        at_least("model.num_classes", self.num_classes, 0)

    def fitted(self: Spec, image_shape: ImageShape, num_classes: int) -> Spec:
        """A copy with the channels and classes of the data; any height and width will do."""
        wanted = (self.channels or image_shape[0], self.num_classes or num_classes)
        if wanted != (image_shape[0], num_classes):
            raise ConfigError.expected(
                f"the network takes images of {wanted[0]} channels in {wanted[1]} classes",
                f"{image_shape[0]} channels in {num_classes} classes",
                "Set model.channels and model.num_classes to 0, and they follow from the data.",
            )
        return replace(self, channels=image_shape[0], num_classes=num_classes)

    def outputs(self, num_classes: int) -> int:
        """One for each class."""
        return num_classes

    def unfitted(self: Spec) -> Spec:
        """A copy that fits any data, as before `fitted`."""
        return replace(self, channels=0, num_classes=0)

    @property
    def is_fitted(self) -> bool:
        """Whether all is known that the data determine."""
        return bool(self.channels and self.num_classes)


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class SmallNetwork(Sized):
    """A small convolutional network with BatchNorm, for images of any size (`SmallCNN`)."""

    width: int = 32
    """Channels of its first stage."""

    def __post_init__(self) -> None:
        Sized.__post_init__(self)
        at_least("model.width", self.width, 1)

    def build(self, seed: int) -> nn.Module:
        """A new network."""
        with drawing_from(seed):
            return SmallCNN(self.channels, self.num_classes, self.width)


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class StridedNetwork(Sized):
    """Two convolutions of stride 2 and two dense layers, to be proved robust (`StridedCNN`)."""

    filters: int = 32
    """Channels of its first convolution; the second has twice as many."""
    hidden: int = 512
    """Outputs of its first dense layer."""
    saturation: float = 0.0
    """Pixels at most this far from black or white count as black or white (`saturating`), in
    [0, 0.5); the preset `certified` takes ε, so that no attack changes them."""
    initialisation: Literal["bounds", "torch"] = "bounds"
    """"bounds": `draw_for_bounds`; "torch": PyTorch's default."""
    height: int = 0
    """Of the images; 0 for that of the data."""
    width: int = 0
    """Of the images; 0 for that of the data."""

    def __post_init__(self) -> None:
        Sized.__post_init__(self)
        at_least("model.filters", self.filters, 1)
        at_least("model.hidden", self.hidden, 1)
        within("model.saturation", self.saturation, "[0, 0.5)")
        choice("model.initialisation", self.initialisation, ("bounds", "torch"))
        at_least("model.height", self.height, 0)
        at_least("model.width", self.width, 0)

    @override
    def fitted(self, image_shape: ImageShape, num_classes: int) -> "StridedNetwork":
        channels, height, width = image_shape
        wanted = (self.height or height, self.width or width)
        if wanted != (height, width) or min(wanted) < StridedCNN.SMALLEST:
            least = StridedCNN.SMALLEST
            raise ConfigError.expected(
                f"the network strided takes images of one size, {least} x {least} or larger",
                f"{height} x {width}"
                + ("" if wanted == (height, width) else f" for one of {wanted[0]} x {wanted[1]}"),
                "Take --model small-cnn."
                if wanted == (height, width)
                else "Set model.height and model.width to 0, and they follow from the data.",
            )
        Sized.fitted(self, image_shape, num_classes)
        return replace(self, channels=channels, num_classes=num_classes, height=height, width=width)

    @override
    def unfitted(self) -> "StridedNetwork":
        return replace(self, channels=0, num_classes=0, height=0, width=0)

    @property
    @override
    def is_fitted(self) -> bool:
        return min(self.channels, self.num_classes, self.height, self.width) > 0

    def build(self, seed: int) -> nn.Module:
        """A new network."""
        shape = (self.channels, self.height, self.width)
        with drawing_from(seed):
            network = StridedCNN(
                shape,
                self.num_classes,
                width=self.filters,
                hidden=self.hidden,
                saturation=self.saturation,
            )
            if self.initialisation == "bounds":
                draw_for_bounds(network)
            return network


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class PreActResNet18(Sized):
    """PreAct-ResNet-18 for images of about 32x32 (He et al. 2016)."""

    def build(self, seed: int) -> nn.Module:
        """A new network."""
        with drawing_from(seed):
            return preact_resnet_18(self.channels, self.num_classes)


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class WideResNet(Sized):
    """A wide residual network for images of about 32x32 (Zagoruyko & Komodakis 2016)."""

    depth: int = 28
    """Layers, 6n + 4."""
    width: int = 10
    """Channels, as a multiple of 16, 32 and 64."""
    dropout: float = 0.0
    """Dropout probability within blocks."""

    def __post_init__(self) -> None:
        Sized.__post_init__(self)
        at_least("model.width", self.width, 1)
        at_least("model.depth", self.depth, 1)
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ConfigError.expected(
                "model.depth must be 6n + 4", self.depth, "Take 16, 28, 34 or 70."
            )
        within("model.dropout", self.dropout, "[0, 1)")

    def build(self, seed: int) -> nn.Module:
        """A new network."""
        with drawing_from(seed):
            size = {"depth": self.depth, "width": self.width}
            return wide_resnet(self.channels, self.num_classes, dropout=self.dropout, **size)


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """A network that your own function or class makes."""

    factory: str
    """package.module:name or path/to/file.py:name."""
    arguments: tuple[str, ...] = ()
    """Arguments of the factory as name=value; a value is JSON or else plain text."""

    def fitted(self, image_shape: ImageShape, num_classes: int) -> "Imported":
        """Itself; `check_network` finds out whether it fits."""
        return self

    def outputs(self, num_classes: int) -> int:
        """One for each class."""
        return num_classes

    def build(self, seed: int) -> nn.Module:
        """Import and call the factory under the seed.

        Raises `ConfigError` if it cannot be found, fails, or makes no `torch.nn.Module`.
        """
        with drawing_from(seed):
            factory = imported(self.factory, "the model's factory")
        shown = one_line(self.factory)
        if not callable(factory):
            raise ConfigError(
                f"{shown} is {kind_text(factory)}, not a function or class that makes models."
            )
        given = arguments(self.arguments, "--model-args")
        words = one_line(", ".join(self.arguments)) or "no arguments"
        failed = f"the model's factory {shown} failed with {words}"
        if lacking := missing_arguments(factory, (), given):
            raise ConfigError.expected(
                f"the model's factory {shown} needs {few(lacking)}",
                words,
                f"Add --model-args {' '.join(f'{name}=VALUE' for name in lacking)}, or give each a "
                "default.",
            )
        # The seed is set last: nothing else may draw before the factory does.
        with own_code(failed, self.factory), drawing_from(seed):
            network = factory(**given)
        if not isinstance(network, nn.Module):
            raise ConfigError(f"{shown} returned {kind_text(network)}, not a torch.nn.Module.")
        return network


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """A network that was passed as a Python object; only its weights are stored."""

    name: str
    """Its class."""

    def fitted(self, image_shape: ImageShape, num_classes: int) -> "Given":
        """Itself."""
        return self

    def outputs(self, num_classes: int) -> int:
        """One for each class."""
        return num_classes

    def build(self, seed: int) -> nn.Module:
        """Raises `ConfigError`."""
        raise ConfigError(
            f"the run's network, a {self.name}, was passed as a Python object. Pass network= "
            "again in Python. On the command line name a factory of it and the run's weights: "
            "sparring evaluate --model file.py:factory --init RUN/weights.safetensors --data PATH"
        )


Network = (
    PaperNetwork | SmallNetwork | StridedNetwork | PreActResNet18 | WideResNet | Imported | Given
)


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Normalised:
    """A network whose first layer normalises the images."""

    mean: tuple[float, ...]
    """Of each channel, in pixel units."""
    std: tuple[float, ...]
    """Of each channel, in pixel units; above 0."""
    network: Network

    def __post_init__(self) -> None:
        pair = f"mean {_listed(self.mean)} and std {_listed(self.std)}"
        if len(self.mean) != len(self.std) or not self.mean:
            raise ConfigError.expected("mean and std must have one number for each channel", pair)
        if not all(-1 <= mean <= 1 for mean in self.mean) or not all(0 < s <= 1 for s in self.std):
            rule = "of pixels in [0, 1], mean must lie in [-1, 1] and std in (0, 1]"
            raise ConfigError.expected(rule, pair, "Divide those of grey levels by 255.")

    def fitted(self, image_shape: ImageShape, num_classes: int) -> "Normalised":
        """A copy with a network for these images."""
        if len(self.mean) not in (1, image_shape[0]):
            rule = (
                f"mean and std must have one number, or one for each of {image_shape[0]} channels"
            )
            raise ConfigError.expected(rule, len(self.mean))
        return replace(self, network=self.network.fitted(image_shape, num_classes))

    def outputs(self, num_classes: int) -> int:
        """Those of the network."""
        return self.network.outputs(num_classes)

    def build(self, seed: int) -> NormalisedNetwork:
        """The network with the weights that it would have alone."""
        return self.around(self.network.build(seed))

    def around(self, network: nn.Module) -> NormalisedNetwork:
        """This normalisation before a network."""
        return NormalisedNetwork(network, self.mean, self.std)


ModelKind = Network | Normalised


def bare(model: ModelKind) -> Network:
    """The record of the network itself, without a normalisation before it."""
    return model.network if isinstance(model, Normalised) else model


def unfitted(model: ModelKind) -> ModelKind:
    """The record without what `fitted` filled in."""
    inner = bare(model)
    inner = inner.unfitted() if isinstance(inner, Sized) else inner
    return replace(model, network=inner) if isinstance(model, Normalised) else inner


def built_network(model: ModelKind, given: nn.Module | None, seed: int = 0) -> nn.Module:
    """The network of a record; or a copy of the `given` one, behind the record's normalisation.

    Raises `ConfigError` if it cannot be built.
    """
    inner = bare(model)
    if isinstance(inner, Sized) and not inner.is_fitted:
        raise ConfigError.expected(
            "a network must be fitted to the data before it is built",
            inner,
            "Take replace(config, model=config.model.fitted(data.image_shape, data.num_classes)).",
        )
    if given is None:
        try:
            return model.build(seed)
        except (RuntimeError, MemoryError, OverflowError) as error:
            raise ConfigError(
                f"the network of these settings cannot be built: {cause(error)}. Take smaller ones."
            ) from error
    own = copied(given)
    return model.around(own) if isinstance(model, Normalised) else own


def is_imported(model: ModelKind) -> bool:
    """Whether your own code makes the network."""
    return isinstance(bare(model), Imported)


def seeded_devices() -> Sequence[int] | None:
    """For `torch.random.fork_rng`: no CUDA device before CUDA is used, which it would begin."""
    if not torch.backends.cuda.is_built():
        return None  # as PyTorch finds them
    return range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Seed the global random states of torch, numpy and random, and restore them afterwards."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(seeded_devices()):
        try:
            _seed_torch(seed)
            np.random.seed([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])
            random.seed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _seed_torch(seed: int) -> None:
    """As `torch.manual_seed`, which also formats the stack, for CUDA that is not in use."""
    device = torch.accelerator.current_accelerator()
    if device is None or (device.type == "cuda" and not torch.cuda.is_initialized()):
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _listed(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers) or "none"
