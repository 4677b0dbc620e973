"""Figures as data: numbers with their units, words and provenance.

A figure holds all that a drawing of it needs, and its JSON has every number.
"""

from dataclasses import dataclass
from typing import Literal

from sparring.errors import ConfigError, SparringError
from sparring.records.environment import Environment
from sparring.records.evaluation import bytes_in, check_size

Scale = Literal["linear", "log", "even"]
Mark = Literal["line", "bar"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One axis of a drawing."""

    label: str
    unit: str = ""
    """Such as "updates" or "%"; empty for a number without one."""
    scale: Scale = "linear"
    """How values are laid out; "even" spaces the values that occur evenly, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a drawing."""

    name: str
    """Its name in the legend."""
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    """Lower ends of the 95 % intervals; empty if there are none."""
    high: tuple[float, ...] = ()
    """Upper ends."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless every point has all of its numbers."""
        wanted = {len(self.x)}
        ends = {len(self.low), len(self.high)}
        if len(self.y) not in wanted or ends not in ({0}, wanted):
            raise ConfigError.expected(
                f"every point of the series {self.name} must have x, y, and both ends of an "
                "interval or neither",
                f"{len(self.x)} x, {len(self.y)} y, {len(self.low)} low, {len(self.high)} high",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Lines that are drawn together."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Panels of lines, with the same axes throughout."""

    x: Axis
    y: Axis
    panels: tuple[Panel, ...]
    mark: Mark = "line"
    """A line through the points of each series, or a bar at each point, as in a histogram."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Numbers in rows and columns, under a title."""

    title: str
    cells: tuple[tuple[float, ...], ...]
    """The numbers, row by row."""


def _wrong_shape(kind: str, table: Table, rows: int, columns: int) -> SparringError:
    lengths = ", ".join(str(len(row)) for row in table.cells) or "none"
    rule = f"the {kind} {table.title} must have {rows} rows of {columns} numbers"
    return ConfigError.expected(rule, f"rows of {lengths}")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """Tables of the same rows and columns, as shaded cells with their numbers."""

    rows: Axis
    columns: Axis
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    value: Axis
    """The label and unit of the numbers."""
    tables: tuple[Table, ...]
    outlined: bool = False
    """Whether the diagonal is a reference: other cells show their difference to it in their row."""
    confusion: bool = False
    """Whether the diagonal counts correct ones, which do not affect the shades of the mistakes."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless every table has a cell for every row and column."""
        wanted = [len(self.column_names)] * len(self.row_names)
        for table in self.tables:
            if [len(row) for row in table.cells] != wanted:
                raise _wrong_shape("table", table, len(wanted), len(self.column_names))


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Numbers of one kind, one for each name, in the order of the names."""

    name: str
    """Its name in the legend."""
    numbers: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Bars beside their names, in groups; on a logarithmic axis they begin at 1 or below."""

    names: tuple[str, ...]
    """The name of each bar, or of the bars of all groups."""
    label: str
    """The heading of the names."""
    value: Axis
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless every group has a number for every name."""
        for group in self.groups:
            if len(group.numbers) != len(self.names):
                rule = f"the group {group.name} must have {len(self.names)} numbers"
                raise ConfigError.expected(rule, len(group.numbers))


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
                raise _wrong_shape("relief", table, len(wanted), len(self.at_x))


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """Grey images one after the other, under a title."""

    title: str
    frames: tuple[str, ...]
    """Images, height times width bytes each (0 black, 255 white), in base64."""
    captions: tuple[str, ...]
    """A text under each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """Films of images of one size, to be seen side by side or played."""

    height: int
    width: int
    films: tuple[Film, ...]

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless every frame is an image of the size, with its words."""
        check_size("a strip's images", self.height, self.width)
        size = self.height * self.width
        for film in self.films:
            if len(film.frames) != len(film.captions):
                raise ConfigError.expected(
                    f"every frame of {film.title} must have a caption",
                    f"{len(film.frames)} frames and {len(film.captions)} captions",
                )
            for number, frame in enumerate(film.frames):
                if (length := bytes_in(frame)) != size:
                    rule = f"frame {number} of {film.title} must have {size} bytes in base64"
                    raise ConfigError.expected(rule, length)


Drawing = Curves | HeatMap | Lengths | Relief | Strip


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """The origin of numbers."""

    command: str
    """The command that computes them; empty where none is known."""
    seeds: tuple[int, ...]
    """The seeds of the networks behind them."""
    environment: Environment
    others: tuple[Environment, ...] = ()
    """Environments in which some of them were computed instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A drawing with its words."""

    name: str
    """The name of its file, without an ending."""
    title: str
    caption: str
    """How to read it, and what it is measured on."""
    alternative: str
    """A description that screen readers read out."""
    drawing: Drawing
    provenance: Provenance
