"""Figures drawn into files: everything is on them, the same figure gives the same file."""

import math
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from records.figures import CURVES, DRAWINGS, HEAT_MAP, LENGTHS, RELIEF, STRIP, figure_of
from sparring.errors import ConfigError
from sparring.records import (
    Axis,
    Curves,
    Group,
    HeatMap,
    Lengths,
    Panel,
    Relief,
    Series,
    Strip,
    Table,
)
from sparring.report import draw
from sparring.report.chart import MANY, Chart
from sparring.report.direction import Direction, ticks_between
from sparring.report.panels import CurvePlan, LengthPlan, Shading, difference_text, in_lines
from sparring.report.style import (
    CONTRASTS,
    COUNTS,
    HUES,
    PAPER,
    SHADES,
    legible,
    luminance,
    saved,
    series_style,
    text_colour_on,
)

HOSTILE = "<img src=x onerror=alert(1)> $\\frac$ & \x00\x1b\ud800 </script>"


def words_of(path: Path) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ElementTree.parse(path).iter()]


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: type(drawing).__name__)
@pytest.mark.parametrize(
    ("ending", "first"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".PDF", b"%PDF")]
)
def test_every_drawing_is_a_dateless_file_of_the_format_of_its_ending(
    drawing, ending: str, first: bytes, tmp_path: Path
) -> None:
    before = dict(matplotlib.rcParams)
    for name in ("one", "other"):
        draw(figure_of(drawing), tmp_path / f"{name}{ending}")
    one, other = ((tmp_path / f"{name}{ending}").read_bytes() for name in ("one", "other"))
    assert one == other
    assert one.startswith(first)
    assert dict(matplotlib.rcParams) == before


def test_curves_have_their_words(tmp_path: Path) -> None:
    draw(figure_of(CURVES), tmp_path / "a.svg")
    words = words_of(tmp_path / "a.svg")
    expected = ["Title of figure", "one step", "eight steps", "fresh", "stale", "accuracy (%)"]
    assert set(expected) | {"staleness (updates)", "0", "1", "64"} <= set(words)


@pytest.mark.parametrize("count", [2, 3, 5, 9, 12])
@pytest.mark.parametrize("panels", [1, 2, 3])
@pytest.mark.parametrize("name", ["s = 0", "2 of 8 steps fresh", "the paper's text, rounded"])
def test_a_legend_is_on_the_page_in_as_few_rows_as_fit(
    count: int, panels: int, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pages = []

    def seen(page: Any, *words: Any) -> bytes:
        pages.append(page)
        return saved(page, *words)

    monkeypatch.setattr("sparring.report.drawing.saved", seen)
    names = [f"{name} {number}" for number in range(count)]
    series = tuple(Series(name=each, x=(1.0, 2.0), y=(3.0, 4.0)) for each in names)
    curves = replace(CURVES, panels=tuple(Panel(title="", series=series) for _ in range(panels)))
    bars = replace(
        LENGTHS,
        groups=tuple(Group(name=each, numbers=(1.0,) * len(LENGTHS.names)) for each in names),
    )
    for each in (curves, bars):
        draw(figure_of(each), tmp_path / "a.svg")
        page = pages[-1]
        (legend,) = page.legends
        page.draw_without_rendering()
        place = legend.get_window_extent()
        assert page.bbox.x0 <= place.x0 < place.x1 <= page.bbox.x1
        assert page.bbox.y0 <= place.y0 < place.y1 <= page.bbox.y1
        across = legend._ncols
        if across < count:
            wider = page.legend(handles=legend.legend_handles, ncols=across + 1)
            assert wider.get_window_extent().width > page.bbox.width


def test_cells_have_their_numbers(tmp_path: Path) -> None:
    draw(figure_of(HEAT_MAP), tmp_path / "a.svg")
    assert {
        "12.5",
        "+86.2",
        "+60.9",
        "0.4",
        "4 steps",
        "difference to the diagonal (points)",
    } <= set(words_of(tmp_path / "a.svg"))
    draw(figure_of(replace(HEAT_MAP, outlined=False)), tmp_path / "b.svg")
    assert {"12.5", "98.8", "61.2", "0.4", "right (%)"} <= set(words_of(tmp_path / "b.svg"))


def test_a_difference_has_a_sign_even_if_it_is_none() -> None:
    points = Axis(label="right", unit="%")
    signs = [difference_text(number, points) for number in (1.25, 0.0, -3.0)]
    assert signs == ["+1.2", "+0.0", "\N{MINUS SIGN}3.0"]


def test_films_have_their_first_and_last_frame(tmp_path: Path) -> None:
    draw(figure_of(STRIP), tmp_path / "a.svg")
    drawn = " ".join(words_of(tmp_path / "a.svg"))
    assert "frame 9" in drawn
    assert drawn.count("<image") == 0
    assert (tmp_path / "a.svg").read_text().count("<image") == 8 + 3


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: type(drawing).__name__)
def test_any_name_is_drawn_as_it_is(drawing, tmp_path: Path) -> None:
    named = {
        Curves: lambda it: replace(
            it,
            x=Axis(label=HOSTILE),
            panels=(Panel(title=HOSTILE, series=(Series(name=HOSTILE, x=(1.0,), y=(2.0,)),)),),
        ),
        HeatMap: lambda it: replace(it, row_names=(HOSTILE, HOSTILE), value=Axis(label=HOSTILE)),
        Lengths: lambda it: replace(it, names=(HOSTILE, HOSTILE), value=Axis(label=HOSTILE)),
        Relief: lambda it: replace(it, height=Axis(label=HOSTILE)),
        Strip: lambda it: replace(
            it, films=tuple(replace(film, title=HOSTILE) for film in it.films)
        ),
    }[type(drawing)](drawing)
    draw(replace(figure_of(named), title=HOSTILE, alternative=HOSTILE), tmp_path / "a.svg")
    assert "onerror" in " ".join(words_of(tmp_path / "a.svg"))


