"""Evaluations of runs side by side: what tells the rows apart, and those on other data."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from report.pages import a_run, an_evaluation
from sparring.cli.main import main
from sparring.records import Evaluation, RunDirectory
from sparring.records.files import file_digest
from sparring.report.comparison import comparison_figures
from sparring.report.page import page, read_story
from sparring.report.run_story import RunStory
from sparring.report.sections import sections

OTHER = "photographs-0123abcd"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run with three evaluations of its own, and one on other data."""
    made = a_run(tmp_path / "run")
    made.write_class_names(("cat", "dog"))
    one = an_evaluation()
    replace(one, seed=8).save(made.evaluation_files("seed")[0])
    replace(one, classes=(1, 2)).save(made.evaluation_files("some")[0])
    place = made.on_other_data(OTHER)
    place.path.mkdir(parents=True)
    replace(one, suite="pgd", seed=9).save(place.evaluation)
    return made


def words(*runs: RunDirectory) -> str:
    """The text of a page of these runs, without figures."""
    stories = [replace(RunStory.read(run), figures=(), by_class=(), rows=()) for run in runs]
    text = page(sections(stories))
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text[text.index("<main") :]))


def test_rows_of_the_verdicts_differ_where_the_evaluations_do(run, tmp_path):
    table = words(run, a_run(tmp_path / "other")).partition(" Verdicts run ")[2]
    for row in (
        "standard Linf 0.3 200 5 1",
        "standard Linf 0.3 200 8 1",
        "standard Linf 0.3 200 of the classes dog, 2 5 1",
        f"on other data, {OTHER} 98.0 %",
    ):
        assert row in table
    assert "pgd Linf 0.3 200 9 1" in table


def test_evaluations_on_other_data_are_on_the_page(run):
    told = words(run)
    on = "200 test images of the classes dog, 2"
    assert f"Also: suite standard within Linf 0.3 on {on}, seed 5" in told
    assert f"On other data, {OTHER}: suite pgd within Linf 0.3 on 200 test images, seed 9" in told
    for path in run.evaluations():
        path.unlink()
    assert "Not evaluated on its own data yet." in words(run)


def test_each_evaluation_of_earlier_weights_is_called_so(run, tmp_path):
    """Only that of the verdict, made after the others, is of the weights of now."""
    places = [run, run.on_other_data(OTHER)]
    for path in (path for place in places for path in place.evaluations()):
        weights = file_digest(run.weights) if path == run.evaluation else "0123"
        replace(Evaluation.load(path), weights=weights).save(path)
    told = words(run)
    assert "This verdict is of earlier weights" not in told
    summary = r"(?:Also|On other data, \S+): suite .*?(of earlier weights)? Suite"
    summaries = re.findall(summary, told)
    assert summaries == ["of earlier weights"] * 3
    table = words(run, a_run(tmp_path / "other")).partition(" Verdicts run ")[2]
    rows = table.partition("In brackets")[0]
    assert rows.count("/run , of earlier weights 98.0 %") == 2
    assert f"on other data, {OTHER}, of earlier weights 98.0 %" in rows
    assert rows.count("of earlier weights") == 3


def test_inspect_shows_evaluations_on_other_data(run, capsys):
    assert main(["inspect", str(run.path)]) == 0
    told = capsys.readouterr().out
    assert f"on other data, {OTHER}: suite pgd, Linf 0.3, 200 test images:" in told
    assert main(["inspect", str(run.path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["on_other_data"]
    assert (found["data"], found["evaluation"]["seed"]) == (OTHER, 9)


def test_charts_of_several_runs_have_the_seeds_of_all(tmp_path):
    runs = [a_run(tmp_path / name) for name in ("a", "b")]
    runs[0].config.write_text(json.dumps(json.loads(runs[0].config.read_text()) | {"seed": 3}))
    stories = [read_story(run.path) for run in runs]
    for figure in comparison_figures([one for one in stories if isinstance(one, RunStory)]):
        assert figure.provenance.seeds == (3, 7)
