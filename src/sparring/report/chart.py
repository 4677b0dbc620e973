"""All lines of a figure in one chart, with legends whose entries can be switched off."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from sparring.records.figure import Curves, Drawing, Lengths, Panel, Series
from sparring.report.panels import CurvePlan
from sparring.report.style import DASHES, MARKERS, SeriesStyle, hues, series_style

MANY = 12
"""Lines that a chart shows at once; of more, some are hidden until they are chosen."""
SHOWN = (4, 2)
"""Entries of the legends of colours and of dashes that a chart with too many lines begins with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of a legend: its name and style, and the lines that it shows or hides."""

    name: str
    hue: int | None = None
    """Index of the colour in `HUES`; `None` if its lines have several colours."""
    dash: int | None = 0
    """Index of the line style in `DASHES`; `None` for single points."""
    marker: int | None = None
    """Index of the marker in `MARKERS`; `None` if its lines have several."""
    lines: tuple[int, ...]
    """Numbers of the lines."""
    is_hidden: bool = False
    """Whether the lines are hidden at first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Legend:
    """Entries under a title; a line is shown if no entry that names it is switched off."""

    title: str
    entries: tuple[Entry, ...]

    def starting_with(self, count: int) -> "Legend":
        """The same with `count` entries, evenly spaced, and the others hidden."""
        kept = _spread(len(self.entries), count)
        entries = [
            replace(entry, is_hidden=place not in kept) for place, entry in enumerate(self.entries)
        ]
        return replace(self, entries=tuple(entries))


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A series, and where it comes from."""

    panel: int
    """Number of its panel in the figure."""
    title: str
    """Title of that panel."""
    series: Series
    """The series as it is in the figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """The lines of all panels of a figure, drawn together."""

    plan: CurvePlan
    lines: tuple[Line, ...]
    names: tuple[str, ...]
    """What each line is called in the chart; all differ."""
    legends: tuple[Legend, ...]
    """None for a single line."""

    @classmethod
    def of(cls, curves: Curves) -> "Chart":
        """The chart of a figure.

        Series of the same name in several panels get two legends, one of the panels and one of the
        names: colours distinguish the panels, dashes and markers the names; the other way round if
        there are more names than dashes. Otherwise each line has its own entry.
        """
        lines = tuple(
            Line(panel=number, title=panel.title, series=series)
            for number, panel in enumerate(curves.panels)
            for series in panel.series
        )
        names = tuple(_names(lines))
        if _is_crossed(lines):
            styles, legends = _crossed(lines)
        else:
            styles, legends = _plain(lines, names)
        return cls(
            plan=replace(CurvePlan.of(curves), styles=dict(zip(names, styles, strict=True))),
            lines=lines,
            names=names,
            legends=legends if len(lines) > 1 else (),
        )

    @property
    def panel(self) -> Panel:
        """All lines, to be drawn by the plan."""
        named = zip(self.lines, self.names, strict=True)
        return Panel(title="", series=tuple(replace(line.series, name=n) for line, n in named))


def legends_of(drawing: Drawing) -> tuple[Legend, ...]:
    """The legends of a drawing; empty for a single series."""
    match drawing:
        case Curves():
            return Chart.of(drawing).legends
        case Lengths() if len(drawing.groups) > 1:
            entries = (
                Entry(name=group.name, hue=series_style(number).hue, lines=(number,))
                for number, group in enumerate(drawing.groups)
            )
            return (Legend(title="", entries=tuple(entries)),)
        case _:
            return ()


def _is_crossed(lines: Sequence[Line]) -> bool:
    """Whether a name occurs in several panels, and not the same one in all."""
    names = {line.series.name for line in lines}
    return len(names) > 1 and len({(line.panel, line.series.name) for line in lines}) > len(names)


