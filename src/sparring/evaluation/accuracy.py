"""Which images a network gets right, clean or attacked.

Shapes: B batch, S one image (C H W).  Units: pixels in [0, 1].
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sparring.attacks import PGD, Classifier, checked
from sparring.data import derive_seed
from sparring.errors import NonFiniteLogits
from sparring.records import Proportion

BATCH = 128
"""Images of one pass: more are no faster for the paper's network on a CPU."""


def correct(
    logits_of: Classifier, images: Float[Tensor, " B *S"], labels: Int64[Tensor, " B"]
) -> Bool[Tensor, " B"]:
    """Where the largest logit is the label's; otherwise as `logits_in_parts`."""
    if not len(labels):
        return torch.zeros(0, dtype=torch.bool)
    with torch.no_grad():
        return logits_in_parts(checked(logits_of, labels), images).argmax(1) == labels.cpu()


def logits_in_parts(
    logits_of: Classifier, images: Float[Tensor, " B *S"], device: torch.device | None = None
) -> Float[Tensor, " B K"]:
    """What a checked model says of at least one image, on the CPU.

    `device` is where the model computes, if not where the images are. Cost: one forward pass, a
    batch at a time. Raises `NonFiniteLogits` that counts all images.
    """
    found, wrong = [], []
    for part in parts(len(images)):
        try:
            found.append(logits_of(images[part].to(device or images.device)).cpu())
        except NonFiniteLogits as error:
            wrong += [part.start + row for row in error.rows]
    if wrong:
        raise NonFiniteLogits(wrong, len(images))
    return torch.cat(found)


def slice_accuracy(
    logits_of: Classifier,
    images: Float[Tensor, " B *S"],
    labels: Int64[Tensor, " B"],
    attack: PGD,
    *,
    seed: int,
) -> tuple[Proportion, Proportion]:
    """Natural and robust accuracy of a slice under one attack, for watching a run.

    The same seed gives the same starts, so that two looks differ by the weights alone. An image
    counts as robust if it is right both clean and attacked.
    Cost: two forward passes, and `attack.steps` forward and backward passes.
    """
    natural = correct(logits_of, images, labels)
    robust = natural.clone()
    for number, part in enumerate(parts(len(labels))):
        generator = torch.Generator().manual_seed(derive_seed(seed, "slice", number))
        attacked = attack(logits_of, images[part], labels[part], generator=generator)
        robust[part] &= correct(logits_of, attacked, labels[part])
    total = len(labels)
    return (
        Proportion(successes=int(natural.sum()), total=total),
        Proportion(successes=int(robust.sum()), total=total),
    )


def parts(count: int, size: int = BATCH) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `count` places."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
