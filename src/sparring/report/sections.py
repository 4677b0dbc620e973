"""The sections of a page, ready for its template: figures drawn, images, contents."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

from markupsafe import Markup

from sparring.records import Evaluation, Figure, StudyResult
from sparring.records.figure import Lengths, Strip
from sparring.report.chart import Legend, legends_of
from sparring.report.comparison import comparison_figures
from sparring.report.drawing import picked
from sparring.report.images import ExampleView, data_uri, example_views
from sparring.report.inline import Inline, Setting, inlined
from sparring.report.listings import Listing, listings
from sparring.report.run_story import RunStory
from sparring.report.style import legible

ROOM = 320
"""Points that a panel may have where two are beside each other."""
FEW = 6
"""Entries of a legend that fit above a chart of half the page's width."""
SECONDARY = frozenset({"loss", "learning-rate", "eps", "staleness"})
"""Figures of a run's training that are folded on a narrow screen."""

_BROKEN_OUT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
"""Characters that could end a script element, as JSON escapes."""


class Frame(NamedTuple):
    """An image with its words."""

    uri: str
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reel:
    """A film on the page."""

    title: str
    frames: Sequence[Frame]
    picked: Sequence[Frame]
    """The frames that are printed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A figure, drawn."""

    key: str
    """Its identifier on the page."""
    figure: Figure
    panels: Sequence[Inline]
    """Its drawings; none of a strip."""
    reels: Sequence[Reel]
    """Its films; only of a strip."""
    legends: Sequence[Legend]
    """Its series, where there is more than one."""
    is_bars: bool
    """Whether series are bars, which have no dash and no marker."""
    listings: Sequence[Listing]
    data: Markup
    """JSON for the page's script, safe in a script element."""

    @property
    def is_wide(self) -> bool:
        """Whether it needs the width of the page."""
        entries = sum(len(legend.entries) for legend in self.legends)
        return len(self.panels) != 1 or self.is_big or entries > FEW

    @property
    def is_big(self) -> bool:
        """Whether each of its panels needs the width of the page, or half of it."""
        return any(panel.width > ROOM for panel in self.panels)

    @property
    def note(self) -> str:
        """How to read cells that are compared with the diagonal."""
        data = self.panels[0].data if self.panels else {}
        if not data.get("difference"):
            return ""
        return f" Outlined: {data['value']}. Other cells: {data['difference']} of their row."

    @property
    def is_secondary(self) -> bool:
        """Whether it is folded on a narrow screen."""
        return self.figure.name in SECONDARY


class Content(NamedTuple):
    """A line of the contents."""

    key: str
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A study or a run on the page."""

    key: str
    """Its identifier on the page."""
    name: str
    study: StudyResult | None = None
    run: RunStory | None = None
    figures: Sequence[Shown] = ()
    by_class: Sequence[Shown] = ()
    """Figures of a run's verdict, class by class."""
    examples: Sequence[ExampleView] = ()
    """Clean and attacked images of a run."""

    @property
    def contents(self) -> list[Content]:
        """Everything in it that has a heading."""
        inside = [Content(shown.key, shown.figure.title) for shown in self.figures]
        if self.study:
            claims, networks = self.study.claims, self.study.networks
            return [
                *([Content(f"{self.key}-claims", "Claimed and found")] if claims else []),
                *inside,
                *([Content(f"{self.key}-networks", "Networks")] if networks else []),
            ]
        return [
            Content(f"{self.key}-verdict", "Verdict"),
            *([Content(f"{self.key}-images", "Images")] if self.examples else []),
            *([Content(f"{self.key}-classes", "Classes")] if self.by_class else []),
            Content(f"{self.key}-training", "Training"),
            *inside,
            Content(f"{self.key}-settings", "Settings"),
        ]

    def shown_in(self, words: str) -> list[Content]:
        """The figures of the page that show a figure or table of the paper named in `words`."""
        named = _numbered(words)
        return [
            Content(shown.key, ", ".join(sorted(found)))
            for shown in self.figures
            if (found := named & _numbered(shown.figure.title))
        ]


