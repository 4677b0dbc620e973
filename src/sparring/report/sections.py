"""The sections of a page, ready for its template: figures drawn, and their numbers as tables."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from sparring.records import Evaluation, Example, Figure, StudyResult
from sparring.records.figure import Curves, Drawing, HeatMap, Lengths, Panel, Relief, Strip
from sparring.report.drawing import picked
from sparring.report.inline import Inline, Setting, data_uri, inlined
from sparring.report.panels import CurvePlan
from sparring.report.run_story import RunStory
from sparring.report.style import SeriesStyle, label, legible, short


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A table of words; the first of each row is its heading."""

    title: str
    """What it is of."""
    head: tuple[str, ...]
    """The headings of the columns."""
    rows: tuple[tuple[str, ...], ...]
    """The rows."""


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


ROOM = 300
"""Points that a panel may have where two are beside each other."""

_BROKEN_OUT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
"""What could end a script element, written as JSON may write it too."""


class Frame(NamedTuple):
    """An image with its words."""

    uri: str
    caption: str


class Pair(NamedTuple):
    """An image of an evaluation, clean and attacked, and what became of it."""

    clean: str
    attacked: str
    fate: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reel:
    """A film on the page."""

    title: str
    """What is seen."""
    frames: Sequence[Frame]
    """All of it."""
    picked: Sequence[Frame]
    """What stands for it on paper."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A figure, drawn."""

    key: str
    """Its identifier on the page."""
    figure: Figure
    """Its words and numbers."""
    panels: Sequence[Inline]
    """Its drawings; none of a strip."""
    reels: Sequence[Reel]
    """Its films; only of a strip."""
    styles: Mapping[str, SeriesStyle]
    """The series by name, where there is more than one."""
    is_bars: bool
    """Whether series are bars, which have no dash and no sign."""
    listings: Sequence[Listing]
    """Its numbers."""
    data: Markup
    """What the page's script reads, safe in a script element."""

    @property
    def is_wide(self) -> bool:
        """Whether it needs the width of the page."""
        return len(self.panels) != 1 or self.is_big

    @property
    def is_big(self) -> bool:
        """Whether each of its panels needs the width of the page."""
        return any(panel.width > ROOM for panel in self.panels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A study or a run on the page."""

    key: str
    """Its identifier on the page."""
    name: str
    """What it is called."""
    study: StudyResult | None = None
    """The study, if it is one."""
    run: RunStory | None = None
    """The run, if it is one."""
    figures: Sequence[Shown] = ()
    """What there is to see."""
    examples: Sequence[Pair] = ()
    """Clean and attacked images of a run."""


class Verdict(NamedTuple):
    """A row of the comparison."""

    section: Section
    found: Evaluation | None


def sections(stories: Sequence[StudyResult | RunStory]) -> list[Section]:
    """Everything drawn, in order. Cost: about 0.1 s for each panel."""
    titles = Counter(story.title for story in stories if isinstance(story, StudyResult))
    return [
        _section(f"s{number}", story, _name(story, titles))
        for number, story in enumerate(stories, start=1)
    ]


def _name(story: StudyResult | RunStory, titles: Mapping[str, int]) -> str:
    """What a section is called; one study at two scales or on two machines says which."""
    if isinstance(story, RunStory):
        return story.name
    if titles[story.title] == 1:
        return story.title
    return f"{story.title} ({story.scale}, {story.provenance.environment.processor})"


def verdicts(parts: Sequence[Section]) -> list[Verdict]:
    """All evaluations of all runs beside each other; empty unless there are several runs."""
    runs = [part for part in parts if part.run is not None]
    if len(runs) < 2:
        return []
    return [
        Verdict(part, found)
        for part in runs
        for found in ((part.run.evaluations if part.run else ()) or (None,))
    ]


def _section(key: str, story: StudyResult | RunStory, name: str) -> Section:
    drawn = [
        shown(f"{key}-{number}", figure) for number, figure in enumerate(story.figures, start=1)
    ]
    if isinstance(story, StudyResult):
        return Section(key=key, name=name, study=story, figures=drawn)
    return Section(key=key, name=name, run=story, figures=drawn, examples=_examples(story))


def shown(key: str, figure: Figure) -> Shown:
    """A figure drawn for the page, under an identifier of its own."""
    drawing = figure.drawing
    panels = inlined(drawing, Setting(key=key, words=legible(figure.alternative)))
    reels = _reels(drawing) if isinstance(drawing, Strip) else []
    plan = CurvePlan.of(drawing) if isinstance(drawing, Curves) else None
    films = [[frame._asdict() for frame in reel.frames] for reel in reels]
    return Shown(
        key=key,
        figure=figure,
        panels=panels,
        reels=reels,
        styles=plan.styles if plan and len(plan.styles) > 1 else {},
        is_bars=plan is not None and plan.curves.mark == "bar",
        listings=listings(drawing),
        data=_json({"panels": [panel.data for panel in panels], "films": films}),
    )


def _reels(strip: Strip) -> list[Reel]:
    reels = []
    for film in strip.films:
        frames = [
            Frame(data_uri(pixels, strip.height, strip.width), caption)
            for pixels, caption in zip(film.frames, film.captions, strict=True)
        ]
        few = [frames[number] for number in picked(film)]
        reels.append(Reel(title=film.title, frames=frames, picked=few))
    return reels


def _examples(story: RunStory) -> list[Pair]:
    found = story.examples
    if found is None:
        return []
    size = (found.height, found.width, found.channels)
    return [
        Pair(data_uri(one.clean, *size), data_uri(one.attacked, *size), _fate(one, story.classes))
        for one in found.images
    ]


def _fate(one: Example, classes: Sequence[str]) -> str:
    """What became of an image, in the names of its classes, or their numbers past those."""
    names = (one.label, one.natural, one.adversarial)
    label, natural, adversarial = (
        classes[number] if number < len(classes) else str(number) for number in names
    )
    if one.natural != one.label:
        return f"{label} taken for {natural} when clean"
    if one.broken_by is None:
        return f"{label} withstood all"
    return f"{label} taken for {adversarial}, {one.broken_by}"


def _json(value: object) -> Markup:
    # JSON has neither infinity nor NaN.
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    text = json.dumps(finite)
    for letter, code in _BROKEN_OUT.items():
        text = text.replace(letter, code)
    return Markup(text)
