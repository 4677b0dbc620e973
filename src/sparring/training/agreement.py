"""What all trainers of a run must have in common, and whether they have it."""

import hashlib
from collections.abc import Iterable

from torch import Tensor, nn

from sparring.data import Dataset
from sparring.errors import DataError
from sparring.models import bits
from sparring.training.team import Team

UNLIKE = (
    "trainers must have the same weights bit for bit, because each makes the same updates; those "
    "of trainer {} are not trainer 0's. Their machines compute differently: take the same "
    "processor and the same PyTorch for all."
)
"""What a run says of trainers whose hardware or software rounds differently."""


def check_same_data(team: Team, dataset: Dataset) -> None:
    """Refuse trainers that have other training images than their leader, as far as labels tell.

    Raises `DataError`, for all of them `FailedElsewhere`. Cost: one pass over the labels.
    """
    if team.size == 1:
        return
    images = dataset.train
    mine = (len(images), images.image_shape, images.num_classes, digest_of([images.labels]))
    theirs = team.lead(lambda: mine)
    with team.together():
        if mine != theirs:
            raise DataError(
                "all trainers of a run must have the same training images, because each trains on "
                f"a part of every batch; trainer {team.rank} has {len(images):,} of shape "
                f"{images.image_shape}, trainer 0 {theirs[0]:,} of shape {theirs[1]}, and sizes or "
                "labels differ. Copy one set to every machine."
            )


def unlike(team: Team, network: nn.Module) -> list[int]:
    """The trainers whose weights are not their leader's bit for bit; told to the leader.

    There are none where all compute alike. Cost: one pass over the weights.
    """
    if team.size == 1:
        return []
    digests = team.gather(digest_of(network.state_dict().values()))
    return [rank for rank, digest in enumerate(digests) if digest != digests[0]]


def digest_of(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of all their bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(bits(tensor).numpy().tobytes())
    return found.hexdigest()
