"""The start of a worker's process, before anything heavy is imported.

From then on the worker ends with its trainer, however that ends.
"""

import ctypes
import os
import pickle
import signal
import sys
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, Protocol, runtime_checkable

PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when its parent dies (prctl(2))."""


class ParentDeathGuard:
    """A worker's first argument: unpickling it makes the process end with its parent.

    Linux kills the process when the thread that started it ends. On other systems the process
    notices that its pipe is closed.
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


@runtime_checkable
class Setup(Protocol):
    """The part of `WorkerSetup` that needs no heavy import."""

    def work(self, device: str, pipe: Connection) -> None:
        """Work until the pipe closes."""
        ...


class FileHandoff:
    """Passes a worker's setup by an open file instead of the process's first pipe.

    If a process dies while it starts, the writer of that pipe waits for ever if there is more to
    write than the pipe holds (64 KiB), such as a network's weights.
    """

    def __init__(self, setup: Setup, file: int) -> None:
        self.setup = setup
        self._file = os.fdopen(file, "w+b")

    def close(self) -> None:
        """Close the file, once the process is started."""
        self._file.close()

    def __getstate__(self) -> object:
        reduction.ForkingPickler(self._file).dump(self.setup)
        self._file.flush()
        return reduction.DupFd(self._file.fileno())

    def __setstate__(self, handle: Any) -> None:
        self._file = os.fdopen(handle.detach(), "rb")
        self._file.seek(0)
        self.setup: Setup = pickle.load(self._file)
        self.close()


def run_worker(
    guard: ParentDeathGuard, handoff: FileHandoff, device: str, pipe: Connection
) -> None:
    """The main function of a worker's process; unpickling the setup imported PyTorch.

    Standard output is for the results of the trainer's process, so what is printed here, by a
    user's network, goes to standard error.
    """
    sys.stdout = sys.stderr
    handoff.setup.work(device, pipe)