@pytest.mark.parametrize(
    "drawing",
    [
        Curves(x=Axis(label="x"), y=Axis(label="y"), panels=()),
        Curves(x=Axis(label="x"), y=Axis(label="y"), panels=(Panel(title="", series=()),)),
        Curves(
            x=Axis(label="x", scale="log"),
            y=Axis(label="y", scale="log"),
            panels=(Panel(title="", series=(Series(name="", x=(0.0,), y=(-1.0,)),)),),
        ),
        replace(HEAT_MAP, tables=()),
        replace(HEAT_MAP, row_names=(), column_names=(), tables=(Table(title="", cells=()),)),
        replace(RELIEF, at_x=(1.0,), tables=(Table(title="", cells=((1.0,), (1.0,))),)),
        replace(RELIEF, tables=(Table(title="flat", cells=((2.0,) * 3,) * 2),)),
        replace(LENGTHS, names=(), groups=()),
        replace(LENGTHS, groups=(Group(name="", numbers=(math.nan, 0.0)),)),
        replace(STRIP, films=()),
        replace(HEAT_MAP, tables=(Table(title="", cells=((math.nan, 1.0), (2.0, math.inf))),)),
        replace(
            CURVES,
            panels=(Panel(title="", series=(Series(name="", x=(0.0, 1.0), y=(math.nan, 1.0)),)),),
        ),
    ],
)
def test_a_drawing_with_little_in_it_is_drawn(drawing, tmp_path: Path) -> None:
    draw(figure_of(drawing), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").exists()


def test_an_even_axis_gives_each_value_the_same_room() -> None:
    even = Direction.of(Axis(label="x", scale="even"), (0.0, 64.0, 1.0, 8.0, 1.0))
    assert even.at((0.0, 1.0, 8.0, 64.0)) == [0.0, 1.0, 2.0, 3.0]
    assert even.at((36.0,)) == [2.5]
    assert Direction.of(Axis(label="x"), (0.0, 64.0)).at((36.0,)) == [36.0]


def test_nothing_at_or_below_zero_is_lost_on_a_logarithmic_axis() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    Direction.of(Axis(label="x", scale="log"), (0.0, 1.0, 1000.0)).lay(axes, "x")
    left, middle, right = (axes.transData.transform((x, 0.5))[0] for x in (0.0, 1.0, 1000.0))
    assert axes.bbox.x0 < left < middle < right < axes.bbox.x1


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1.0, 1000.0, [1, 10, 100, 1000]),
        (3.0, 30.0, [5, 10, 20]),
        (2.0, 7.0, [2, 3, 4, 5, 6, 7]),
        (85.0, 314.0, [100, 200, 300]),
        (1e-6, 1e9, [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6, 1e8]),
        (2.0, 2.5, [2.0, 2.5]),
        (4.0, 4.0, [4.0]),
        (-3.0, 0.0, []),
    ],
)
def test_a_logarithmic_axis_has_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert ticks_between(low, high) == ticks


