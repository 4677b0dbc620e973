"""The page in Chromium: it runs, answers pointer and keyboard, and requests nothing."""

import csv
import os
import time
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from records.figures import study_of
from report.browser import AXE, chromium, complaints, emulate, forget, requested, resize
from report.pages import a_run
from sparring.records import (
    Curves,
    Figure,
    HeatMap,
    Lengths,
    Relief,
    Strip,
    StudyResult,
)
from sparring.report import read_story, write_page
from sparring.report.comparison import comparison_figures
from sparring.report.run_story import RunStory

pytestmark = pytest.mark.process

NAME = "<img src=x onerror=document.title='broken'>"


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> list[StudyResult | RunStory]:
    """A study with all drawings, and two runs, one of them with a hostile name."""
    folder = tmp_path_factory.mktemp("stories")
    runs = [a_run(folder / name, evaluated=name != NAME) for name in ("one", NAME)]
    return [study_of(), *(read_story(run.path) for run in runs)]


@pytest.fixture(scope="module")
def address(stories: list[StudyResult | RunStory], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(stories, path)
    return path.as_uri()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium")) as session:
        yield session


@pytest.fixture
def page(session: Any, address: str) -> Any:
    """The page, freshly opened as on a light desktop."""
    resize(session, 0)
    emulate(session, prefers_color_scheme="light")
    forget(session)
    requested(session)
    complaints(session)
    session.get(address)
    return session


def one(page: Any, selector: str) -> Any:
    return page.find_element("css selector", selector)


def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.02)


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(*keys).perform()


def key(name: str) -> str:
    from selenium.webdriver.common.keys import Keys

    return getattr(Keys, name)


def test_it_runs_without_complaints_and_asks_for_nothing(page: Any, address: str) -> None:
    assert page.title == "1 study, 2 runs \u2013 sparring"
    assert one(page, "h1").text == "1 study, 2 runs"
    assert complaints(page) == []
    asked = requested(page)
    assert address in asked
    assert {url for url in asked if not url.startswith("data:")} == {address}


def test_nothing_injected_can_load_or_run(page: Any) -> None:
    said = page.execute_async_script(
        """
        const done = arguments[0], refused = [];
        document.addEventListener("securitypolicyviolation", (event) => {
          refused.push(event.effectiveDirective);
          if (refused.length === 3) done(refused.sort());
        });
        const image = new Image();
        image.src = "http://127.0.0.1:9/x.png";
        fetch("http://127.0.0.1:9/").catch(() => {});
        document.body.insertAdjacentHTML("beforeend", "<a onclick='document.title=1'>x</a>");
        document.body.lastElementChild.click();  // some browsers check a handler only now
        """
    )
    assert said == ["connect-src", "img-src", "script-src-attr"]


def test_the_pointer_reads_a_curve(page: Any) -> None:
    from selenium.webdriver import ActionChains

    figure = one(page, "#s1-1")
    drawing = figure.find_element("css selector", ".drawing")
    data = page.execute_script(
        "return JSON.parse(arguments[0].textContent)", figure.find_element("css selector", ".data")
    )
    fresh = data["panels"][0]["series"][0]
    box = page.execute_script(
        """
        const svg = arguments[0].querySelector("svg"), [x, y] = arguments[1];
        arguments[0].scrollIntoView({block: "center"});
        const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
        const frame = arguments[0].getBoundingClientRect();
        return [at.x - frame.x - frame.width / 2, at.y - frame.y - frame.height / 2];
        """,
        drawing,
        fresh["at"][2],
    )
    ActionChains(page).move_to_element_with_offset(drawing, *map(round, box)).perform()
    reading = figure.find_element("css selector", ".reading").text
    assert "staleness (updates) 64" in reading
    assert "one step, fresh: 3.125 % [2.5, 4.75]" in reading
    assert "one step, stale: 85.38 %" in reading
    assert len(drawing.find_elements("css selector", "circle.spot")) == 2
    placed = page.execute_script(
        """
        const path = arguments[0].querySelector(".spot").getBoundingClientRect();
        const signs = [...arguments[0].querySelectorAll("use")];
        const drawn = signs.map((it) => it.getBoundingClientRect());
        const near = (it) => Math.hypot(it.x + it.width / 2 - path.x - path.width / 2,
                                        it.y + it.height / 2 - path.y - path.height / 2);
        return Math.min(...drawn.map(near));
        """,
        drawing,
    )
    assert placed < 1.5, "the reading is not where the point is drawn"


