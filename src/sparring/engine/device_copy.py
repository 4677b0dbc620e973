"""Images between shared memory and the device that computes on them.

On CUDA the shared memory is pinned, and copies run on a stream of their own. That path is untested.
"""

import logging
import weakref

import torch
from torch import Tensor

from sparring.engine.memory import Arena

log = logging.getLogger(__name__)


class DeviceCopy:
    """Copies images between an arena and one device, for one process."""

    def __init__(self, arena: Arena, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            _pin(arena.memory)

    def take(self, slot: Tensor) -> Tensor:
        """The images of a slot, on the device; on the CPU the slot itself, not a copy.

        The slot may be written again once what is computed from the images is done.
        """
        if self._stream is None:
            return slot.to(self._device)
        with torch.cuda.stream(self._stream):
            images = slot.to(self._device, non_blocking=True)
        here = torch.cuda.current_stream(self._device)
        here.wait_stream(self._stream)
        images.record_stream(here)
        return images

    def put(self, images: Tensor, slot: Tensor) -> None:
        """Write images to a slot; returns when all of them are there."""
        if self._stream is None:
            slot.copy_(images)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            slot.copy_(images, non_blocking=True)
        self._stream.synchronize()


def _pin(memory: Tensor) -> None:
    """Pin this process's view of shared memory, for as long as it exists."""
    runtime, address = torch.cuda.cudart(), memory.data_ptr()
    code = 1 if runtime is None else int(runtime.cudaHostRegister(address, memory.nbytes, 0))
    if runtime is None or code:
        log.warning("shared memory could not be pinned (CUDA error %d): copies are slower", code)
        return
    weakref.finalize(memory, runtime.cudaHostUnregister, address)
