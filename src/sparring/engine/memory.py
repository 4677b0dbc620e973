"""Memory that the trainer and its workers share: tensors in one anonymous file.

The file has no name, so it is gone with its last process, however that one ends. Nothing is left
to clean up, and nothing depends on the size of /dev/shm. On Linux it is a memfd, elsewhere a
temporary file that is unlinked while it is open.
"""

import math
import mmap
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen

import torch
from torch import Tensor

ALIGNMENT = 4096
"""Bytes: every tensor begins a page, so that no two roles write to the same one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes and dtype of one tensor of an arena."""

    sizes: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.sizes) * self.dtype.itemsize


class Arena:
    """Named tensors in shared memory, `0` at first; a process that is spawned with it shares it.

    Pickling it other than as an argument of a spawned process raises `RuntimeError`. Cost: the
    memory, once for all processes; pages that are never touched take none.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = dict(shapes)
        self._file = anonymous_file()
        os.ftruncate(self._file, max(ALIGNMENT, size_of(shapes)))
        self._map()

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of this name; all processes see its changes."""
        return self._tensors[name]

    @property
    def memory(self) -> Tensor:
        """The whole arena as bytes."""
        return self._memory

    def block(self, names: Sequence[str]) -> Tensor:
        """The bytes from the first of these tensors to the last: neighbours, in order."""
        first, last = names[0], names[-1]
        return self._memory[self._begins[first] : self._begins[last] + self._shapes[last].nbytes]

    def close(self) -> None:
        """Release this process's view; tensors that are still in use keep their memory."""
        if self._file >= 0:
            self._tensors.clear()
            del self._memory
            os.close(self._file)
            self._file = -1

    def __getstate__(self) -> tuple[dict[str, Shape], object]:
        if get_spawning_popen() is None:
            raise RuntimeError("an arena can go only to a process that is being spawned with it")
        return self._shapes, reduction.DupFd(self._file)

    def __setstate__(self, state: tuple[dict[str, Shape], object]) -> None:
        self._shapes, handle = state
        self._file = handle.detach()  # pyright: ignore[reportAttributeAccessIssue]
        self._map()

    def _map(self) -> None:
        view = memoryview(mmap.mmap(self._file, 0))
        self._memory = torch.frombuffer(view, dtype=torch.uint8)
        self._tensors: dict[str, Tensor] = {}
        self._begins: dict[str, int] = {}
        begin = 0
        for name, shape in self._shapes.items():
            end = begin + shape.nbytes
            if end > begin:
                flat = torch.frombuffer(view[begin:end], dtype=shape.dtype)
            else:
                flat = torch.empty(0, dtype=shape.dtype)  # frombuffer refuses nothing
            self._tensors[name] = flat.view(shape.sizes)
            self._begins[name] = begin
            begin += _pages(shape)


def size_of(shapes: Mapping[str, Shape]) -> int:
    """Bytes of an arena with these tensors."""
    return sum(map(_pages, shapes.values()))


def _pages(shape: Shape) -> int:
    return -(-max(shape.nbytes, 1) // ALIGNMENT) * ALIGNMENT


def anonymous_file() -> int:
    """A new file without a name, open to read and write; it is gone with its last process."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sparring", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
