"""`sparring train` as one of several processes that torchrun started: who speaks, who waits.

No torch is loaded before the words are known to be right.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from sparring.errors import FailedElsewhere, Interrupted, NonFiniteLoss, SparringError

COMMON = (FailedElsewhere, Interrupted, NonFiniteLoss)
"""Errors that all trainers have, and one tells."""


def asked_for() -> bool:
    """Whether the environment is that of one of several processes, as torchrun makes it."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def leads() -> bool:
    """Whether this process is the one that prints and writes."""
    return not asked_for() or os.environ["RANK"] == "0"


@contextmanager
def one_voice() -> Iterator[None]:
    """Be a trainer of several, if there are: what all have to say, one of them says.

    Before they meet, an error is told once on each machine; then by the one that met it and by the
    leader. Exit codes are the same for all.
    """
    if not asked_for():
        yield
        return
    try:
        yield
    except SparringError as error:
        if _is_told_by_another(error):
            raise SystemExit(error.exit_code) from error
        raise


@contextmanager
def met() -> Iterator[None]:
    """Be in touch with the other trainers, if there are any, while the block lasts."""
    from sparring.training import joined

    try:
        with joined():
            yield
    finally:
        if asked_for():
            # Once the first one is gone, torchrun ends the others: they go, by their own code.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _is_told_by_another(error: SparringError) -> bool:
    import torch.distributed as dist

    if isinstance(error, COMMON):
        return not leads()
    return not dist.is_initialized() and os.environ.get("LOCAL_RANK", "0") != "0"
