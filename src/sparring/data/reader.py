"""Reads images on a few threads, ahead of time where it is told what comes next.

Shapes: B images of a batch, C channels, H rows, W columns. Units: grey levels 0 to 255.
"""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

THREADS = 4
"""Most threads that read: decoding leaves the interpreter free, and waits for discs."""
PIECE = 16
"""Images of one errand: many enough to outweigh handing it over, few enough to share them out."""
KEPT = 2
"""Times the tickets that are read ahead: those of before may be recalled."""


class _Place(NamedTuple):
    """Where an image is, or will be."""

    errand: Future[Tensor]
    row: int


class Reader:
    """Keeps what was expected; the images of `KEPT` times so many tickets, the newest ones.

    It belongs to one thread. With no tickets it keeps nothing and reads only what it is asked for.
    """

    def __init__(
        self, read: Callable[[Int64[Tensor, " B"]], UInt8[Tensor, " B C H W"]], *, tickets: int
    ) -> None:
        self._read, self._tickets = read, tickets
        self._room = 0
        self._kept: OrderedDict[int, _Place] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None

    def expect(self, places: Int64[Tensor, " B"]) -> None:
        """Begin to read the images at these places. Cost: a few microseconds an image."""
        self._room = max(self._room, KEPT * (self._tickets + 1) * len(places))
        self._kept.update(self._begin(places))
        self._forget()

    def take(self, places: Int64[Tensor, " B"], *, into: UInt8[Tensor, " B C H W"]) -> None:
        """Put the images at these places there. Raises what reading them raised."""
        begun = self._begin(places)
        if self._room:
            self._kept.update(begun)
        for row, place in enumerate(places.tolist()):
            found = begun.get(place) or self._kept[place]
            into[row] = found.errand.result()[found.row]
        self._forget()

    def _forget(self) -> None:
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)

    def _begin(self, places: Int64[Tensor, " B"]) -> dict[int, _Place]:
        """Errands for what is neither here nor under way."""
        missing = [place for place in dict.fromkeys(places.tolist()) if place not in self._kept]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sparring reads")
        begun = {}
        for start in range(0, len(missing), PIECE):
            piece = missing[start : start + PIECE]
            errand = self._pool.submit(self._read, torch.tensor(piece))
            begun |= {place: _Place(errand, row) for row, place in enumerate(piece)}
        return begun
