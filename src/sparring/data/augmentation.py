"""Changes to training images that show a network more than there is: pure functions of the ticket.

Every number is drawn for one image by its place in the whole ticket, so that the parts of a ticket
give what the whole gives, whoever computes them and when.

Shapes: B images of a batch, C channels, H rows, W columns. Units: pixels in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from sparring.data.order import Ticket
from sparring.errors import ConfigError
from sparring.records.ranges import at_least
from sparring.records.typed import typed_record


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """Mirrors left and right, for some images."""

    share: float = 0.5
    """Probability of being mirrored."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.share <= 1:
            raise ConfigError(
                f"augmentation: share must lie in [0, 1] because it is a probability; got "
                f"{self.share:g}. 0.5 mirrors every other image."
            )

    def __call__(
        self, images: Float[Tensor, " B C H W"], ticket: Ticket, number: int
    ) -> Float[Tensor, " B C H W"]:
        """The images, some mirrored."""
        draws = [ticket.draw(place, number, "flip") < self.share for place in range(len(images))]
        mirrored = torch.tensor(draws, device=images.device)
        return torch.where(mirrored[:, None, None, None], images.flip(3), images)


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """Surrounds images with black and takes a part of the former size, each elsewhere."""

    padding: int = 4
    """Pixels on each side, so the largest shift."""

    def __post_init__(self) -> None:
        """Check the range."""
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


Augmentation = Flip | Crop


def augmented(
    images: Float[Tensor, " B C H W"], steps: Sequence[Augmentation], ticket: Ticket
) -> Float[Tensor, " B C H W"]:
    """A ticket's images after all steps, in order; the images themselves if there are none.

    Cost: some microseconds a number, one for each image of a flip and two of a crop.
    """
    for number, step in enumerate(steps):
        images = step(images, ticket, number)
    return images