def test_a_short_logarithmic_axis_has_plain_words(tmp_path: Path) -> None:
    series = Series(name="s", x=(1.0, 2.0), y=(3.0, 7.0))
    axis = Axis(label="a", scale="log")
    curves = Curves(x=axis, y=axis, panels=(Panel(title="", series=(series,)),))
    draw(figure_of(curves), tmp_path / "a.svg")
    words = words_of(tmp_path / "a.svg")
    assert {"1", "2", "3", "4", "5", "6", "7"} <= set(words)
    assert not any("$" in word for word in words)


def test_a_name_is_broken_between_words() -> None:
    assert in_lines("madry: extrapolated from 1 of 8 updates") == (
        "madry: extrapolated from\n1 of 8 updates"
    )
    assert in_lines("a-" * 20) == f"{'a-' * 12}\n{'a-' * 8}"


def test_a_bar_is_as_high_as_its_number() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    series = Series(name="updates", x=(0.0, 2.0, 3.0), y=(5.0, 10.0, 2.5))
    bars = replace(
        CURVES, x=Axis(label="x"), mark="bar", panels=(Panel(title="", series=(series,)),)
    )
    CurvePlan.of(bars).draw(axes, bars.panels[0])
    assert [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)] == [
        5.0,
        10.0,
        2.5,
    ]
    assert axes.get_ylim()[0] <= 0


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_a_lying_bar_ends_at_its_number_and_says_it(scale) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    lengths = replace(LENGTHS, value=Axis(label="times", scale=scale))
    LengthPlan.of(lengths).draw(axes)
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    base = 1.0 if scale == "log" else 0.0
    ends = [bar.get_x() + bar.get_width() for bar in bars]
    assert ends == pytest.approx([750.25, 0.875, 240.5, 9.5])
    assert {bar.get_x() for bar in bars} == {base}
    assert [text.get_text().strip() for text in axes.texts] == ["750", "0.875", "240", "9.5"]
    places = [bar.get_y() + bar.get_height() / 2 for bar in bars]
    assert places == pytest.approx([-0.2, 0.8, 0.2, 1.2])
    low, high = axes.get_xlim()
    assert low <= 0.875
    assert high > 750.25


def test_series_differ_in_colour_and_in_grey() -> None:
    styles = [series_style(number) for number in range(60)]
    assert len(set(styles)) == 60
    assert len({style.hue for style in styles[:10]}) == 10
    for one, other in pairwise(styles):
        assert one.hue != other.hue and one.dash != other.dash and one.marker != other.marker
    paper = luminance(to_rgb(PAPER))
    assert all((paper + 0.05) / (luminance(to_rgb(hue)) + 0.05) >= 4.5 for hue in HUES)


def panels_of(panels: int, names: tuple[str, ...]) -> Curves:
    series = tuple(Series(name=name, x=(1.0, 2.0), y=(3.0, 4.0)) for name in names)
    return replace(
        CURVES, panels=tuple(Panel(title=f"s = {n}", series=series) for n in range(panels))
    )


