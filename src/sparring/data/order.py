"""The seeded order in which training meets its images, and the augmentation of each ticket.

Each epoch is a random permutation of all images. The permutations make up one endless stream, and
ticket n has its images n `batch_size` and following. So every batch is full, a batch may begin in
one epoch and end in the next, and every image is used exactly once an epoch, as with the data
reader of Madry et al.'s MNIST challenge.

Augmentation is a pure function of the ticket. Every number is drawn for one image by its place in
the whole ticket, so the parts of a ticket, computed by any process at any time, give the whole.

Shapes: B images of a batch, C channels, H rows, W columns. Units: pixels in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from sparring.errors import ConfigError
from sparring.records.checks import at_least, within
from sparring.records.custom import Custom, PythonObject, made, own_errors
from sparring.records.text import kind_text
from sparring.records.typed import typed_record
from sparring.seeds import derive_seed

_KEPT_PERMUTATIONS = 2
"""A batch may span two epochs, so that neighbouring tickets need at most two permutations."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ticket:
    """One batch's place in the order: its images, and the seed of everything random in it."""

    number: int
    """Number of tickets before this one."""

    epoch: int
    """Epoch of the first image, counted from 0."""

    position: int
    """Place of the first image in its epoch, 0 to num_images - 1."""

    indices: Int64[Tensor, " B"]
    """Images, in order: a whole batch, unless this is a part of a ticket."""

    seed: int
    """Seed of everything random in attacking this batch, in [0, 2**63)."""

    root: int | None = None
    """Seed of the whole ticket, if this is a part of one."""

    first: int = 0
    """Place of the first image in the whole ticket."""

    def draw(self, place: int, *what: int | str) -> float:
        """A random number in [0, 1) for one image, the same in the ticket and in its parts.

        `place` counts from this part's first image, `what` names the number's purpose. The stream
        is not the attack's. Cost: some microseconds.
        """
        whole = self.seed if self.root is None else self.root
        return derive_seed(whole, "image", self.first + place, *what) / 2**63

    def part(self, part: int, parts: int) -> "Ticket":
        """One of `parts` equal parts, with a seed of its own; of one part the ticket itself."""
        if parts == 1:
            return self
        mine = rows(len(self.indices), part, parts)
        return replace(
            self,
            indices=self.indices[mine],
            root=self.seed if self.root is None else self.root,
            first=self.first + mine.start,
            seed=derive_seed(self.seed, "part", part, parts),
        )


def rows(count: int, part: int, parts: int) -> slice:
    """Places of a part of `count` images: neighbours, in parts that differ by one at most."""
    return slice(count * part // parts, count * (part + 1) // parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """The endless sequence of tickets of one run, a pure function of its three numbers.

    Raises `ConfigError` if there is no image or a batch would be empty.
    """

    num_images: int
    """Images of the training set, at least 1."""

    batch_size: int
    """Images of one ticket, at least 1; may exceed num_images."""

    seed: int
    """Seed of the run."""

    _permutations: dict[int, Int64[Tensor, " N"]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        at_least("num_images", self.num_images, 1)
        at_least("batch_size", self.batch_size, 1)

    def ticket(self, number: int) -> Ticket:
        """The ticket with `number` tickets before it, a pure function of the order and `number`.

        Cost: at most one permutation of all images for each epoch it touches; none if the previous
        tickets were of the same epochs. Raises `ConfigError` if `number` is negative.
        """
        if number < 0:
            raise ConfigError.expected("number must be 0 or more", number)
        epoch, position = divmod(number * self.batch_size, self.num_images)
        return Ticket(
            number=number,
            epoch=epoch,
            position=position,
            indices=self._stream(epoch, position),
            seed=derive_seed(self.seed, "attack", epoch, position),
        )

    def _stream(self, epoch: int, position: int) -> Int64[Tensor, " B"]:
        """A whole batch of the stream from this place on, across epochs."""
        missing, pieces = self.batch_size, []
        while missing:
            piece = self._permutation(epoch)[position : position + missing]
            pieces.append(piece)
            missing -= len(piece)
            epoch, position = epoch + 1, 0
        return torch.cat(pieces)

    def _permutation(self, epoch: int) -> Int64[Tensor, " N"]:
        """All images in the order of one epoch, kept for the next tickets."""
        known = self._permutations.get(epoch)
        if known is not None:
            return known
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        permutation = torch.randperm(self.num_images, generator=generator)
        while len(self._permutations) >= _KEPT_PERMUTATIONS:
            del self._permutations[next(iter(self._permutations))]
        self._permutations[epoch] = permutation
        return permutation


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """Mirrors some images left to right."""

    share: float = 0.5
    """Probability of being mirrored."""

    def __post_init__(self) -> None:
        within("augmentation: share", self.share, "[0, 1]")

    def __call__(
        self, images: Float[Tensor, " B C H W"], ticket: Ticket, number: int
    ) -> Float[Tensor, " B C H W"]:
        """The images, some of them mirrored."""
        draws = [ticket.draw(place, number, "flip") < self.share for place in range(len(images))]
        mirrored = torch.tensor(draws, device=images.device)
        return torch.where(mirrored[:, None, None, None], images.flip(3), images)


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """Pads images with black, and crops each to its former size at a random place."""

    padding: int = 4
    """Pixels on each side: the largest shift."""

    def __post_init__(self) -> None:
        at_least("augmentation: padding", self.padding, 0)

    def __call__(
        self, images: Float[Tensor, " B C H W"], ticket: Ticket, number: int
    ) -> Float[Tensor, " B C H W"]:
        """The images, each shifted by up to `padding` pixels along rows and columns."""
        count, _, height, width = images.shape
        places, widest = range(count), 2 * self.padding + 1
        down, right = (
            torch.tensor([int(ticket.draw(place, number, what) * widest) for place in places])
            for what in ("down", "right")
        )
        rows = (down[:, None] + torch.arange(height)).to(images.device)
        columns = (right[:, None] + torch.arange(width)).to(images.device)
        framed = pad(images, (self.padding,) * 4).movedim(1, 3)
        which = torch.arange(count, device=images.device)[:, None, None]
        return framed[which, rows[:, :, None], columns[:, None]].movedim(3, 1).contiguous()


Augmentation = Flip | Crop | Custom | PythonObject | Callable[[Tensor, Ticket, int], Tensor]
"""Your own one is called with images, their ticket and the number of the step."""


def augmented(
    images: Float[Tensor, " B C H W"], steps: Sequence[Augmentation], ticket: Ticket
) -> Float[Tensor, " B C H W"]:
    """A ticket's images after all steps, in order; the images themselves if there are none.

    Cost: some microseconds for each image of a flip, twice that of a crop. Raises `ConfigError` for
    a step of your own that does not return such images.
    """
    for number, step in enumerate(steps):
        with own_errors("the augmentation"):
            found = made(step, "augmentation")(images, ticket, number)
        if not isinstance(step, Flip | Crop):
            _check_augmented(found, images)
        images = found
    return images


def _check_augmented(found: object, images: Tensor) -> None:
    if not isinstance(found, Tensor) or (found.shape, found.dtype) != (images.shape, images.dtype):
        shape = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise ConfigError.expected(
            f"an augmentation must return {images.dtype} of shape {tuple(images.shape)}",
            shape or kind_text(found),
        )
    least, most = (each.item() for each in found.aminmax())
    if not (least >= 0 and most <= 1):
        raise ConfigError.expected(
            "an augmentation must return pixels in [0, 1]", f"{least:g} to {most:g}", "Clamp them."
        )
