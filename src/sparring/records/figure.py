"""Figures as data: numbers with their units, words and provenance.

A figure holds all that a drawing of it needs, and its JSON has every number.
"""

from dataclasses import dataclass
from typing import Literal

from sparring.errors import ConfigError
from sparring.records.environment import Environment
from sparring.records.evaluation import bytes_in

Scale = Literal["linear", "log", "even"]
Mark = Literal["line", "bar"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One direction of a drawing."""

    label: str
    """What is along it."""
    unit: str = ""
    """In what, such as "updates" or "%"; empty for a mere number."""
    scale: Scale = "linear"
    """How values are laid out; "even" gives each value that occurs the same room, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a drawing."""

    name: str
    """What the legend calls it."""
    x: tuple[float, ...]
    """Where its points are."""
    y: tuple[float, ...]
    """What they say."""
    low: tuple[float, ...] = ()
    """Lower ends of their 95 % intervals; empty if there are none."""
    high: tuple[float, ...] = ()
    """Upper ends."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless every point has all of its numbers."""
        wanted = {len(self.x)}
        ends = {len(self.low), len(self.high)}
        if len(self.y) not in wanted or ends not in ({0}, wanted):
            raise ConfigError(
                f"every point of the series {self.name} must have x and y, and both ends of an "
                f"interval or neither; got {len(self.x)} x, {len(self.y)} y, {len(self.low)} low, "
                f"{len(self.high)} high."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Lines that are drawn together."""

    title: str
    """What they have in common."""
    series: tuple[Series, ...]
    """The lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Panels of lines, with the same axes throughout."""

    x: Axis
    y: Axis
    panels: tuple[Panel, ...]
    mark: Mark = "line"
    """What a series is drawn as: a line through its points, or a bar at each, as in a histogram."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Numbers in rows and columns, under a title."""

    title: str
    """What this one is of."""
    cells: tuple[tuple[float, ...], ...]
    """The numbers, row by row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """Tables of the same rows and columns, as shaded cells with their numbers."""

    rows: Axis
    columns: Axis
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    value: Axis
    """What the numbers are."""
    tables: tuple[Table, ...]
    outlined: bool = False
    """Whether the diagonal is a reference: other cells show their difference to it in their row."""
    confusion: bool = False
    """Whether the diagonal counts what is right: it does not affect the shades of the mistakes."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless every table has a cell for every row and column."""
        wanted = [len(self.column_names)] * len(self.row_names)
        for table in self.tables:
            if [len(row) for row in table.cells] != wanted:
                raise ConfigError(
                    f"the table {table.title} must have {len(wanted)} rows of "
                    f"{len(self.column_names)} cells, one for each name; got rows of "
                    f"{', '.join(str(len(row)) for row in table.cells) or 'nothing'}."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Numbers of one kind, one for each name."""

    name: str
    """What the legend calls them."""
    numbers: tuple[float, ...]
    """In the order of the names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Bars beside their names, in groups; on a logarithmic axis they begin at 1 or below."""

    names: tuple[str, ...]
    """What each bar, or each bundle of bars, is of."""
    label: str
    """What the names are."""
    value: Axis
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless every group has a number for every name."""
        for group in self.groups:
            if len(group.numbers) != len(self.names):
                raise ConfigError(
                    f"the group {group.name} must have {len(self.names)} numbers, one for each "
                    f"name; got {len(group.numbers)}."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Relief:
    """Heights over the points of a plane, panels of the same axes: as filled contours."""

    x: Axis
    y: Axis
    height: Axis
    at_x: tuple[float, ...]
    at_y: tuple[float, ...]
    tables: tuple[Table, ...]
    """Heights, a row for each y from the lowest on, a cell for each x."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless every table has a height for every point."""
        wanted = [len(self.at_x)] * len(self.at_y)
        for table in self.tables:
            if [len(row) for row in table.cells] != wanted:
                raise ConfigError(
                    f"the relief {table.title} must have {len(wanted)} rows of {len(self.at_x)} "
                    "heights, one for each point; got rows of "
                    f"{', '.join(str(len(row)) for row in table.cells) or 'nothing'}."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """Grey images one after the other, under a title."""

    title: str
    """What is seen."""
    frames: tuple[str, ...]
    """Images, height times width bytes each (0 black, 255 white), in base64."""
    captions: tuple[str, ...]
    """Words under each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """Films of images of one size, to be seen side by side or played."""

    height: int
    width: int
    films: tuple[Film, ...]

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless every frame is an image of the size, with its words."""
        size = self.height * self.width
        for film in self.films:
            if len(film.frames) != len(film.captions):
                raise ConfigError(
                    f"every frame of {film.title} must have a caption; got {len(film.frames)} "
                    f"frames and {len(film.captions)} captions."
                )
            for number, frame in enumerate(film.frames):
                if (length := bytes_in(frame)) != size:
                    raise ConfigError(
                        f"frame {number} of {film.title} must hold {size} bytes in base64, "
                        f"{self.height} rows of {self.width}; it holds {length}."
                    )


Drawing = Curves | HeatMap | Lengths | Relief | Strip


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where numbers come from."""

    command: str
    """What was typed to get them."""
    seeds: tuple[int, ...]
    """The seeds of the networks behind them."""
    environment: Environment
    """What they were computed with."""
    others: tuple[Environment, ...] = ()
    """What some of them were computed with instead: another machine, version or share of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A drawing with its words."""

    name: str
    """What its file is called, without an ending."""
    title: str
    """What it shows, in a line."""
    caption: str
    """How to read it, and what it is measured on."""
    alternative: str
    """A description for readers who cannot see the figure."""
    drawing: Drawing
    provenance: Provenance
