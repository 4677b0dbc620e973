"""What counts: the network itself, in its own arithmetic, on images inside the threat.

Whatever an attack searched with, an image is broken only if this judge says so.

Shapes: N images of a set, B of a batch, S one image (C H W).  Units: pixels in [0, 1].
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from sparring.attacks import Classifier, Threat, checked
from sparring.evaluation.accuracy import logits_in_parts
from sparring.models import evaluation_mode

TOLERANCE = 1e-6
"""How far beyond ε the rounding of float32 pixels may take an image that is still allowed."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judge:
    """Decides for a network which images are misclassified, and which changes are allowed."""

    model: Classifier
    """Images to logits; a module is put into evaluation mode for the time of each judgement."""
    labels: Int64[Tensor, " N"]
    """The true classes of the set: the model must have an output for each."""
    threat: Threat
    """The set that an adversarial example must come from."""
    device: torch.device
    """Where the model computes."""
    batch_size: int | None = None
    """Images that it is asked about at once; by default 128 on a CPU and 1,024 elsewhere."""

    def predictions(self, images: Float[Tensor, " N *S"]) -> Int64[Tensor, " N"]:
        """The class that the network gives each image; otherwise as `logits`."""
        return self.logits(images).argmax(1)

    def logits(self, images: Float[Tensor, " N *S"]) -> Float[Tensor, " N K"]:
        """What the network says of at least one image. Cost: one forward pass, in batches.

        Raises `ConfigError` if the model does not return a row of finite logits for each image.
        """
        logits_of = checked(self.model, self.labels)
        with torch.no_grad(), evaluation_mode(self.model):
            return logits_in_parts(logits_of, images, self.device, batch_size=self.batch_size)

    def allowed(
        self, attacked: Float[Tensor, " B *S"], images: Float[Tensor, " B *S"]
    ) -> Bool[Tensor, " B"]:
        """Where an image lies in the threat around its clean one, up to rounding."""
        near = self.threat.distance(attacked, images) <= self.threat.eps + TOLERANCE
        return near & ((attacked >= 0) & (attacked <= 1)).flatten(1).all(1)


def device_of(model: Classifier, images: Tensor) -> torch.device:
    """Where a model computes: where its weights are, or, if it has none, where the images are."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return images.device if first is None else first.device
