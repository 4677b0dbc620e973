"""The first moments of a worker's process, before anything heavy is imported.

Whatever happens to the trainer from then on, its workers end with it.
"""

import ctypes
import os
import pickle
import signal
import sys
from multiprocessing import reduction
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


class Parcel:
    """What a worker's process is handed by an open file and not through its first pipe.

    A process that dies at its birth leaves that pipe's writer waiting for ever, if there is more to
    write than the pipe holds (64 KiB): a network's weights are more.
    """

    def __init__(self, thing: Any, file: int) -> None:
        self.thing = thing
        self._file = os.fdopen(file, "w+b")

    def close(self) -> None:
        """Give the file up, once the process is started."""
        self._file.close()

    def __getstate__(self) -> object:
        reduction.ForkingPickler(self._file).dump(self.thing)
        self._file.flush()
        return reduction.DupFd(self._file.fileno())

    def __setstate__(self, handle: Any) -> None:
        self._file = os.fdopen(handle.detach(), "rb")
        self._file.seek(0)
        self.thing = pickle.load(self._file)
        self.close()


def live(birth: Birth, parcel: Parcel, device: str, pipe: Connection) -> None:
    """A worker's life; `birth` has done its part, and with the parcel PyTorch came in."""
    from sparring.engine.transports.process import work

    work(parcel.thing, device, pipe)
