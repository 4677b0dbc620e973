"""The page in a real Chromium: it runs, answers pointer and keyboard, and asks for nothing."""

import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from records.figures import study_of
from report.browser import AXE, chromium, complaints, emulate, forget, requested, resize
from report.pages import a_run
from sparring.report import read_story, write_page

pytestmark = pytest.mark.process

NAME = "<img src=x onerror=document.title='broken'>"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with all four drawings, two runs and a hostile name."""
    folder = tmp_path_factory.mktemp("page")
    runs = [a_run(folder / name) for name in ("one", NAME)]
    stories = (study_of(), *(read_story(run.path) for run in runs))
    write_page(stories, folder / "page.html")
    return (folder / "page.html").as_uri()


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
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.02)


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(*keys).perform()


def key(name: str) -> str:
    from selenium.webdriver.common.keys import Keys

    return getattr(Keys, name)


def test_it_runs_and_nobody_complains(page: Any, address: str) -> None:
    assert page.title == "1 study, 2 runs \u2013 sparring"
    assert one(page, "h1").text == "1 study, 2 runs"
    assert complaints(page) == []
    asked = requested(page)
    assert address in asked
    assert {url for url in asked if not url.startswith("data:")} == {address}


def test_nothing_that_gets_into_it_can_ask_for_anything_or_run(page: Any) -> None:
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
        document.body.lastElementChild.click();  // some browsers look at a handler only then
        """
    )
    assert said == ["connect-src", "img-src", "script-src-attr"]


def test_the_pointer_reads_a_curve(page: Any) -> None:
    from selenium.webdriver import ActionChains

    figure = one(page, "figure")
    drawing = figure.find_element("css selector", ".drawing")
    data = page.execute_script("return JSON.parse(arguments[0].textContent)", one(page, ".data"))
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
    assert "fresh 3.125 % [2.5, 4.75]" in reading
    assert "stale 85.375 %" in reading
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
    heat_map, relief = page.find_elements("css selector", "figure")[1:3]
    for figure, keys, expected in (
        (
            heat_map,
            ("ARROW_RIGHT", "ARROW_RIGHT", "ARROW_DOWN"),
            ("judged b", "attacked b", "0.375"),
        ),
        (relief, ("END", "ARROW_UP"), ("random 2.5", "gradient 0.75", "loss 5.1875")),
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


def test_who_wants_little_motion_has_no_play_button(page: Any) -> None:
    emulate(page, prefers_reduced_motion="reduce")
    until(lambda: not one(page, ".play").is_displayed())
    assert one(page, ".player input").is_displayed()


def test_the_keyboard_reaches_everything(page: Any) -> None:
    seen = []
    for _ in range(40):
        press(page, key("TAB"))
        seen.append(
            page.execute_script(
                "const it = document.activeElement; return it.className || it.type || it.localName"
            )
        )
    assert seen[:2] == ["skip", "theme live"]
    assert {"drawing", "range", "play", "summary", "scroll"} <= set(seen)
    summary = one(page, "figure summary")
    page.execute_script("arguments[0].focus()", summary)
    assert not one(page, "figure table").is_displayed()
    press(page, key("ENTER"))
    assert one(page, "figure table").is_displayed()


def background(page: Any) -> str:
    return page.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_the_toggle_changes_the_theme_for_good_and_says_so(page: Any) -> None:
    toggle = one(page, ".theme")
    assert (toggle.get_attribute("aria-pressed"), background(page)) == (
        "false",
        "rgb(255, 255, 255)",
    )
    page.execute_script("arguments[0].focus()", toggle)
    press(page, " ")
    assert toggle.get_attribute("aria-pressed") == "true"
    assert background(page) == "rgb(20, 23, 28)"
    page.refresh()
    assert one(page, ".theme").get_attribute("aria-pressed") == "true"
    emulate(page, prefers_color_scheme="dark")
    assert background(page) == "rgb(20, 23, 28)"
    toggle = one(page, ".theme")
    page.execute_script("arguments[0].focus()", toggle)
    press(page, " ")
    assert (toggle.get_attribute("aria-pressed"), background(page)) == (
        "false",
        "rgb(255, 255, 255)",
    )


def test_a_dark_system_gets_a_dark_page(page: Any) -> None:
    emulate(page, prefers_color_scheme="dark")
    assert background(page) == "rgb(20, 23, 28)"
    until(lambda: one(page, ".theme").get_attribute("aria-pressed") == "true")


@pytest.mark.parametrize("width", [320, 768])
def test_nothing_sticks_out_of_a_narrow_page(page: Any, width: int) -> None:
    resize(page, width)
    wide = page.execute_script(
        """
        const inside = (it) => it.closest(".scroll, .panel, .skip");
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


def test_who_does_not_see_it_is_told_what_is_there(page: Any) -> None:
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
    assert found["drawings"][0][1] == "one step: What is seen in Curves-0"
    assert found["figures"][0] == "Title of Curves-0"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(page: Any, theme: str) -> None:
    script = Path(os.environ.get("SPARRING_AXE", AXE))
    if not script.is_file():
        pytest.skip("axe-core is not installed here: .ci/browser does it")
    emulate(page, prefers_color_scheme=theme)
    page.execute_script("document.querySelectorAll('details').forEach((it) => { it.open = true; })")
    page.execute_script(script.read_text())
    found = page.execute_async_script(
        "axe.run(document, {resultTypes: ['violations']}).then(arguments[0])"
    )
    told = [
        (it["id"], it["help"], [node["html"][:120] for node in it["nodes"]][:3])
        for it in found["violations"]
    ]
    assert told == []