def test_arrow_keys_read_cells_and_heights(page: Any) -> None:
    heat_map, relief = (one(page, f"#s1-{number}") for number in (2, 3))
    for figure, keys, expected in (
        (
            heat_map,
            ("ARROW_RIGHT", "ARROW_DOWN"),
            ("judged b", "attacked a", "61.25", "difference to the diagonal (points): 60.88"),
        ),
        (relief, ("END", "ARROW_UP"), ("random 2.5", "gradient 0.75", "loss: 5.188")),
    ):
        page.execute_script("arguments[0].focus()", figure.find_element("css selector", ".drawing"))
        press(page, *map(key, keys))
        reading = figure.find_element("css selector", ".reading").text
        assert all(words in reading for words in expected), reading


def test_the_slider_and_the_button_move_a_film(page: Any) -> None:
    player = one(page, ".player")
    slider, words = (
        player.find_element("css selector", selector) for selector in ("input", ".frame-words")
    )
    first = player.find_element("css selector", "img").get_attribute("src")
    page.execute_script("arguments[0].focus()", slider)
    press(page, *[key("ARROW_RIGHT")] * 3)
    assert words.text == "filters frame 3"
    assert player.find_element("css selector", "img").get_attribute("src") != first
    assert slider.get_attribute("aria-valuetext") == "filters frame 3, images frame 2"
    button = player.find_element("css selector", "button")
    assert button.text == "Play"
    button.click()
    assert button.text == "Pause"
    until(lambda: words.text == "filters frame 9")
    until(lambda: button.text == "Play")
    button.click()
    until(lambda: words.text in ("filters frame 0", "filters frame 1"))
    button.click()
    assert button.text == "Play"


def test_with_reduced_motion_there_is_no_play_button(page: Any) -> None:
    emulate(page, prefers_reduced_motion="reduce")
    until(lambda: not one(page, ".play").is_displayed())
    assert one(page, ".player input").is_displayed()


def test_the_keyboard_reaches_everything_in_order(page: Any) -> None:
    press(page, key("TAB"))
    assert page.switch_to.active_element.get_attribute("class") == "skip"
    inside = "a[href], button, input, summary, [tabindex='0']"
    for number in (1, 4):
        figure = one(page, f"#s1-{number}")
        reachable = [it for it in figure.find_elements("css selector", inside) if it.is_displayed()]
        page.execute_script("arguments[0].focus()", reachable[0])
        for element in reachable:
            assert page.switch_to.active_element == element
            press(page, key("TAB"))
        names = {it.get_attribute("class") or it.tag_name for it in reachable}
        assert {"summary", "button"} | ({"drawing", "entry"} if number == 1 else {"play"}) <= names
    table = one(page, "#s1-1 table")
    page.execute_script("arguments[0].focus()", one(page, "#s1-1 summary"))
    assert not table.is_displayed()
    press(page, key("ENTER"))
    assert table.is_displayed()


def background(page: Any) -> str:
    return page.execute_script("return getComputedStyle(document.body).backgroundColor")


DARK, LIGHT = "rgb(20, 23, 28)", "rgb(255, 255, 255)"


def test_the_theme_button_says_what_it_does_and_is_remembered(page: Any) -> None:
    def press_it() -> None:
        page.execute_script("arguments[0].focus()", one(page, ".theme"))
        press(page, " ")

    assert (one(page, ".theme").text, background(page)) == ("Use dark theme", LIGHT)
    press_it()
    assert (one(page, ".theme").text, background(page)) == ("Use light theme", DARK)
    page.refresh()
    assert (one(page, ".theme").text, background(page)) == ("Use light theme", DARK)
    emulate(page, prefers_color_scheme="dark")
    press_it()
    assert (one(page, ".theme").text, background(page)) == ("Use dark theme", LIGHT)


def test_a_dark_system_gets_a_dark_page(page: Any) -> None:
    emulate(page, prefers_color_scheme="dark")
    assert background(page) == DARK
    until(lambda: one(page, ".theme").text == "Use light theme")


def hidden_lines(figure: Any) -> set[int]:
    parts = figure.find_elements("css selector", "[data-line]")
    displayed = {part.get_attribute("data-line"): part.is_displayed() for part in parts}
    return {int(number) for number, is_displayed in displayed.items() if not is_displayed}


