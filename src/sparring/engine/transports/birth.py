"""The first moments of a worker's process, before anything heavy is imported.

Whatever happens to the trainer from then on, its workers end with it.
"""

import ctypes
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when its parent dies (prctl(2))."""


class Birth:
    """The first thing that a worker's process is handed: unpickling it ties its life to another's.

    Linux kills the process when the thread ends that started it; elsewhere it notices when its pipe
    is closed.
    """

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __getstate__(self) -> int:
        return self.parent

    def __setstate__(self, parent: int) -> None:
        self.parent = parent
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


def live(birth: Birth, place: Any, device: str, pipe: Connection) -> None:
    """A worker's life; `birth` has done its part, and with `place` PyTorch came in."""
    from sparring.engine.transports.process import work

    work(place, device, pipe)
