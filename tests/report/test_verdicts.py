"""Evaluations of runs side by side: what tells the rows apart, and those on other data."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from report.pages import a_run, an_evaluation, some_outcomes
from sparring.cli.evaluate import FORM
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


def shown_command(run: RunDirectory, found: Evaluation) -> str:
    """The command under the figures of classes, where this evaluation is the verdict."""
    found.save(run.evaluation)
    return RunStory.read(run).by_class[0].provenance.command


def test_the_command_of_the_figures_of_classes_makes_that_evaluation(run):
    one = replace(an_evaluation(), seed=4, classes=(1, 3), threat="L2 8/255", own_threat=False)
    run.write_class_names(("cat", "dog", "1", "2"))
    command = shown_command(run, replace(one, findings=None, suite="pgd"))
    flags, word = FORM.read(shlex.split(command)[2:])
    assert word == str(run.path)
    assert (flags.suite, flags.images, flags.seed, flags.classes) == ("pgd", 200, 4, ("dog", "3"))
    assert (flags.threat, flags.eps, flags.no_checks) == ("l2", (8 / 255,), True)
    assert flags.precision == "bf16"
    plain = shown_command(run, replace(an_evaluation(), precision="fp32", seed=0))
    name = shlex.quote(str(run.path))
    assert plain == f"sparring evaluate {name} --suite standard --images 200"


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "my own"},
        {"method": "0123"},
        {"threat": "Corners 0.3", "own_threat": False},
        {"weights": "0123"},
    ],
)
def test_an_evaluation_that_no_command_makes_has_none(change, run):
    assert shown_command(run, replace(an_evaluation(), **change)) == ""
    assert "command" not in words(run).partition("Accuracy of each class")[2]


def test_outcomes_of_another_evaluation_are_left_out_with_a_notice(run):
    assert "Notice. outcomes.json" not in words(run)
    for change in (
        {"labels": some_outcomes().labels[::-1]},
        {"adversarial": some_outcomes().natural},
    ):
        replace(some_outcomes(), **change).save(run.outcomes)
        story = RunStory.read(run)
        assert (story.by_class, story.examples) == ((), None)
        assert "Notice. outcomes.json is of another evaluation than evaluation.json" in words(run)


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
