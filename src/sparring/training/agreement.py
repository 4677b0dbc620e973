"""What all trainers of a run must have in common, and whether they have it."""

import hashlib
from collections.abc import Iterable

from torch import Tensor, nn

from sparring.errors import DataError
from sparring.models import bits
from sparring.records.data_identity import DataIdentity
from sparring.training.team import Team

UNLIKE = (
    "trainers must have the same weights bit for bit, because each makes the same updates; those "
    "of trainer {} are not trainer 0's. Their machines compute differently: take the same "
    "processor and the same PyTorch for all."
)
"""What a run says of trainers whose hardware or software rounds differently."""


def check_same_data(team: Team, known: DataIdentity) -> None:
    """Refuse trainers that have other data than their leader, by what they are known by.

    Raises `DataError`, for all of them `FailedElsewhere`.
    """
    if team.size == 1:
        return
    theirs = team.lead(lambda: known)
    with team.together():
        if known.digest != theirs.digest:
            what = "; ".join(theirs.differences(known))
            raise DataError(
                "all trainers of a run must have the same data, because each trains on a part of "
                f"every batch; trainer {team.rank} has others than trainer 0: different are {what}."
                " Copy one set to every machine."
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
