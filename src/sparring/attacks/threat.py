"""The set an attack may search: images near the clean ones, inside the pixel range.

Shapes: B batch, S one image (C H W).
Units:  pixels lie in [0, 1], and so eps = 8/255 in L-infinity is eight grey levels.
Random numbers come from a CPU generator in float32 and in the order of an image's indices, so that
a seed gives the same start whatever the device and memory format.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from typing_extensions import override

from sparring.attacks import streams
from sparring.attacks.nearest import largest_scale, shortest_change
from sparring.errors import ConfigError
from sparring.records import RunDirectory, to_json
from sparring.records.checks import positive
from sparring.records.custom import Custom, made_once, own_errors
from sparring.records.own_code import check_trusted, named_code
from sparring.records.typed import check_type, typed_record

_T = TypeVar("_T")


@runtime_checkable
class Threat(Protocol):
    """What the attacker may do to an image. Inherit it for a threat of your own.

    `eps`, `at`, `project`, `ascend`, `uniform` and `distance` are enough for PGD and APGD.
    An image is allowed if its distance is at most `eps` and its pixels lie in [0, 1].
    """

    eps: float
    """Size of the set."""

    @abstractmethod
    def at(self, eps: float) -> "Threat":
        """The same threat at another size."""
        ...

    @abstractmethod
    def project(
        self, x: Float[Tensor, " B *S"], images: Float[Tensor, " B *S"]
    ) -> Float[Tensor, " B *S"]:
        """Nearest allowed image to `x`; an allowed one stays as it is, up to rounding."""
        ...

    @abstractmethod
    def ascend(self, gradient: Float[Tensor, " B *S"]) -> Float[Tensor, " B *S"]:
        """Step of length 1 that raises the loss fastest; 0 where the gradient is 0."""
        ...

    @abstractmethod
    def uniform(
        self, images: Float[Tensor, " B *S"], generator: Generator
    ) -> Float[Tensor, " B *S"]:
        """Random allowed images. Draw from the generator, which lives on the CPU."""
        ...

    @abstractmethod
    def distance(
        self, x: Float[Tensor, " B *S"], images: Float[Tensor, " B *S"]
    ) -> Float[Tensor, " B"]:
        """How far each image is from the clean one, in the units of `eps`."""
        ...

    def corner(
        self, images: Float[Tensor, " B *S"], generator: Generator
    ) -> Float[Tensor, " B *S"]:
        """Random images at the edge of the threat; by default those of `uniform`."""
        return self.uniform(images, generator)

    def surface(
        self, images: Float[Tensor, " B *S"], seeds: Int64[Tensor, " B"]
    ) -> Float[Tensor, " B *S"]:
        """As `corner`, each image from its own seed."""
        return torch.cat(
            [
                self.corner(images[row : row + 1], Generator().manual_seed(seed))
                for row, seed in enumerate(seeds.tolist())
            ]
        )

    def towards(
        self,
        x: Float[Tensor, " B *S"],
        normal: Float[Tensor, " B *S"],
        gap: Float[Tensor, " B"],
    ) -> Float[Tensor, " B *S"]:
        """The smallest change with normal · change = gap; x + it is in [0, 1]. For FAB.

        Where the pixel range does not allow so much, as much as it allows (Croce & Hein 2020b).
        """
        raise ConfigError(f"{type(self).__name__} has no method towards, which FAB needs.")

    def unlimited(self, images: Float[Tensor, " B *S"]) -> "Threat | None":
        """The same threat, large enough to allow every image; `None` if there is none."""
        return None


@typed_record
@dataclass(frozen=True, slots=True)
class Linf(Threat):
    """Images in [0, 1] that differ from the clean ones by at most `eps` in every pixel."""

    eps: float = 0.3
    """Largest change of one pixel; above 0, at most 1."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a radius that pixels in [0, 1] cannot have."""
        if not 0 < self.eps <= 1:
            grey_levels = 1 < self.eps <= 255
            do = f"Did you mean {self.eps:g}/255?" if grey_levels else "Take 0.3 or 8/255."
            raise ConfigError.expected("eps must lie in (0, 1], as pixels do", self.eps, do)

    @override
    def at(self, eps: float) -> "Linf":
        return Linf(eps)

    @override
    def project(
        self, x: Float[Tensor, " B *S"], images: Float[Tensor, " B *S"]
    ) -> Float[Tensor, " B *S"]:
        """Nearest allowed image to `x`: each pixel clipped to its own interval.

        Pixels lie in [0, 1] exactly and within `eps` up to the rounding of images ± eps: one unit
        in the last place below 1 (6e-8 in float32). Allowed images come back bit for bit.
        """
        return x.clamp(images - self.eps, images + self.eps).clamp_(0, 1)

    @override
    def ascend(self, gradient: Float[Tensor, " B *S"]) -> Float[Tensor, " B *S"]:
        """Step of length 1 that raises the loss fastest: the gradient's sign (0 for NaN)."""
        return gradient.sign()

    @override
    def uniform(
        self, images: Float[Tensor, " B *S"], generator: Generator
    ) -> Float[Tensor, " B *S"]:
        """Clean images plus uniform noise from the cube, clipped to the pixel range."""
        noise = torch.empty(images.shape).uniform_(-self.eps, self.eps, generator=generator)
        return self.project(_like(images, noise).add_(images), images)

    @override
    def corner(
        self, images: Float[Tensor, " B *S"], generator: Generator
    ) -> Float[Tensor, " B *S"]:
        """A random corner of the cube, every pixel at +eps or -eps, clipped to the pixel range."""
        upwards = torch.rand(images.shape, generator=generator) < 0.5
        noise = torch.where(upwards, self.eps, -self.eps)
        return self.project(_like(images, noise).add_(images), images)

    @override
    def surface(
        self, images: Float[Tensor, " B *S"], seeds: Int64[Tensor, " B"]
    ) -> Float[Tensor, " B *S"]:
        """A point on the cube's surface, of each image's own stream, clipped to the pixel range."""
        noise = 2 * streams.uniform(seeds, images[0].numel()).to(images.dtype) - 1
        noise = noise / noise.abs().amax(1, keepdim=True).clamp_min(1e-12) * self.eps
        return self.project(images + noise.view_as(images), images)

    @override
    def towards(
        self,
        x: Float[Tensor, " B *S"],
        normal: Float[Tensor, " B *S"],
        gap: Float[Tensor, " B"],
    ) -> Float[Tensor, " B *S"]:
        return shortest_change(x, normal, gap, None)

    @override
    def unlimited(self, images: Float[Tensor, " B *S"]) -> "Linf":
        return Linf(eps=1.0)

    @override
    def distance(
        self, x: Float[Tensor, " B *S"], images: Float[Tensor, " B *S"]
    ) -> Float[Tensor, " B"]:
        return (_widened(x) - _widened(images)).abs().amax(_pixels(images))


