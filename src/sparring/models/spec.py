"""The network that a run trains, as a record that can be stored and built again.

Each record has three methods. `fitted(image_shape, num_classes)` is the same record with what the
data determine filled in; it raises `ConfigError` if the network cannot take such data.
`outputs(num_classes)` is the number of logits that the network must have. `build(seed)` is a newly
initialised network; the same seed gives the same weights, and the global random state stays.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from sparring.errors import ConfigError, cause
from sparring.models.networks import NormalisedNetwork, SmallCNN, preact_resnet_18, wide_resnet
from sparring.models.paper_cnn import Initialisation, PaperCNN
from sparring.models.state import copied
from sparring.records.checks import at_least
from sparring.records.own_code import arguments, imported, own_code
from sparring.records.text import one_line

ImageShape = tuple[int, int, int]
"""Channels, height and width."""


Spec = TypeVar("Spec", bound="Sized")


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperNetwork:
    """The paper's convolutional network for 28x28 grey images (`PaperCNN`)."""

    initialisation: Initialisation = "madry"
    """"madry": truncated normal 0.1, biases 0.1; "torch": PyTorch's default; "small": PyTorch's
    with the first layer's weights at a quarter and no biases."""

    def fitted(self, image_shape: ImageShape, num_classes: int) -> "PaperNetwork":
        """The same: it has ten logits, some of them unused with fewer classes."""
        if image_shape != PaperCNN.image_shape or num_classes > PaperCNN.num_classes:
            raise ConfigError(
                f"the paper's network takes images of shape {PaperCNN.image_shape} in at most "
                f"{PaperCNN.num_classes} classes; the data have shape {image_shape} in "
                f"{num_classes}. Choose a network that fits, such as --model small-cnn, or such "
                "data."
            )
        return self

    def outputs(self, num_classes: int) -> int:
        """Ten, whatever the data."""
        return PaperCNN.num_classes

    def build(self, seed: int) -> PaperCNN:
        """Its weights are drawn from the seed alone."""
        return PaperCNN(self.initialisation, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sized:
    """A network whose channels and logits follow from the data."""

    channels: int = 0
    """Channels of the images; 0 for as many as the data have."""
    num_classes: int = 0
    """Its logits; 0 for as many as the data have classes."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least("model.channels", self.channels, 0)
        at_least("model.num_classes", self.num_classes, 0)

    def fitted(self: Spec, image_shape: ImageShape, num_classes: int) -> Spec:
        """The same with the channels and classes of the data; any height and width will do."""
        wanted = (self.channels or image_shape[0], self.num_classes or num_classes)
        if wanted != (image_shape[0], num_classes):
            raise ConfigError(
                f"the network takes images of {wanted[0]} channels in {wanted[1]} classes; the "
                f"data have {image_shape[0]} channels and {num_classes} classes. Leave "
                "model.channels and model.num_classes out, or give such data."
            )
        return replace(self, channels=image_shape[0], num_classes=num_classes)

    def outputs(self, num_classes: int) -> int:
        """One for each class."""
        return num_classes


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallNetwork(Sized):
    """A small convolutional network with BatchNorm, for images of any size (`SmallCNN`)."""

    width: int = 32
    """Channels of its first stage."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        Sized.__post_init__(self)
        at_least("model.width", self.width, 1)

    def build(self, seed: int) -> nn.Module:
        """Its weights are drawn from the seed alone."""
        with drawing_from(seed):
            return SmallCNN(self.channels, self.num_classes, self.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreActResNet18(Sized):
    """PreAct-ResNet-18 for images of about 32x32 (He et al. 2016)."""

    def build(self, seed: int) -> nn.Module:
        """Its weights are drawn from the seed alone."""
        with drawing_from(seed):
            return preact_resnet_18(self.channels, self.num_classes)


@dataclass(frozen=True, kw_only=True, slots=True)
class WideResNet(Sized):
    """A wide residual network for images of about 32x32 (Zagoruyko & Komodakis 2016)."""

    depth: int = 28
    """Its layers, 6n + 4."""
    width: int = 10
    """Its channels, as a multiple of 16, 32 and 64."""
    dropout: float = 0.0
    """Share of activations that an update leaves out, within blocks."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        Sized.__post_init__(self)
        at_least("model.width", self.width, 1)
        at_least("model.depth", self.depth, 1)
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ConfigError(
                "model.depth of a wide residual network must be 6n + 4, because it has three "
                f"stages of n blocks of two layers; got {self.depth}. Take 16, 28, 34 or 70."
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"model.dropout must lie in [0, 1), because it is a share; got {self.dropout:g}. "
                "0 leaves nothing out."
            )

    def build(self, seed: int) -> nn.Module:
        """Its weights are drawn from the seed alone."""
        with drawing_from(seed):
            size = {"depth": self.depth, "width": self.width}
            return wide_resnet(self.channels, self.num_classes, dropout=self.dropout, **size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """A network of the user's own, made by a factory: a function or class of theirs."""

    factory: str
    """package.module:name or path/to/file.py:name."""
    arguments: tuple[str, ...] = ()
    """Given to the factory by name, each as name=value; a value is JSON or else plain text."""

    def fitted(self, image_shape: ImageShape, num_classes: int) -> "Imported":
        """The same: `check_network` finds out whether it fits."""
        return self

    def outputs(self, num_classes: int) -> int:
        """One for each class."""
        return num_classes

    def build(self, seed: int) -> nn.Module:
        """What the factory makes, where the global random states are those of the seed.

        The factory's module is imported under the same seed.
        Raises `ConfigError` if it cannot be found, fails, or makes no `torch.nn.Module`.
        """
        with drawing_from(seed):
            factory = imported(self.factory, "the model's factory")
        shown = one_line(self.factory)
        if not callable(factory):
            raise ConfigError(
                f"the model's factory must be a function or a class; {shown} is a "
                f"{type(factory).__name__}. For a module that exists, write a function for it."
            )
        given = arguments(self.arguments, "--model-args")
        words = one_line(", ".join(self.arguments)) or "no arguments"
        failed = f"the model's factory must make a network; {shown} failed with {words}"
        # The states are set last: nothing else may draw before the factory does.
        with own_code(failed, self.factory), drawing_from(seed):
            network = factory(**given)
        if not isinstance(network, nn.Module):
            raise ConfigError(
                f"the model's factory must return a torch.nn.Module; {shown} returned a "
                f"{type(network).__name__}."
            )
        return network


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """A network that was passed as a Python object, of which only the weights are stored."""

    name: str
    """Its class."""

    def fitted(self, image_shape: ImageShape, num_classes: int) -> "Given":
        """The same."""
        return self

    def outputs(self, num_classes: int) -> int:
        """One for each class."""
        return num_classes

    def build(self, seed: int) -> nn.Module:
        """Raises `ConfigError`: a Python object cannot be built again from its record."""
        raise ConfigError(
            f"the run's network, a {self.name}, was passed as a Python object, which cannot be "
            "built again from the run. Pass network=, or train it by --model file.py:factory."
        )


Network = PaperNetwork | SmallNetwork | PreActResNet18 | WideResNet | Imported | Given


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalised:
    """A network behind a normalisation of its images, which is its first layer."""

    mean: tuple[float, ...]
    """Subtracted from each channel, in pixel units."""
    std: tuple[float, ...]
    """Each channel is divided by it, in pixel units; above 0."""
    network: Network
    """What follows."""

    def __post_init__(self) -> None:
        """Check that they belong to pixels in [0, 1]."""
        pair = f"mean {_listed(self.mean)} and std {_listed(self.std)}"
        if len(self.mean) != len(self.std) or not self.mean:
            raise ConfigError(
                f"mean and std must have a number for each channel of the images; got {pair}. "
                "Give as many of each."
            )
        if min(self.std) <= 0 or max(map(abs, self.mean)) > 1 or max(self.std) > 1:
            raise ConfigError(
                "mean and std are those of pixels in [0, 1], so that a mean lies in [-1, 1] and a "
                f"std in (0, 1]; got {pair}. Divide those of grey levels by 255."
            )

    def fitted(self, image_shape: ImageShape, num_classes: int) -> "Normalised":
        """The same, with a network for these images."""
        if len(self.mean) not in (1, image_shape[0]):
            raise ConfigError(
                f"mean and std must have one number, or one for each of the {image_shape[0]} "
                f"channels of the images; got {len(self.mean)}. Give as many."
            )
        return replace(self, network=self.network.fitted(image_shape, num_classes))

    def outputs(self, num_classes: int) -> int:
        """Those of the network."""
        return self.network.outputs(num_classes)

    def build(self, seed: int) -> NormalisedNetwork:
        """The network with the weights that it would have by itself."""
        return self.around(self.network.build(seed))

    def around(self, network: nn.Module) -> NormalisedNetwork:
        """This normalisation, then that network."""
        return NormalisedNetwork(network, self.mean, self.std)


ModelKind = Network | Normalised


def built_network(model: ModelKind, given: nn.Module | None, seed: int = 0) -> nn.Module:
    """What the record builds; or a copy of a network that was given, behind its normalisation.

    Raises `ConfigError` where it cannot be built.
    """
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
    """Whether a factory of the user's makes the network."""
    return isinstance(model.network if isinstance(model, Normalised) else model, Imported)


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Set the global random states of torch (all devices), numpy and random to those of a seed.

    They are restored afterwards.
    """
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            torch.manual_seed(seed)
            np.random.seed([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])
            random.seed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _listed(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers) or "none"