def test_an_entry_of_the_legend_hides_its_lines_and_their_values(page: Any) -> None:
    figure = one(page, "#s1-1")
    drawing = figure.find_element("css selector", ".drawing")
    fresh = figure.find_elements("css selector", ".entry")[2]
    assert fresh.text == "fresh"
    assert hidden_lines(figure) == set()
    for pressed, hidden in (("false", {0}), ("true", set())):
        page.execute_script("arguments[0].focus()", fresh)
        press(page, " ")
        assert fresh.get_attribute("aria-pressed") == pressed
        assert hidden_lines(figure) == hidden
        page.execute_script("arguments[0].focus()", drawing)
        press(page, key("HOME"))
        reading = figure.find_element("css selector", ".reading").text
        assert ("fresh" in reading) is not hidden, reading
        assert "stale" in reading


TAKE = """
const done = arguments[0], taken = [];
navigator.clipboard.writeText = async (text) => { taken.push(text); };
for (const kind of ["csv", "svg"]) {
  for (const figure of document.querySelectorAll("figure.figure")) {
    figure.querySelector(`[data-take=${kind}]:not([data-save])`).click();
  }
}
setTimeout(() => done(taken), 0);
"""


def rows_of(figure: Figure) -> list[list[object]]:
    """The rows that the CSV of a figure must have."""
    match figure.drawing:
        case Curves(panels=panels):
            return [
                [panel.title, one.name, x, y, *([low, high] if one.low else ["", ""])]
                for panel in panels
                for one in panel.series
                for x, y, low, high in zip_longest(one.x, one.y, one.low, one.high)
            ]
        case HeatMap(row_names=rows, column_names=columns, tables=tables):
            pass
        case Relief(at_y=rows, at_x=columns, tables=tables):
            pass
        case Lengths(names=names, groups=groups):
            return [
                ["", name, group.name, group.numbers[place]]
                for place, name in enumerate(names)
                for group in groups
            ]
        case Strip(films=films):
            return [
                [film.title, number, caption]
                for film in films
                for number, caption in enumerate(film.captions, start=1)
            ]
    return [
        [table.title, row, column, value]
        for table in tables
        for row, cells in zip(rows, table.cells, strict=True)
        for column, value in zip(columns, cells, strict=True)
    ]


def test_every_figure_gives_its_numbers_as_csv_and_itself_as_svg(page: Any, stories: Any) -> None:
    one_entry = one(page, "#s1-1 .entry")
    page.execute_script("arguments[0].click()", one_entry)
    taken = page.execute_async_script(TAKE)
    figures = [
        *comparison_figures(stories[1:]),
        *(figure for story in stories for figure in figures_of(story)),
    ]
    assert len(taken) == 2 * len(figures)
    for figure, csv_text in zip(figures, taken, strict=False):
        head, *rows = csv.reader(StringIO(csv_text))
        expected = rows_of(figure)
        assert len(rows) == len(expected) > 0
        for row, wanted in zip(rows, expected, strict=True):
            assert len(row) == len(head)
            for cell, value in zip(row, wanted, strict=True):
                assert (float(cell) if isinstance(value, float) else cell) == (
                    value if isinstance(value, float) else str(value)
                )
    for figure, svg in zip(figures, taken[len(figures) :], strict=True):
        assert "var(" not in svg
        assert figure.title in "".join(ElementTree.fromstring(svg).itertext())


def figures_of(story: StudyResult | RunStory) -> list[Figure]:
    if isinstance(story, StudyResult):
        return list(story.figures)
    front = [figure for figure in story.figures if figure.name == "accuracy"]
    return [*story.by_class, *front, *(it for it in story.figures if it not in front)]


@pytest.mark.parametrize("width", [320, 380, 768])
def test_nothing_sticks_out_of_a_narrow_page(page: Any, width: int) -> None:
    resize(page, width)
    wide = page.execute_script(
        """
        const inside = (it) => it.closest(".scroll, .panel, .many, .skip");
        return [...document.querySelectorAll("body *")].filter(
          (it) => !inside(it) && it.getBoundingClientRect().right > innerWidth + 1
        ).map((it) => it.outerHTML.slice(0, 80));
        """
    )
    assert wide == []
    assert page.execute_script("return document.documentElement.scrollWidth") == width
    small = page.execute_script(
        """
        return Math.min(...[...document.querySelectorAll(".drawing text")].map(
          (it) => parseFloat(getComputedStyle(it).fontSize) * it.getScreenCTM().a || 99));
        """
    )
    assert small >= 8