@typed_record
@dataclass(frozen=True, slots=True)
class L2(Threat):
    """Images in [0, 1] whose Euclidean distance to the clean ones is at most `eps`."""

    eps: float
    """Largest Euclidean norm of the change of one image; above 0."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a radius that no ball has."""
        positive("eps", self.eps, "Take 0.5 or 2.")

    @override
    def at(self, eps: float) -> "L2":
        return L2(eps)

    @override
    def project(
        self, x: Float[Tensor, " B *S"], images: Float[Tensor, " B *S"]
    ) -> Float[Tensor, " B *S"]:
        """Nearest allowed image to `x`, that is nearest in ball and pixel range at once.

        By the conditions of Karush, Kuhn and Tucker it is the clean image plus a multiple of the
        offset, clipped to the pixel range. Clipping after projecting to the ball would be another,
        weaker point. Pixels lie in [0, 1] exactly, and the norm within `reach`. Images well inside
        come back bit for bit.
        Cost: some ten passes over the pixels and five per round of `largest_scale`, mostly 3 to 6.
        """
        centre = _widened(images)
        offset = _widened(x) - centre
        farthest = offset.abs().amax(_pixels(x), keepdim=True)
        offset.div_(farthest.clamp_min(torch.finfo(offset.dtype).tiny))
        rooms = (offset > 0).to(centre.dtype).sub_(centre).square_()
        scale = largest_scale(offset.square(), rooms, self.eps, at_most=farthest)
        moved = offset.mul_(scale).add_(centre).clamp_(0, 1)
        return torch.where(scale < farthest, moved, _widened(x).clamp(0, 1)).to(images.dtype)

    @override
    def ascend(self, gradient: Float[Tensor, " B *S"]) -> Float[Tensor, " B *S"]:
        """Step of length 1 that raises the loss fastest; 0 where the gradient is 0 or not finite.

        Scaling by the largest entry first keeps the squares of tiny gradients from vanishing.
        """
        wide = _widened(gradient)
        largest = wide.abs().amax(_pixels(wide), keepdim=True)
        return _unit(wide / largest.clamp_min(torch.finfo(wide.dtype).tiny)).to(gradient.dtype)

    @override
    def uniform(
        self, images: Float[Tensor, " B *S"], generator: Generator
    ) -> Float[Tensor, " B *S"]:
        """Clean images plus noise uniform in the ball, brought into the pixel range.

        Volume grows as radius^d, so the radius is eps·u^(1/d) with u uniform in [0, 1).
        """
        direction = _unit(torch.empty(images.shape).normal_(generator=generator))
        share = torch.rand(len(images), generator=generator) ** (1 / max(1, images[:1].numel()))
        noise = direction * share.view(-1, *[1] * (images.ndim - 1)) * self.eps
        return self.project(_like(images, noise).add_(images), images)

    @override
    def corner(
        self, images: Float[Tensor, " B *S"], generator: Generator
    ) -> Float[Tensor, " B *S"]:
        """Clean images plus noise uniform on the sphere, brought into the pixel range."""
        noise = _unit(torch.empty(images.shape).normal_(generator=generator)) * self.eps
        return self.project(_like(images, noise).add_(images), images)

    @override
    def surface(
        self, images: Float[Tensor, " B *S"], seeds: Int64[Tensor, " B"]
    ) -> Float[Tensor, " B *S"]:
        """A point on the sphere, of each image's own stream, brought into the pixel range."""
        noise = _unit(streams.normal(seeds, images[0].numel())).to(images.dtype) * self.eps
        return self.project(images + noise.view_as(images), images)

    @override
    def towards(
        self,
        x: Float[Tensor, " B *S"],
        normal: Float[Tensor, " B *S"],
        gap: Float[Tensor, " B"],
    ) -> Float[Tensor, " B *S"]:
        return shortest_change(x, normal, gap, normal.abs())

    @override
    def unlimited(self, images: Float[Tensor, " B *S"]) -> "L2":
        return L2(eps=math.sqrt(images[0].numel()))

    @override
    def distance(
        self, x: Float[Tensor, " B *S"], images: Float[Tensor, " B *S"]
    ) -> Float[Tensor, " B"]:
        """Summed in double precision: of many pixels the error of single is above `reach`."""
        change = _widened(x) - _widened(images)
        norms = torch.linalg.vector_norm(change, dim=_pixels(images), dtype=torch.float64)
        return norms.to(change.dtype)


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class CustomThreat(Custom, Threat):
    """A threat of your own in settings, made by a factory, which gets its size as `eps`."""

    former_kinds: ClassVar = ("Custom",)
    example: ClassVar = 'CustomThreat(factory="threats.py:Darker", arguments=("eps=0.1",))'

    @property
    def made(self) -> Threat:
        """The threat. Raises `ConfigError` if the factory fails or makes something else."""
        found: Any = made_once(self)
        check_type(f"what {self.factory} makes", Threat, found)
        return found

    @property
    @override
    def eps(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.made.eps

    @override
    def at(self, eps: float) -> Threat:
        sized = self._called(lambda threat: threat.at(eps))
        return MadeThreat(factory=self.factory, arguments=self.arguments, threat=sized)

    @override
    def project(self, x: Tensor, images: Tensor) -> Tensor:
        return self._called(lambda threat: threat.project(x, images))

    @override
    def ascend(self, gradient: Tensor) -> Tensor:
        return self._called(lambda threat: threat.ascend(gradient))

    @override
    def uniform(self, images: Tensor, generator: Generator) -> Tensor:
        return self._called(lambda threat: threat.uniform(images, generator))

    @override
    def distance(self, x: Tensor, images: Tensor) -> Tensor:
        return self._called(lambda threat: threat.distance(x, images))

    @override
    def corner(self, images: Tensor, generator: Generator) -> Tensor:
        return self._called(lambda threat: threat.corner(images, generator))

    @override
    def surface(self, images: Tensor, seeds: Tensor) -> Tensor:
        return self._called(lambda threat: threat.surface(images, seeds))

    @override
    def towards(self, x: Tensor, normal: Tensor, gap: Tensor) -> Tensor:
        return self._called(lambda threat: threat.towards(x, normal, gap))

    @override
    def unlimited(self, images: Tensor) -> Threat | None:
        return self._called(lambda threat: threat.unlimited(images))

    def _called(self, call: Callable[[Threat], _T]) -> _T:
        """Raises `ConfigError` for whatever its code raises."""
        with own_errors(f"the threat {self.factory}"):
            return call(self.made)


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeThreat(CustomThreat):
    """A threat that is there already, for an attack: no settings store it."""

    threat: Threat

    @property
    @override
    def made(self) -> Threat:
        return self.threat


def itself(threat: Threat) -> Threat:
    """The threat that a `CustomThreat` stands for; any other one itself."""
    return threat.made if isinstance(threat, CustomThreat) else threat


def resized(threat: Threat, eps: float) -> Threat:
    """The same threat at another size, as settings store it."""
    if type(threat) is CustomThreat:
        return threat if threat.eps == eps else threat.given(eps=eps)
    return threat.at(eps)


def stored_threat(run: RunDirectory, *, trust_code: bool = False) -> Threat:
    """The threat of a run.

    Raises `RunError` or `ConfigError` for damaged settings, and for code that they name, unless you
    trained the run on this machine, or with `trust_code`.
    """
    threat = run.section("threat", Threat)
    if isinstance(threat, CustomThreat):
        check_trusted(run.config, named_code(to_json(threat)), trust_code=trust_code)
    return threat


TOLERANCE = 1e-6
"""Rounding of float32 pixels by which an image may exceed ε, absolute and as a share of ε."""


def reach(threat: Threat, images: Tensor) -> float:
    """How far an image may be from its clean one: ε and its rounding, in L2 also of each pixel."""
    pixels = images[0].numel() if type(threat) is L2 else 0
    return threat.eps + TOLERANCE * (1 + threat.eps) + 2**-25 * math.sqrt(pixels)


DEFAULT = Linf()
"""Threat of an attack that is made without one."""


def aimed(threat: Threat, eps: float | None) -> Threat:
    """The threat of an attack that may have `eps` in its place, which stands for L∞."""
    if eps is None:
        return threat
    if threat is not DEFAULT:
        raise ConfigError.expected(
            "an attack takes a threat or eps, not both",
            f"{threat} and eps {eps:g}",
            "eps=8/255 stands for Linf(8/255).",
        )
    return Linf(eps)


Start = Literal["uniform", "corner", "none"]
"""Where in the threat a search begins."""

STARTS: Mapping[Start, Callable[[Threat, Tensor, Generator], Tensor]] = {
    "uniform": lambda threat, images, generator: threat.uniform(images, generator),
    "corner": lambda threat, images, generator: threat.corner(images, generator),
    "none": lambda threat, images, generator: images.detach().clone(),
}
"""The point behind each name; always a new tensor, so that no caller's images are written to."""


def _unit(vectors: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(vectors, dim=_pixels(vectors), keepdim=True)
    return (vectors / norms).nan_to_num_(nan=0.0)


def _like(images: Tensor, noise: Tensor) -> Tensor:
    return torch.empty_like(images).copy_(noise)


def _pixels(images: Tensor) -> tuple[int, ...]:
    return tuple(range(1, images.ndim))


def _widened(images: Tensor) -> Tensor:
    return images.to(torch.promote_types(images.dtype, torch.float32))
