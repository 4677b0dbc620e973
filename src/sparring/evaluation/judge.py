"""Which images a network classifies correctly, by its own arithmetic and inside the threat.

An attack may search another form of the network; the judge decides which images are broken.

Shapes: N images of a set, B of a batch, S one image (C H W).  Units: pixels in [0, 1].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from sparring.attacks import BatchAttack, Classifier, Threat, checked
from sparring.attacks.batch_attack import attacked_images
from sparring.attacks.threat import reach
from sparring.errors import NonFiniteLogits
from sparring.models import chosen_batch_size, drawing_from, evaluation_mode
from sparring.records import Proportion
from sparring.seeds import derive_seed


def correct(
    logits_of: Classifier,
    images: Float[Tensor, " B *S"],
    labels: Int64[Tensor, " B"],
    batch_size: int | None = None,
) -> Bool[Tensor, " B"]:
    """Where the largest logit is the label's; otherwise as `logits_in_parts`."""
    if not len(labels):
        return torch.zeros(0, dtype=torch.bool)
    with torch.no_grad():
        logits = logits_in_parts(checked(logits_of, labels), images, batch_size=batch_size)
        return logits.argmax(1) == labels.cpu()


def logits_in_parts(
    logits_of: Classifier,
    images: Float[Tensor, " B *S"],
    device: torch.device | None = None,
    *,
    batch_size: int | None = None,
) -> Float[Tensor, " B K"]:
    """The logits of at least one image by a checked model, on the CPU.

    `device` is where the model computes, if not where the images are. Cost: one forward pass,
    `batch_size` images at a time. Raises `NonFiniteLogits` that counts all images.
    """
    found, wrong = [], []
    device = device or images.device
    for part in parts(len(images), chosen_batch_size(batch_size, device)):
        try:
            found.append(logits_of(images[part].to(device)).cpu())
        except NonFiniteLogits as error:
            wrong += [part.start + row for row in error.rows]
    if wrong:
        raise NonFiniteLogits(wrong, len(images))
    return torch.cat(found)


def slice_accuracy(  # noqa: PLR0913 - what is judged, settings by keyword
    logits_of: Classifier,
    images: Float[Tensor, " B *S"],
    labels: Int64[Tensor, " B"],
    attack: BatchAttack,
    *,
    seed: int,
    batch_size: int | None = None,
) -> tuple[Proportion, Proportion]:
    """Natural and robust accuracy of some images under one attack, to watch a run.

    An image counts as robust if it is right both clean and attacked; attacked as by
    `slice_examples`. Cost: two forward passes, and a forward and a backward pass for each step.
    """
    natural = correct(logits_of, images, labels, batch_size)
    attacked = slice_examples(logits_of, images, labels, attack, seed=seed, batch_size=batch_size)
    robust = natural & correct(logits_of, attacked, labels, batch_size)
    return share_of(natural), share_of(robust)


def slice_examples(  # noqa: PLR0913 - what is attacked, settings by keyword
    logits_of: Classifier,
    images: Float[Tensor, " B *S"],
    labels: Int64[Tensor, " B"],
    attack: BatchAttack,
    *,
    seed: int,
    batch_size: int | None = None,
) -> Float[Tensor, " B *S"]:
    """Adversarial images of some images.

    The same seed and batch size give the same starts, so that two results differ by the weights
    alone. `batch_size` is by default 128 on a CPU and 1,024 elsewhere (untested).
    Raises `ConfigError` if an attack of your own fails, or returns no such images.
    """
    attacked = images.clone()
    for number, part in enumerate(parts(len(labels), chosen_batch_size(batch_size, images.device))):
        seed_of_part = derive_seed(seed, "slice", number)
        generator = torch.Generator().manual_seed(seed_of_part)
        with drawing_from(seed_of_part):
            attacked[part] = attacked_images(
                attack, logits_of, images[part], labels[part], generator=generator
            )
    return attacked


def share_of(images: Bool[Tensor, " N"]) -> Proportion:
    """The number of these images out of all."""
    return Proportion(successes=int(images.sum()), total=len(images))


def parts(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `count` places."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judge:
    """Decides which images a network misclassifies, and which changes are allowed."""

    model: Classifier
    """Images to logits; a module is in evaluation mode during each pass."""
    labels: Int64[Tensor, " N"]
    """The true classes of the set: the model must have an output for each."""
    threat: Threat
    """The allowed changes."""
    device: torch.device
    """The model's device."""
    batch_size: int | None = None
    """Images of a pass; by default 128 on a CPU and 1,024 elsewhere."""

    def predictions(self, images: Float[Tensor, " N *S"]) -> Int64[Tensor, " N"]:
        """The predicted classes; otherwise as `logits`."""
        return self.logits(images).argmax(1)

    def logits(self, images: Float[Tensor, " N *S"]) -> Float[Tensor, " N K"]:
        """The logits of at least one image. Cost: one forward pass, in batches.

        Raises `ConfigError` if the model does not return a row of finite logits for each image.
        """
        logits_of = checked(self.model, self.labels)
        with torch.no_grad(), evaluation_mode(self.model):
            return logits_in_parts(logits_of, images, self.device, batch_size=self.batch_size)

    def allowed(
        self, attacked: Float[Tensor, " B *S"], images: Float[Tensor, " B *S"]
    ) -> Bool[Tensor, " B"]:
        """Where images lie in the threat around their clean ones, up to rounding."""
        near = self.threat.distance(attacked, images) <= reach(self.threat, images)
        return near & ((attacked >= 0) & (attacked <= 1)).flatten(1).all(1)


def device_of(model: Classifier, images: Tensor) -> torch.device:
    """The device of a model's weights, or, if it has none, of the images."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return images.device if first is None else first.device