def _numbered(words: str) -> set[str]:
    """Figures and tables of the paper that a text names, such as Figure 3 for "Figures 3a, 3b"."""
    return {
        f"{kind} {number}"
        for kind, numbers in re.findall(r"(Figure|Table)s? ((?:\d+[a-z]?(?:, | and )?)+)", words)
        for number in re.findall(r"\d+", numbers)
    }


class Verdict(NamedTuple):
    """A row of the comparison."""

    section: Section
    found: Evaluation | None
    data: str = ""
    """The other data that were evaluated; empty for the run's own."""


def sections(stories: Sequence[StudyResult | RunStory]) -> list[Section]:
    """Everything drawn, in order. Cost: about 0.1 s for each panel."""
    titles = Counter(story.title for story in stories if isinstance(story, StudyResult))
    return [
        _section(f"s{number}", story, _name(story, titles))
        for number, story in enumerate(stories, start=1)
    ]


def _name(story: StudyResult | RunStory, titles: Mapping[str, int]) -> str:
    """The title; of one study at two scales or on two machines with both."""
    if isinstance(story, RunStory):
        return story.name
    if titles[story.title] == 1:
        return story.title
    return f"{story.title} ({story.scale}, {story.provenance.environment.processor})"


def verdicts(parts: Sequence[Section]) -> list[Verdict]:
    """All evaluations of all runs, each run's verdict first; empty unless there are several."""
    runs = [part for part in parts if part.run is not None]
    if len(runs) < 2:
        return []
    rows = []
    for part in runs:
        evaluations = part.run.evaluations if part.run else ()
        others = part.run.on_other_data if part.run else ()
        rows += [Verdict(part, found) for found in evaluations or (None,)]
        rows += [Verdict(part, found, data) for data, found in others]
    return rows


def comparison(stories: Sequence[StudyResult | RunStory]) -> list[Shown]:
    """Curves of all runs in the same charts; empty unless there are several."""
    runs = [story for story in stories if isinstance(story, RunStory)]
    return list(_drawn("c", comparison_figures(runs))) if len(runs) > 1 else []


def _section(key: str, story: StudyResult | RunStory, name: str) -> Section:
    figures = list(_drawn(key, story.figures))
    if isinstance(story, StudyResult):
        return Section(key=key, name=name, study=story, figures=figures)
    return Section(
        key=key,
        name=name,
        run=story,
        figures=figures,
        by_class=list(_drawn(f"{key}-c", story.by_class)),
        examples=example_views(story),
    )


def _drawn(key: str, figures: Iterable[Figure]) -> Iterator[Shown]:
    for number, figure in enumerate(figures, start=1):
        yield shown(f"{key}-{number}", figure)


def shown(key: str, figure: Figure) -> Shown:
    """A figure drawn for the page, under an identifier of its own."""
    drawing = figure.drawing
    panels = inlined(drawing, Setting(key=key, words=legible(figure.alternative)))
    reels = _reels(drawing) if isinstance(drawing, Strip) else []
    films = [
        {"title": reel.title, "frames": [frame._asdict() for frame in reel.frames]}
        for reel in reels
    ]
    data = {
        "name": PurePath(figure.name).name,
        "title": figure.title,
        "panels": [{"title": panel.title, **panel.data} for panel in panels],
        "films": films,
    }
    return Shown(
        key=key,
        figure=figure,
        panels=panels,
        reels=reels,
        legends=legends_of(drawing),
        is_bars=isinstance(drawing, Lengths) or getattr(drawing, "mark", "") == "bar",
        listings=listings(drawing),
        data=_json(data),
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


def _json(value: object) -> Markup:
    # JSON has neither infinity nor NaN.
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    text = json.dumps(finite)
    for letter, code in _BROKEN_OUT.items():
        text = text.replace(letter, code)
    return Markup(text)
