"""Bounds of hidden layers by linear forms that go back to the images.

Shapes: R linear forms of one image, S one layer's output.
Source: Zhang et al. 2018, "Efficient Neural Network Robustness Certification with General
Activation Functions" (CROWN).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, fx

from sparring.bounds.boxes import Box
from sparring.bounds.network import NetworkBounds, Pass
from sparring.bounds.operations import Relu

BOUNDS = 4
"""Tensors of an output's size that are kept of an operation, or exist beside them."""


class Tightened(NamedTuple):
    """Bounds of one image after hidden layers were bounded by forms."""

    bounds: Pass
    forms: int
    """How many it took."""
    complete: bool
    """Whether all hidden layers were bounded."""


def bytes_of_image(found: Pass) -> int:
    """Bytes of all bounds of one image."""
    return sum(8 * BOUNDS * step.box.low[0].numel() for step in found.steps.values())


def tightened(bounds: NetworkBounds, found: Pass, *, forms: int, memory: int) -> Tightened:
    """Tighter bounds of one image's hidden layers, from at most `forms` forms.

    Layer by layer from the images on, each input of a ReLU whose sign is open is bounded by two
    forms. A layer that would need more than are left keeps its intervals. Forms go back together as
    `memory` bytes allow.
    """
    known: dict[fx.Node, Box] = {}
    used, complete = 0, True
    rows = max(1, memory // found.bytes_of_form())
    for node in list(_open_layers(found)):
        box = found.steps[node].box
        places = ((box.low < 0) & (box.high > 0)).flatten().nonzero()[:, 0]
        if used + 2 * len(places) > forms:
            complete = False
        elif len(places):
            used += 2 * len(places)
            known[node] = _bounded(found, node, places, rows)
            found = bounds.through(found.images, rounding=True, known=known)
    return Tightened(found, used, complete)


def _open_layers(found: Pass) -> Iterator[fx.Node]:
    """The inputs of ReLU whose intervals are not exact, in the order of the operations."""
    depths: dict[fx.Node, int] = {}
    exact = 1 if found.images.radius is None else 0
    seen = set()
    for node, step in found.steps.items():
        depth = max((depths[source] for source in step.sources), default=0)
        depths[node] = depth + (step.operation is not None and step.operation.mixes)
        if isinstance(step.operation, Relu) and depth > exact and step.sources[0] not in seen:
            seen.add(step.sources[0])
            yield step.sources[0]


def _bounded(found: Pass, node: fx.Node, places: Tensor, rows: int) -> Box:
    """The box of an operation's outputs, with these entries bounded by forms."""
    box = found.steps[node].box
    low, high = box.low.flatten().clone(), box.high.flatten().clone()
    for some in places.split(rows):
        unit = low.new_zeros(1, len(some), len(low))
        unit[0, torch.arange(len(some), device=some.device), some] = 1
        forms = unit.view(1, len(some), *box.low.shape[1:])
        low[some] = torch.maximum(low[some], found.lowest(node, forms)[0])
        high[some] = torch.minimum(high[some], -found.lowest(node, -forms)[0])
    return Box(low.view_as(box.low), high.view_as(box.high))