@pytest.mark.parametrize(
    ("curves", "titles"),
    [
        (CURVES, ["", ""]),
        (panels_of(12, ("fresh", "stale")), ["s", ""]),
        (panels_of(2, tuple("abcdefg")), ["", "s"]),
        (panels_of(5, ("right",)), ["s"]),
        (panels_of(1, ("same", "same", "same")), [""]),
        (panels_of(1, ("alone",)), []),
    ],
)
def test_a_chart_has_every_line_and_its_legends_distinguish_them(curves, titles) -> None:
    chart = Chart.of(curves)
    series = [one for panel in curves.panels for one in panel.series]
    assert [line.series for line in chart.lines] == series
    assert len(set(chart.names)) == len(series)
    assert sorted(legend.title for legend in chart.legends) == sorted(titles)
    for legend in chart.legends:
        assert sorted(n for entry in legend.entries for n in entry.lines) == [*range(len(series))]
        assert len({entry.name for entry in legend.entries}) == len(legend.entries)
        assert len({(e.hue, e.dash, e.marker) for e in legend.entries}) == len(legend.entries)
    styles = [chart.plan.styles[name] for name in chart.names]
    assert len({(style.hue, style.marker) for style in styles}) == len(styles)
    hidden = {n for legend in chart.legends for e in legend.entries if e.is_hidden for n in e.lines}
    shown = set(range(len(series))) - hidden
    assert 0 in shown
    assert len(series) - 1 in shown
    assert len(shown) <= MANY
    assert not hidden or len(series) > MANY


def test_series_of_panels_that_share_no_name_have_an_entry_each() -> None:
    first, second = (
        replace(
            panel, series=tuple(replace(one, name=f"{title} {one.name}") for one in panel.series)
        )
        for title, panel in zip("ab", panels_of(2, ("x", "y")).panels, strict=True)
    )
    legends = Chart.of(replace(CURVES, panels=(first, second))).legends
    assert [legend.title for legend in legends] == ["s = 0", "s = 1"]
    assert [entry.lines for legend in legends for entry in legend.entries] == [
        (0,),
        (1,),
        (2,),
        (3,),
    ]


def test_single_points_have_no_line_in_the_legend() -> None:
    point, line = (
        Series(name="point", x=(1.0,), y=(2.0,)),
        Series(name="line", x=(1.0, 2.0), y=(3.0, 4.0)),
    )
    panels = tuple(Panel(title="", series=series) for series in ((point, line), (point,)))
    keys = CurvePlan.of(replace(CURVES, panels=panels)).keys()
    assert {key.get_label(): key.get_linestyle() for key in keys} == {"point": "None", "line": "--"}


def test_numbers_in_cells_stand_out_from_every_shade() -> None:
    for shades, step in product((SHADES, CONTRASTS, COUNTS), range(256)):
        shade = colormaps[shades](step)
        light, dark = sorted((luminance(shade), 1.0 if text_colour_on(shade) == "white" else 0.0))[
            ::-1
        ]
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_shades_use_the_range_that_matters() -> None:
    tables = (Table(title="", cells=((20.0, 30.0), (22.0, 27.0))),)
    chart = replace(HEAT_MAP, outlined=False, tables=tables)
    ends = {
        name: (norm.vmin, norm.vmax)
        for name, norm in (
            ("plain", Shading.of_cells(chart).norm),
            ("differences", Shading.of_cells(replace(chart, outlined=True)).norm),
            ("mistakes", Shading.of_cells(replace(chart, confusion=True)).norm),
        )
    }
    assert ends == {"plain": (20, 30), "differences": (-10, 10), "mistakes": (0, 30)}


def test_a_character_that_no_file_can_hold_is_replaced() -> None:
    assert legible("a\tb\n\x00\ud800é日") == "a b\n\ufffd\ufffdé日"


def test_another_ending_is_refused(tmp_path: Path) -> None:
    for drawing, ending in product(DRAWINGS, (".gif", "")):
        with pytest.raises(ConfigError, match=r"must end in \.svg, \.png, \.pdf"):
            draw(figure_of(drawing), tmp_path / f"a{ending}")
    assert not list(tmp_path.iterdir())
