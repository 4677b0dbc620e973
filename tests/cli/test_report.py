"""`sparring report` from the command line to the page, and its errors."""

import re
from pathlib import Path

import pytest

import sparring.cli.report
from records.figures import CURVES, study_of
from report.pages import a_run
from sparring.cli.main import main
from sparring.report.page import stories_in

MISTAKES = {
    "": "there is no folder runs here, where the newest run is looked for.",
    "nowhere": "nowhere does not exist. A study's folder must hold study.json.",
    "run-b": "run-b does not exist. Did you mean run-a?",
    "study nowhere": "nowhere does not exist.",
    "empty": "empty has no config.json",
    "damaged": "damaged/study.json must hold JSON; it is damaged",
    "run-a -o": "followed by one value each; got run-a -o.",
    "run-a --out": "--out must be followed by its value; got nothing.",
    "run-a -o report.pdf": "must end in .html or .htm; got report.pdf. Take report.html.",
    "run-a -o nowhere/a.html": "cannot write nowhere/a.html",
    "run-a -o folder.html": "a folder of this name is in the way",
    "run-a --output a.html": "has no flag --output. Did you mean --out?",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, a study, and folders that are neither."""
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path / "run-a")
    for name in ("study", "empty", "damaged", "folder.html"):
        (tmp_path / name).mkdir()
    study_of([CURVES]).save(tmp_path / "study" / "study.json")
    (tmp_path / "damaged" / "study.json").write_text('{"study": ')
    return tmp_path


def listing(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_gives_one_sentence_and_writes_nothing(line, folder, capsys):
    before = listing(folder)
    assert main(["report", *line.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert MISTAKES[line] in shown.err
    assert listing(folder) == before


def test_runs_and_studies_become_one_page(folder, capsys):
    words = ["run-a", "study", "run-a", "study/study.json", "run-a/config.json"]
    assert main(["report", *words, "-o", "a page.html"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    wrote, after = shown.out.splitlines()
    assert re.fullmatch(r"wrote a page\.html, 0\.\d MB, 2 sections", wrote)
    assert after == "next: python -m webbrowser 'a page.html'"
    assert "<h1>1 study, 1 run</h1>" in (folder / "a page.html").read_text()
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_a_folder_stands_for_the_runs_and_studies_in_it(folder):
    for name in ("short/staleness", "short/cycling"):
        (folder / "all" / name).mkdir(parents=True)
        study_of([CURVES]).save(folder / "all" / name / "study.json")
    a_run(folder / "all" / "short" / "networks" / "k1")
    assert stories_in("all") == stories_in("all/short")
    assert [path.name for path in stories_in("all")] == ["staleness", "cycling"]
    assert stories_in("run-a") == stories_in("run-a/config.json") == [Path("run-a")]


def test_a_damaged_run_of_a_folder_is_left_out_with_a_note(folder, capsys):
    for name in ("a", "b"):
        a_run(folder / "all" / name)
    (folder / "all" / "b" / "evaluation.json").write_text('{"suite": ')
    assert main(["report", "all"]) == 0
    shown = capsys.readouterr()
    assert "1 section" in shown.out
    assert shown.err.startswith("left out: all/b/evaluation.json must hold JSON")
    assert shown.err.count("\n") == 1
    assert main(["report", "all", "all/b"]) == 2
    (folder / "all" / "a" / "config.json").write_text("{")
    assert main(["report", "all"]) == 2
    assert "error: all/a/config.json" in capsys.readouterr().err


def test_without_words_it_is_the_newest_run_and_report_html(folder, capsys):
    a_run(folder / "runs" / "new")
    assert main(["report"]) == 0
    assert "<h1>runs/new</h1>" in (folder / "report.html").read_text()
    assert capsys.readouterr().out.startswith("wrote report.html, ")


def test_an_unusually_large_page_says_what_made_it_large(folder, monkeypatch, capsys):
    monkeypatch.setattr(sparring.cli.report, "USUAL", 1000)
    assert main(["report", "study"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("wrote report.html")
    assert shown.err.startswith("warning: the page has ")
    assert "its largest figure is Title of Curves-0 of How stale?" in shown.err
    assert shown.err.count("\n") == 1