def test_on_paper_and_without_script_films_are_rows_of_frames(page: Any, address: str) -> None:
    assert not one(page, ".row").is_displayed()
    emulate(page, media="print", prefers_color_scheme="dark")
    assert one(page, ".row").is_displayed()
    assert not one(page, ".player").is_displayed()
    assert not one(page, ".theme").is_displayed()
    assert len(page.find_elements("css selector", ".row .frames:first-of-type img")) == 8
    emulate(page)
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.get(address)
        assert one(page, ".row").is_displayed()
        assert not one(page, ".player").is_displayed()
        assert not one(page, ".theme").is_displayed()
        assert one(page, ".drawing svg").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


CONTRASTS = """
const parts = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
const light = (colour) => {
  const [r, g, b] = parts(colour).slice(0, 3).map((part) => part / 255).map(
    (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (it) => {
  for (; it; it = it.parentElement) {
    const colour = getComputedStyle(it).backgroundColor;
    if (parts(colour)[3] !== 0) return colour;
  }
  return "rgb(255, 255, 255)";
};
document.querySelectorAll("details").forEach((it) => { it.open = true; });
const drawn = (it) => (it.getAttribute("style") || "").includes("var(");
const inCell = (it) => it.localName === "text" && !drawn(it);
return [...document.querySelectorAll("body *")].filter((it) =>
  !inCell(it) && it.localName !== "script" && it.getClientRects().length &&
  [...it.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())
).map((it) => {
  const style = getComputedStyle(it);
  const pair = [light(it.localName === "text" ? style.fill : style.color), light(behind(it))];
  const [low, high] = pair.sort((one, other) => one - other);
  return [(high + 0.05) / (low + 0.05), it.localName, it.textContent.trim().slice(0, 40)];
}).sort((one, other) => one[0] - other[0]);
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_words_stand_out_from_what_is_behind_them(page: Any, theme: str) -> None:
    emulate(page, prefers_color_scheme=theme)
    found = page.execute_script(CONTRASTS)
    assert len(found) > 200
    assert [entry for entry in found if entry[0] < 4.5] == []


def test_everything_has_a_name_for_screen_readers(page: Any) -> None:
    found = page.execute_script(
        """
        const all = (selector) => [...document.querySelectorAll(selector)];
        const named = (it) => it.getAttribute("aria-label") || it.textContent.trim() ||
          (it.labels && it.labels.length);
        return {
          language: document.documentElement.lang,
          headings: all("h1, h2, h3, h4, h5, h6").map((it) => Number(it.localName[1])),
          silent: all("img").filter((it) => !it.alt).length,
          unnamed: all("button, input, summary, a, [role=group], [role=region]").filter(
            (it) => !named(it)).map((it) => it.outerHTML),
          drawings: all(".drawing svg").map(
            (it) => [it.getAttribute("role"), it.getAttribute("aria-label")]),
          figures: all("figure").map(
            (it) => document.getElementById(it.getAttribute("aria-labelledby")).textContent),
          mains: all("main").length,
        };
        """
    )
    assert found["language"] == "en"
    levels = found["headings"]
    assert levels[0] == 1
    assert levels.count(1) == found["mains"] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert found["silent"] == 0
    assert found["unnamed"] == []
    assert all(role == "img" and words for role, words in found["drawings"])
    assert "What is seen in Curves-0" in [words for _, words in found["drawings"]]
    assert "Title of Curves-0" in found["figures"]


def test_axe_finds_nothing(page: Any) -> None:
    script = Path(os.environ.get("SPARRING_AXE", AXE))
    if not script.is_file():
        pytest.skip("axe-core is not installed here: .ci/browser does it")
    page.execute_script(
        "document.querySelectorAll('details:not(figure details), #s1-1 details')"
        ".forEach((it) => { it.open = true; })"
    )
    page.execute_script(script.read_text())
    found = page.execute_async_script(
        "axe.run(document, {resultTypes: ['violations']}).then(arguments[0])"
    )
    violations = [
        (it["id"], it["help"], [node["html"][:120] for node in it["nodes"]][:3])
        for it in found["violations"]
    ]
    assert violations == []
