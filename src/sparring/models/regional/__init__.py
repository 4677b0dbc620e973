"""Logits of a convolutional network after a change of few pixels, from the maps it had before.

A change inside a rectangle changes the outputs of convolutions and pooling inside a larger one: its
*window*. While a window is much smaller than its map, only the window is computed, for each image
at its own place; from the first layer on where it is not, whole maps are.

Shapes: B images, R rows of them, C channels, H W maps, h w windows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.nn import functional

from sparring.models.regional.steps import Step, steps_of
from sparring.models.regional.windows import (
    Group,
    Map,
    Pair,
    Place,
    Window,
    by_axis,
    corners,
    groups,
)

__all__ = ["Regions"]


class Regions:
    """What a trace computes after a change of few pixels.

    Its layers act as in evaluation mode; `meta` of its nodes has the shape and dtype of their
    outputs, and it is for images of that size, on a CPU.
    """

    def __init__(self, trace: fx.GraphModule) -> None:
        self.call = fx.Interpreter(trace, garbage_collect_values=False)
        self.nodes: Sequence[fx.Node] = list(trace.graph.nodes)
        self.steps = steps_of(trace)
        self.kept = [node for node, step in self.steps.items() if step.kept]
        self.until = self.nodes.index(self.kept[-1]) + 1 if self.kept else 0
        last = {source: node for node in self.nodes for source in node.all_input_nodes}
        self.over = {node: [of for of, by in last.items() if by is node] for node in self.nodes}
        self._latest: list[_Latest] = []

    def remember(self, images: Tensor) -> dict[str, Tensor]:
        """The maps of these images, with a row for each; none if windows would save little.

        Cost: a pass, at most.
        """
        image = self.nodes[0]
        if not self.kept or images.shape[1:] != image.meta["shape"][1:]:
            return {}
        count = len(images)
        memory = {
            node.name: torch.zeros(count, *step.padded, dtype=step.dtype)
            for node, step in self.steps.items()
            if step.kept
        }
        rows = torch.arange(count)
        group = Group(rows, rows, corners(rows), self.steps[image].whole)
        _Pass(self, memory, images, group, keep=True).walk(self.until)
        return memory

    def revised(
        self, memory: Mapping[str, Tensor], before: Tensor, after: Tensor, rows: Tensor
    ) -> Tensor:
        """Logits [R, K] of `after` at these rows, where `memory` is of `before`."""
        self._latest.clear()
        logits, places = list[Tensor](), list[Tensor]()
        for group in groups(before, after, rows):
            found = _Pass(self, memory, after, group)
            logits.append(found.logits())
            places.append(group.places)
            self._latest.append(_Latest(memory, after, group.rows, found.windows))
        whole = torch.cat(logits)
        return torch.empty_like(whole).index_copy_(0, torch.cat(places), whole)

    def keep(
        self, memory: Mapping[str, Tensor], before: Tensor, after: Tensor, rows: Tensor
    ) -> None:
        """Make `memory`, in place, that of `after` at these rows.

        What `revised` has just computed is not computed again.
        """
        for latest in self._latest:
            if latest.is_of(memory, after):
                rows = latest.keep(rows)
        self._latest.clear()
        for group in groups(before, after, rows) if len(rows) else ():
            _Pass(self, memory, after, group, keep=True).walk(self.until)


class _Latest(NamedTuple):
    """Windows, and whole maps, that have been computed and were not kept."""

    memory: Mapping[str, Tensor]
    after: Tensor
    rows: Tensor
    """In rising order [R]."""
    windows: Sequence[tuple[Map, Window]]

    def is_of(self, memory: Mapping[str, Tensor], after: Tensor) -> bool:
        """Whether they are of these maps and these images."""
        same = memory.keys() == self.memory.keys() and after is self.after
        return same and all(value is self.memory[name] for name, value in memory.items())

    def keep(self, rows: Tensor) -> Tensor:
        """Keep those of these rows; return the rows that there are none of."""
        places = torch.searchsorted(self.rows, rows).clamp_max(len(self.rows) - 1)
        known = self.rows[places] == rows
        chosen = places[known]
        for where, window in self.windows if len(chosen) else ():
            where.of(chosen).put(window.of(chosen))
        return rows[~known]


class _Pass:
    """One pass over a group of rows. Windows are written into the memory, and taken back after it.

    With `keep` they stay, and so do whole maps.
    """

    def __init__(
        self,
        regions: Regions,
        memory: Mapping[str, Tensor],
        after: Tensor,
        group: Group,
        *,
        keep: bool = False,
    ) -> None:
        self._regions, self._group, self._keep = regions, group, keep
        self._images = after[group.rows]
        self._corner = corners(group.rows)
        self._values: dict[fx.Node, Any] = {}
        self.windows: list[tuple[Map, Window]] = []
        self._undo: list[tuple[Map, Window]] = []
        self._maps = {
            node: Map(memory[node.name], regions.steps[node].margin, group.rows)
            for node in regions.kept
        }

    def logits(self) -> Tensor:
        """The logits [R, K]."""
        self.walk(len(self._regions.nodes))
        return self._values[self._regions.nodes[-1]]

    def walk(self, until: int) -> None:
        """Compute the first `until` nodes."""
        nodes, over = self._regions.nodes[:until], self._regions.over
        try:
            for node in nodes:
                self._values[node] = self._value(node)
                for gone in over[node]:
                    del self._values[gone]
        finally:
            for where, former in self._undo:
                where.put(former)

    def _value(self, node: fx.Node) -> Any:
        """The output of a node: a window of a map, or all of it."""
        step = self._regions.steps.get(node)
        if node.op == "placeholder" and step is not None:
            return self._image(node, step)
        window = self._window(node, step) if step is not None else None
        if window is not None:
            return window
        args, named = map_arg((node.args, node.kwargs), self._all_of)
        found = getattr(self._regions.call, node.op)(node.target, args, named)
        if step is not None and step.kept:
            where = self._maps[node]
            if self._keep:
                where.put(Window(self._corner, step.whole, found))
            else:
                # A single user that is no step may overwrite its input.
                is_read = len(node.users) > 1 or any(
                    user in self._regions.steps for user in node.users
                )
                kept = found if is_read else found.clone()
                self.windows.append((where, Window(self._corner, step.whole, kept)))
        return found

    def _image(self, node: fx.Node, step: Step) -> Any:
        start, size = self._group.start, self._group.size
        if step.is_much(size):
            return self._images.contiguous(memory_format=torch.channels_last)
        (high, wide), rows = step.margin, torch.arange(len(self._images))
        padded = functional.pad(self._images, (wide, wide, high, high))
        padded = padded.permute(0, 2, 3, 1).contiguous()
        where = self._maps[node] = Map(padded, step.margin, rows)
        return Window(start, size, where.rectangle(start, size))

    def _window(self, node: fx.Node, step: Step) -> Window | None:
        """The window of a node, if it is much smaller than the map and known of its sources."""
        known = [self._values[source] for source in step.sources]
        if not all(isinstance(each, Window) for each in known):
            return None
        start, size = self._extent(step, known)
        if step.is_much(size):
            return None
        if step.slide is not None:
            part = self._maps[step.sources[0]]
            needed = part.rectangle(step.slide.begins(start), step.slide.needs(size))
            found = Window(start, size, step.slide.apply(needed))
        else:
            parts: dict[fx.Node, Tensor] = {}
            for source, window in zip(step.sources, known, strict=True):
                same = window.size == size and all(map(torch.equal, window.start, start))
                parts[source] = window.values if same else self._maps[source].rectangle(start, size)
            args, named = map_arg(
                (node.args, node.kwargs), lambda each: parts.get(each, self._values.get(each))
            )
            found = Window(
                start, size, getattr(self._regions.call, node.op)(node.target, args, named)
            )
        if step.kept:
            where = self._maps[node]
            if not self._keep:
                self._undo.append((where, Window(start, size, where.rectangle(start, size))))
                self.windows.append((where, found))
            where.put(found)
        return found

    def _extent(self, step: Step, known: Sequence[Window]) -> tuple[Place, Pair]:
        """Where a node's window begins, and its size."""
        if step.slide is not None:
            size = step.slide.reached(known[0].size, step.whole)
            start = step.slide.first(known[0].start)
        elif len(known) == 1:
            return known[0].start, known[0].size
        else:
            start = by_axis(lambda a: torch.stack([each.start[a] for each in known]).amin(0))
            ends = by_axis(lambda a: torch.stack([w.start[a] + w.size[a] for w in known]).amax(0))
            size = by_axis(lambda a: int((ends[a] - start[a]).max()))
        return by_axis(lambda a: start[a].clamp(0, step.whole[a] - size[a])), size

    def _all_of(self, node: fx.Node) -> Any:
        """The whole output of a node."""
        found = self._values[node]
        if not isinstance(found, Window):
            return found
        return self._maps[node].rectangle(self._corner, self._regions.steps[node].whole)
