"""The page as text: it is complete, self-contained, and safe against hostile names."""

import json
import math
import re
import shlex
import subprocess
import sys
from base64 import b64decode, b64encode
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from records.figures import CURVES, DRAWINGS, HEAT_MAP, STRIP, figure_of, study_of
from report.pages import NOTICE, WHY, a_run, some_examples, some_weights
from sparring.errors import ConfigError, RunError
from sparring.records import (
    Curves,
    Evaluation,
    Film,
    HeatMap,
    Lengths,
    Panel,
    Relief,
    RunDirectory,
    Series,
    StudyResult,
)
from sparring.records.files import file_digest
from sparring.report import read_story, write_page
from sparring.report.comparison import comparison_figures
from sparring.report.images import amplification, data_uri, example_views
from sparring.report.run_story import RunStory

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    '" onload="alert(1)',
    "{{ 7 * 7 }} {% raw %}",
    "<!-- <script> ]]>",
    "\x00\ud800",
)


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        (self.scripts if self.found and self.cdata_elem == "script" else self.text).append(data)


def page_of(*stories: StudyResult | RunStory, folder: Path) -> str:
    write_page(stories, folder / "page.html")
    return (folder / "page.html").read_text()


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> list[StudyResult | RunStory]:
    """A study with all drawings, and a run."""
    return [study_of(), read_story(a_run(tmp_path_factory.mktemp("stories") / "a run").path)]


