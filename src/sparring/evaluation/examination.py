"""All checks for gradient masking and a broken evaluation, on a slice of what is evaluated."""

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.evaluation.contender import Contender, Slice
from sparring.evaluation.masking import gradients, large, steps
from sparring.evaluation.soundness import outputs
from sparring.records import Finding

IMAGES = 128
"""Of the slice: one batch."""
CHECKS = (outputs, gradients, steps, large)
"""In the order in which they are carried out, the cheap ones first."""


def examine(
    contender: Contender,
    images: Tensor,
    *,
    right: Tensor,
    seed: int,
    observer: Callable[[float], None] = lambda share: None,
) -> tuple[Finding, ...]:
    """What the checks found, on images spread evenly over those that are `right` when clean [N].

    `images` are those of the contender's judge. `observer` is given the share of checks that are
    done. No finding at all if no image is right.
    Cost: about 330 passes there and back, and 400 forward passes, over at most `IMAGES` images.
    """
    places = right.nonzero().flatten()
    if not len(places):
        return ()
    count = min(IMAGES, len(places))
    chosen = places[torch.arange(count) * len(places) // count]
    piece = Slice(contender, images[chosen], contender.judge.labels[chosen], seed)
    found: list[Finding] = []
    for number, check in enumerate(CHECKS, start=1):
        found += check(piece)
        observer(number / len(CHECKS))
    return tuple(found)
