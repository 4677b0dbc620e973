"""The numbers of figures as tables of words."""

from collections.abc import Iterator
from dataclasses import dataclass

from sparring.records.figure import Curves, Drawing, HeatMap, Lengths, Panel, Relief, Strip
from sparring.report.style import label, short


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A table of words; the first of each row is its heading."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def listings(drawing: Drawing) -> list[Listing]:
    """Every number of a drawing, a table for each panel; of films, every frame's words."""
    match drawing:
        case Curves():
            return [_curves(drawing, panel) for panel in drawing.panels]
        case HeatMap():
            return list(_heat_map(drawing))
        case Lengths():
            return [_lengths(drawing)]
        case Relief():
            return list(_relief(drawing))
        case Strip():
            return [_strip(drawing)]


def _curves(curves: Curves, panel: Panel) -> Listing:
    """A row for each place on x, a column for each series."""
    words: list[dict[float, str]] = []
    for one in panel.series:
        intervals = list(zip(one.low, one.high, strict=True)) or [None] * len(one.x)
        cells: dict[float, str] = {}
        for x, y, interval in zip(one.x, one.y, intervals, strict=True):
            range_text = f" [{short(interval[0])}, {short(interval[1])}]" if interval else ""
            cells[x] = "; ".join(filter(None, (cells.get(x), f"{short(y)}{range_text}")))
        words.append(cells)
    places = sorted({x for cells in words for x in cells})
    unit = f", {curves.y.unit}" if curves.y.unit else ""
    return Listing(
        title=panel.title or curves.y.label,
        head=(
            label(curves.x.label, curves.x.unit),
            *(f"{one.name}{unit}" for one in panel.series),
        ),
        rows=tuple((short(x), *(cells.get(x, "") for cells in words)) for x in places),
    )


def _heat_map(chart: HeatMap) -> Iterator[Listing]:
    corner = f"{chart.rows.label} / {chart.columns.label}"
    for table in chart.tables:
        rows = zip(chart.row_names, table.cells, strict=True)
        yield Listing(
            title=f"{table.title}: {label(chart.value.label, chart.value.unit)}",
            head=(corner, *chart.column_names),
            rows=tuple((name, *map(short, cells)) for name, cells in rows),
        )


def _lengths(lengths: Lengths) -> Listing:
    """A row for each name, a column for each group."""
    columns = [group.numbers for group in lengths.groups]
    rows = zip(lengths.names, *columns, strict=True)
    return Listing(
        title=label(lengths.value.label, lengths.value.unit),
        head=(lengths.label, *(group.name for group in lengths.groups)),
        rows=tuple((name, *map(short, numbers)) for name, *numbers in rows),
    )


def _relief(relief: Relief) -> Iterator[Listing]:
    corner = f"{relief.y.label} / {relief.x.label}"
    for table in relief.tables:
        rows = zip(relief.at_y, table.cells, strict=True)
        yield Listing(
            title=f"{table.title}: {label(relief.height.label, relief.height.unit)}",
            head=(corner, *map(short, relief.at_x)),
            rows=tuple((short(y), *map(short, heights)) for y, heights in rows),
        )


def _strip(strip: Strip) -> Listing:
    longest = max((len(film.captions) for film in strip.films), default=0)
    return Listing(
        title="frames",
        head=("frame", *(film.title for film in strip.films)),
        rows=tuple(
            (
                str(number + 1),
                *(
                    film.captions[number] if number < len(film.captions) else ""
                    for film in strip.films
                ),
            )
            for number in range(longest)
        ),
    )