@pytest.fixture(scope="module")
def whole(stories: list[StudyResult | RunStory], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Their page."""
    return page_of(*stories, folder=tmp_path_factory.mktemp("page"))


def without_figures(run: RunDirectory) -> RunStory:
    return replace(RunStory.read(run), figures=(), by_class=(), rows=(), environment=None)


def numbers_of(drawing: object) -> list[float]:
    match drawing:
        case Curves():
            series = [one for panel in drawing.panels for one in panel.series]
            return [n for one in series for n in (*one.x, *one.y, *one.low, *one.high)]
        case HeatMap():
            return [n for table in drawing.tables for row in table.cells for n in row]
        case Lengths():
            return [n for group in drawing.groups for n in group.numbers]
        case Relief():
            cells = [n for table in drawing.tables for row in table.cells for n in row]
            return [*cells, *drawing.at_x, *drawing.at_y]
    return []


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: type(drawing).__name__)
def test_every_number_of_a_figure_is_in_its_table(drawing, tmp_path: Path) -> None:
    text = page_of(study_of([drawing]), folder=tmp_path)
    tables = " ".join(re.findall(r"<table>.*?</table>", text, flags=re.DOTALL))
    listed = re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"<[^>]*>", " ", tables))
    for number in numbers_of(drawing):
        assert f"{number:g}" in listed


def test_every_word_of_a_study_is_on_its_page(tmp_path: Path) -> None:
    study = study_of()
    page = page_of(study, folder=tmp_path)
    text = Elements(page).words
    for figure in study.figures:
        assert figure.title in text
        assert figure.caption in text
    for claim in study.claims:
        assert claim.paper in text
        assert claim.found in text
    states = re.findall(r'class="verdict \w+">([^<]*)<', page)
    assert states == ["holds", "does not hold", "no verdict"]
    assert study.provenance.command in text
    assert "3, 14" in text
    assert re.search(r"fresh\s+3\s+30\s+120\s+25.0 %", text)


def test_a_claim_on_the_way_says_how_far_its_networks_are(tmp_path: Path) -> None:
    study = study_of([])
    claim = replace(study.claims[0], so_far="s = 64: 40,000 of 60,000 updates")
    text = Elements(page_of(replace(study, claims=(claim,)), folder=tmp_path)).words
    assert "so far: holds s = 64: 40,000 of 60,000 updates" in text


def test_one_study_on_two_machines_or_scales_has_different_names(tmp_path: Path) -> None:
    study = study_of()
    where = study.provenance.environment
    there = replace(study.provenance, environment=replace(where, processor="Another"))
    study = replace(study, figures=())
    stories = (study, replace(study, scale="paper"), replace(study, provenance=there))
    headings = re.findall(r"<h2>(.*?)</h2>", page_of(*stories, folder=tmp_path))
    assert headings == [
        f"{study.title} ({scale}, {processor})"
        for scale, processor in (
            (study.scale, where.processor),
            ("paper", where.processor),
            (study.scale, "Another"),
        )
    ]


def test_every_word_of_a_run_is_on_its_page(stories: Any, whole: str) -> None:
    shown = Elements(whole).words
    run = stories[1]
    for words in (
        "98.0 % [95.0, 99.2]",
        "90.0 % [85.1, 93.4]",
        "15.5 % [11.1, 21.2]",
        "apgd-ce 90.5 %",
        "1 min 15 s",
        WHY,
        NOTICE,
        "targeted attacks have 9 targets at most",
        "500 of 500 updates",
        f"sparring train --config '{run.name}'",
        "Linf, eps 0.3",
        "4 \u2192 9 by square",
        "7 \u2192 2 by apgd-ce",
        "1 robust",
        "the difference (4 times)",
        "Accuracy of each class",
        "bf16, then fp32",
    ):
        assert words in shown


@pytest.mark.parametrize("findings", [None, ()])
def test_checks_that_looked_at_nothing_are_on_the_page(findings: None, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    found = replace(Evaluation.load(run.evaluation), findings=findings)
    found.save(run.evaluation)
    for count in (1, 2):
        page = page_of(*[without_figures(run)] * count, folder=tmp_path)
        assert found.checks in page
        assert "flagged" not in "".join(Elements(page).text)
    assert "not checked" in page


def test_a_verdict_on_earlier_weights_is_called_so(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    replace(Evaluation.load(run.evaluation), weights=file_digest(run.weights)).save(run.evaluation)
    assert "earlier weights" not in page_of(without_figures(run), folder=tmp_path)
    some_weights(run, value=1.0)
    assert "earlier weights" in page_of(without_figures(run), folder=tmp_path)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_run_without_whole_weights_is_not_called_complete(is_there: bool, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    replace(Evaluation.load(run.evaluation), weights=file_digest(run.weights)).save(run.evaluation)
    run.resume.touch()
    whole = page_of(without_figures(run), folder=tmp_path)
    assert "Run, complete: 500 of 500 updates." in whole
    assert "weights.safetensors" not in whole
    run.weights.unlink()
    if is_there:
        run.weights.write_bytes(b"damaged")
    text = page_of(without_figures(run), folder=tmp_path)
    assert "Run, not finished: 500 of 500 updates." in text
    fault = f"weights.safetensors is {'damaged' if is_there else 'missing'}. Resume the run: "
    assert f"{fault}sparring train --resume {shlex.quote(str(run.path))}" in unescape(text)
    assert "earlier weights" not in text


def test_a_run_whose_last_updates_are_not_stored_is_not_called_complete(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    some_weights(run, version=400)
    told = "Run, not finished: 500 of 500 updates, weights of update 400."
    assert told in page_of(without_figures(run), folder=tmp_path)


def test_a_runs_curves_are_means_of_its_log(tmp_path: Path) -> None:
    story = read_story(a_run(tmp_path / "run").path)
    assert isinstance(story, RunStory)
    figures = {figure.name: figure.drawing for figure in story.figures}
    assert list(figures) == ["accuracy", "loss", "learning-rate", "eps", "staleness"]
    loss, staleness, accuracy = figures["loss"], figures["staleness"], figures["accuracy"]
    assert (
        isinstance(loss, Curves) and isinstance(staleness, Curves) and isinstance(accuracy, Curves)
    )
    (line,) = loss.panels[0].series
    assert line.x[0] == 3 and line.x[-1] == 500 and len(line.x) <= 200
    assert line.y[0] == pytest.approx(2.0 - 2 / 400)
    (bars,) = staleness.panels[0].series
    assert (bars.x, bars.y) == ((0, 1, 2, 3, 4), (1, 1, 1, 1, 496))
    robust = accuracy.panels[0].series[2]
    assert (robust.x, robust.y) == ((250,), (25.0,))
    assert robust.low[0] == pytest.approx(20.1, abs=0.05)
    assert [one.y for one in accuracy.panels[1].series] == [(75.0,), (50.0,)]


def test_a_run_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", evaluated=False, staleness=0)
    assert "staleness 0 throughout" in page_of(read_story(run.path), folder=tmp_path)
    for path in (run.metrics, run.environment, run.weights):
        path.unlink()
    text = page_of(read_story(run.path), folder=tmp_path)
    assert "Not evaluated yet." in text
    assert "0 of 500 updates" in text


def test_several_runs_are_compared_in_one_table(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / name, evaluated=name != "c") for name in ("a", "b", "c")]
    stories = [without_figures(run) for run in runs]
    text = page_of(study_of([]), *stories, folder=tmp_path)
    table = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text[text.index('id="verdicts"') :]))
    assert re.search(r"/a 98.0 % .*? 90.0 % .*? 15.5 % .*? standard Linf 0.3 200 5 1 ", table)
    assert re.search(r"/c not evaluated", table)
    assert "<h1>1 study, 3 runs</h1>" in text
    assert "Verdicts" not in page_of(study_of([]), stories[0], folder=tmp_path)


def test_several_runs_are_compared_in_the_same_charts(tmp_path: Path) -> None:
    runs = [RunStory.read(a_run(tmp_path / name)) for name in ("a", "b")]
    figures = {figure.name: figure.drawing for figure in comparison_figures(runs)}
    assert list(figures) == [
        f"{what}-over-{along}" for what in ("loss", "accuracy") for along in ("updates", "time")
    ]
    for name, drawing in figures.items():
        assert isinstance(drawing, Curves)
        assert [panel.title for panel in drawing.panels] == ["a", "b"]
        for panel in drawing.panels:
            names = [one.name for one in panel.series]
            is_loss = name.startswith("loss")
            assert names == (["loss"] if is_loss else ["natural", "robust", "training"])
            last = panel.series[-1].x[-1]
            assert last == pytest.approx(500 if name.endswith("updates") else 500 * 0.3 / 60)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_out_of_its_place(name: str, tmp_path: Path) -> None:
    series = Series(name=name, x=(1.0,), y=(2.0,))
    drawings = (
        replace(CURVES, panels=(Panel(title=name, series=(series, replace(series, name="b"))),)),
        replace(HEAT_MAP, row_names=(name, "b"), tables=(replace(HEAT_MAP.tables[0], title=name),)),
        replace(
            STRIP, films=(Film(title=name, frames=STRIP.films[0].frames[:1], captions=(name,)),)
        ),
    )
    hostile, harmless = study_of(drawings, title=name), study_of(DRAWINGS[:2] + DRAWINGS[3:])
    provenance = replace(hostile.provenance, command=name)
    hostile = replace(
        hostile,
        study=name,
        claims=(replace(hostile.claims[0], paper=name, found=name),),
        figures=tuple(
            replace(figure, title=name, caption=name, alternative=name, provenance=provenance)
            for figure in hostile.figures
        ),
    )
    broken, whole = (Elements(page_of(study, folder=tmp_path)) for study in (hostile, harmless))
    kinds = {tag for tag, _ in whole.found} | {"clippath"}
    assert {tag for tag, _ in broken.found} <= kinds
    assert sum(tag == "script" for tag, _ in broken.found) == len(drawings) + 1
    assert not any(key.startswith("on") for _, attributes in broken.found for key in attributes)
    assert "49" not in broken.text
    data = [json.loads(script) for script in broken.scripts[:-1]]
    assert data[0]["panels"][0]["series"][0]["name"] == name
    assert data[2]["films"][0]["frames"][0]["caption"] == name


def test_a_hostile_folder_log_and_class_are_only_words(tmp_path: Path) -> None:
    run = a_run(tmp_path / "<img src=x onerror=alert(1)>")
    run.write_class_names(tuple(f"<img src=x onerror=alert({number})>" for number in range(9)))
    page = Elements(page_of(read_story(run.path), folder=tmp_path))
    assert not any("onerror" in attributes for _, attributes in page.found)
    text = "".join(page.text)
    assert NOTICE in text
    assert "<img src=x onerror=alert(4)> \u2192 9" in text


def test_the_page_names_nothing_outside_of_it(whole: str) -> None:
    text = whole
    for tag, attributes in Elements(text).found:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            value = attributes.get(name, "")
            assert not value or value.startswith(("#", "data:image/png;base64,")), (tag, value)
    assert not re.search(
        r"url\((?!#)|@import|https?:", re.sub(r"(?s)<script.*?</script>", "", text)
    )
    assert (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-" in text
    )


def test_a_number_that_is_none_does_not_stop_the_script(tmp_path: Path) -> None:
    series = Series(name="s", x=(0.0, 1.0), y=(math.nan, 2.0))
    drawings = [
        replace(CURVES, panels=(Panel(title="", series=(series,)),)),
        replace(
            HEAT_MAP, tables=(replace(HEAT_MAP.tables[0], cells=((math.inf, 1.0), (2.0, 3.0))),)
        ),
    ]
    scripts = Elements(page_of(study_of(drawings), folder=tmp_path)).scripts
    data = [json.loads(text, parse_constant=pytest.fail) for text in scripts[:-1]]
    assert data[0]["panels"][0]["series"][0]["y"] == [None, 2.0]
    assert data[1]["panels"][0]["cells"] == [[None, 1.0], [2.0, 3.0]]


def test_identifiers_differ_and_references_meet_one(tmp_path: Path) -> None:
    study = study_of((CURVES, HEAT_MAP, STRIP))
    found = Elements(page_of(study, study, folder=tmp_path)).found
    names = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(names) == len(set(names))
    wanted = {
        reference
        for _, attributes in found
        for value in attributes.values()
        for reference in re.findall(r"^#(.+)|url\(#(.+?)\)", value)
    }
    assert wanted
    assert {one or other for one, other in wanted} <= set(names)


def test_the_same_stories_give_the_same_page(stories: Any, whole: str, tmp_path: Path) -> None:
    assert page_of(*stories, folder=tmp_path) == whole


def test_drawings_have_the_colours_of_the_page(tmp_path: Path) -> None:
    text = page_of(study_of([CURVES]), folder=tmp_path)
    drawn = re.findall(r"<svg viewBox.*?</svg>", text, flags=re.DOTALL)
    assert len(drawn) == 1
    assert all("var(--hue-" in svg and "var(--ink)" in svg for svg in drawn)
    assert not re.search(r"(?:fill|stroke): #", " ".join(drawn))
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", text)) - {"--least", "--most"}
    assert all(f"{name}: light-dark(" in text for name in used)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_on_the_page_pixel_by_pixel(channels: int) -> None:
    pixels = bytes(range(7, 7 + 6 * channels))
    uri = data_uri(b64encode(pixels).decode(), 2, 3, channels)
    image = imread(BytesIO(b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert image.shape == ((2, 3) if channels == 1 else (2, 3, 3))
    assert [round(255 * float(value)) for value in image.flat] == list(pixels)


def test_the_difference_of_an_image_is_grey_where_nothing_changed(tmp_path: Path) -> None:
    story = read_story(a_run(tmp_path / "run").path)
    assert isinstance(story, RunStory) and story.examples is not None
    first = story.examples.images[0]
    still = replace(story.examples, images=(replace(first, attacked=first.clean),))
    (view,) = example_views(replace(story, examples=still))
    assert pixels_of(view.difference) == {128}
    assert amplification(still) == 1
    views = example_views(story)
    assert [view.is_broken for view in views] == [True, True, False]
    assert "apgd-ce" in views[0].fate, "what broke first comes first"
    assert all(pixels_of(view.difference) == {128 + 4 * 30} for view in views)
    assert amplification(some_examples()) == 4


def pixels_of(uri: str) -> set[int]:
    image = imread(BytesIO(b64decode(uri.removeprefix("data:image/png;base64,"))))
    return {round(255 * float(value)) for value in image.flat}


def test_classes_have_their_accuracies_and_mistakes(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.write_class_names(("cat", "dog", "emu"))
    story = RunStory.read(run)
    accuracies, mistakes = (figure.drawing for figure in story.by_class)
    assert isinstance(accuracies, Lengths) and isinstance(mistakes, HeatMap)
    assert accuracies.names == mistakes.row_names == ("cat", "dog", "emu")
    assert [group.numbers for group in accuracies.groups] == [(100, 100, 0), (100, 50, 0)]
    assert mistakes.tables[1].cells == ((164, 0, 0), (0, 16, 16), (4, 0, 0))
    run.outcomes.unlink()
    assert RunStory.read(run).by_class == ()


def test_the_contents_name_every_section(whole: str) -> None:
    page = Elements(whole)
    headings = {
        attributes["id"]
        for tag, attributes in page.found
        if tag in ("h3", "h4") and "id" in attributes
    }
    links = {attributes["href"][1:] for tag, attributes in page.found if tag == "a"}
    assert len(headings) > 10
    assert {name.removesuffix("-title") for name in headings} - links <= {"s2-c-1", "s2-c-2"}
    assert links - {"content"} <= {attributes.get("id") for _, attributes in page.found}


def test_the_largest_figure_of_a_page_is_named(tmp_path: Path) -> None:
    big = Series(name="s", x=tuple(map(float, range(900))), y=tuple(map(float, range(900))))
    figures = (
        figure_of(CURVES, "small"),
        figure_of(replace(CURVES, panels=(Panel(title="", series=(big,)),)), "big"),
    )
    written = write_page([replace(study_of(), figures=figures)], tmp_path / "a.html")
    assert written.largest == "Title of big of How stale?"
    assert 0 < written.largest_size < written.size == (tmp_path / "a.html").stat().st_size


def test_wrong_names_and_nothing_to_show_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.html or \.htm.*got .*a\.txt"):
        write_page([study_of()], tmp_path / "a.txt")
    with pytest.raises(ConfigError, match="needs a run or a study"):
        write_page([], tmp_path / "a.html")
    with pytest.raises(RunError, match="cannot write"):
        write_page([study_of()], tmp_path / "nowhere" / "a.html")
    with pytest.raises(RunError, match=r"does not exist\. A study's folder must hold study\.json"):
        read_story(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_a_study_is_found_in_its_folder(tmp_path: Path) -> None:
    study_of().save(tmp_path / "study.json")
    assert read_story(tmp_path) == study_of()


def test_reading_and_writing_a_page_needs_no_torch(tmp_path: Path) -> None:
    study_of([CURVES]).save(tmp_path / "study.json")
    program = (
        "import sys; from pathlib import Path; from sparring.report import read_story, write_page\n"
        f"write_page([read_story({str(tmp_path)!r})], Path({str(tmp_path / 'a.html')!r}))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
