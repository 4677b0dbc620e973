"""Which images are held out where a data set does not say it itself.

Shapes: N images of a set.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Int64
from torch import Tensor

from sparring.data.seeds import derive_seed
from sparring.errors import DataError

VALIDATION = 12
"""One in twelve: 5,000 of MNIST's 60,000, which leaves the paper's 55,000 to train on."""
TEST = 6
"""One in six: 10,000 for 50,000, as in CIFAR-10."""


def mixed(keys: Sequence[str]) -> Int64[Tensor, " N"]:
    """All images in an order that looks random and depends on nothing but their keys.

    So the first images of a set that is stored class by class are of all classes.
    Cost: a microsecond an image.
    """
    return torch.tensor(
        sorted(range(len(keys)), key=lambda place: (derive_seed("held out", keys[place]), place)),
        dtype=torch.int64,
    )


def dealt(
    labels: Int64[Tensor, " N"], keys: Sequence[str], one_in: Sequence[int], names: Sequence[str]
) -> list[Int64[Tensor, " M"]]:
    """Images to hold out, for each n in `one_in` the n-th part of every class; then the rest.

    Of every class at least one image goes to each. Which ones depends on their keys alone, in the
    order of `mixed`: a further image changes nothing about where the others are, but for as many as
    the shares grow. Raises `DataError`, with the class's name, for one that has too few images.
    """
    order = mixed(keys)
    dealt: list[list[Tensor]] = [[] for _ in range(len(one_in) + 1)]
    for label in labels.unique().tolist():
        own = order[labels[order] == label]
        if len(own) <= len(one_in):
            raise DataError(
                f"Every class must have at least {len(one_in) + 1} images here, because of each "
                f"some are held out for {' and '.join(('validation', 'test')[: len(one_in)])}; "
                f"{names[label]} has {len(own)}. Give it more images, leave the class out, or say "
                "yourself which images are held out (folders train, validation and test)."
            )
        ends = [0]
        for share in one_in:
            ends.append(ends[-1] + max(1, len(own) // share))
        for part, (start, stop) in zip(dealt, pairwise([*ends, len(own)]), strict=True):
            part.append(own[start:stop])
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return [torch.cat(part)[places[torch.cat(part)].argsort()] for part in dealt]