def _names(lines: Sequence[Line]) -> Iterator[str]:
    """By series, panel, or both, as it takes; with a number where that is not enough."""
    several = len({line.panel for line in lines}) > 1
    one_name = len({line.series.name for line in lines}) == 1
    known: set[str] = set()
    for line in lines:
        if several and one_name:
            name = line.title
        elif several and _is_crossed(lines):
            name = f"{line.title}, {line.series.name}"
        else:
            name = line.series.name
        while name in known:
            name = f"{name} ({len(known) + 1})"
        known.add(name)
        yield name


def _plain(
    lines: Sequence[Line], names: Sequence[str]
) -> tuple[list[SeriesStyle], tuple[Legend, ...]]:
    """A colour, a dash and a marker for each line; a legend for each panel with several lines."""
    colours = hues(len(lines)) if len({line.title for line in lines}) in (1, len(lines)) else None
    styles: list[SeriesStyle] = []
    groups: dict[str, list[Entry]] = {}
    by_panel = len({line.panel for line in lines}) < len(lines)
    for number, (line, name) in enumerate(zip(lines, names, strict=True)):
        style = series_style(number)
        if colours:
            style = style._replace(hue=colours[number])
        if len(line.series.x) < 2:
            style = style._replace(dash=None)
        styles.append(style)
        entry = Entry(name=name, **style._asdict(), lines=(number,))
        groups.setdefault(line.title if by_panel else "", []).append(entry)
    if len(groups) == 1:
        return styles, (_titled("", *groups.values(), count=2 * SHOWN[0], of=len(lines)),)
    return styles, tuple(Legend(title=title, entries=tuple(e)) for title, e in groups.items())


def _crossed(lines: Sequence[Line]) -> tuple[list[SeriesStyle], tuple[Legend, ...]]:
    """Two legends: one of the colours, one of the dashes and markers."""
    panels = {line.panel: line.title for line in lines}
    series = {line.series.name: line.series.name for line in lines}
    keys = [(line.panel, line.series.name) for line in lines]
    coloured, dashed = (0, 1) if len(series) <= len(DASHES) else (1, 0)
    groups: list[dict[int, str] | dict[str, str]] = [panels, series]
    colours = dict(zip(groups[coloured], hues(len(groups[coloured])), strict=True))
    places = {key: place for place, key in enumerate(groups[dashed])}
    styles = [
        SeriesStyle(
            colours[key[coloured]],
            places[key[dashed]] % len(DASHES) if len(line.series.x) > 1 else None,
            places[key[dashed]] % len(MARKERS),
        )
        for key, line in zip(keys, lines, strict=True)
    ]
    legends: list[Legend] = [Legend(title="", entries=())] * 2
    for which in (coloured, dashed):
        entries = []
        for value, name in groups[which].items():
            of = tuple(number for number, key in enumerate(keys) if key[which] == value)
            if which == coloured:
                entries.append(Entry(name=name, hue=colours[value], lines=of))
            else:
                style = styles[of[0]]
                entries.append(Entry(name=name, dash=style.dash, marker=style.marker, lines=of))
        count = SHOWN[0] if which == coloured else SHOWN[1]
        legends[which] = _titled("", entries, count=count, of=len(lines))
    return styles, (legends[coloured], legends[dashed])


def _titled(title: str, entries: Sequence[Entry], *, count: int, of: int) -> Legend:
    """A legend whose title is what all names begin with; of many lines it shows some at first."""
    words = [entry.name.split(" ") for entry in entries]
    shared = sum(
        1 for _ in takewhile(lambda place: len(set(place)) == 1, zip(*words, strict=False))
    )
    if len(entries) > 1 and 0 < shared < min(map(len, words)):
        title = " ".join(words[0][:shared]).removesuffix("=").strip()
        entries = [
            replace(entry, name=" ".join(word[shared:]))
            for entry, word in zip(entries, words, strict=True)
        ]
    legend = Legend(title=title, entries=tuple(entries))
    return legend.starting_with(count) if of > MANY else legend


def _spread(count: int, kept: int) -> set[int]:
    """At most `kept` places out of `count`, evenly spaced, the first and the last among them."""
    if count <= kept or kept < 2:
        return set(range(count))
    return {round(place * (count - 1) / (kept - 1)) for place in range(kept)}
