"""`sparring study`, as its user types it."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparring.cli.main import main
from sparring.cli.study import SHOWN, StudyDisplay, forecast_text
from sparring.records import StudyResult
from sparring.records.display import Display
from sparring.studies import MAKES, RESULT, STUDIES, StudyRun, named_study
from sparring.studies.runner import Forecast
from studies.jobs import Doubling


@pytest.mark.process
@pytest.mark.usefixtures("forked_jobs")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "cycling" else pytest.mark.slow) for name in STUDIES],
)
def test_every_study_runs_at_smoke_and_says_what_it_found(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["study", "run", name, "--scale", "smoke", "--into", str(tmp_path), "--jobs", "2"]
    assert main(words) == 0
    said = capsys.readouterr()
    found = StudyResult.load(tmp_path / "smoke" / name / RESULT)
    assert found.study == name
    assert found.claims
    assert found.figures
    drawn = {path.stem for path in (tmp_path / "smoke" / name).glob("*.svg")}
    assert drawn == {figure.name for figure in found.figures}
    assert all(claim.holds is None for claim in found.claims)
    assert said.out.count("claimed") == len(found.claims)
    assert "no verdict: " in said.out
    ending = said.out.splitlines()[-2:]
    assert ending[0].startswith(f"wrote {tmp_path}")
    assert ending[1].startswith("next: sparring report")
    assert main(words) == 0
    assert capsys.readouterr().err == ""  # nothing was left to do
    assert main(["study", "show", name, "--scale", "smoke", "--into", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("claimed") == len(found.claims)
    assert shown.splitlines()[-1].startswith("next: sparring report")


@pytest.mark.process
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_study_with_a_sentence_and_its_processes(
    sent: signal.Signals, tmp_path: Path
) -> None:
    words = ["study", "run", "staleness", "--scale", "smoke", "--jobs", "1", "--into", "here"]
    with subprocess.Popen(
        [sys.executable, "-m", "sparring", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            until = time.monotonic() + 500
            while not list(tmp_path.glob("here/smoke/networks/*/metrics.jsonl")):
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.02)
            process.send_signal(sent)
            # The pipes close when the last process that writes to them has ended.
            out, err = process.communicate(timeout=500)
        finally:
            process.kill()
    assert process.returncode == 128 + sent, err
    assert out == ""
    *_, kept, last = err.splitlines()
    assert kept == f"finished work is kept; resume with: sparring {' '.join(words)}"
    assert last == "error: interrupted."


def test_a_study_has_the_names_of_its_figures_and_tables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("figure8", "fig8", "Fig. 8", "FIGURE-8"):
        assert named_study(name).name == "staleness"
    assert named_study("table1").name == "attacker-power"
    for figure, name in MAKES.items():
        number = figure[-1]
        assert re.search(rf"(Figures?|Table)[^;]*\b{number}\b", STUDIES[name].covers)
    assert main(["study", "list", "tab1"]) == 0
    assert "figure3, figure4, table1" in capsys.readouterr().out


def test_what_a_study_will_train_is_said_before_it_begins(tmp_path: Path) -> None:
    run = StudyRun(study=STUDIES["landscape"], scale="smoke", into=tmp_path)
    forecast = run.forecast()
    assert forecast == Forecast(networks=2, updates=16, seconds=None)
    told = forecast_text(Forecast(networks=2, updates=1960, seconds=7500), 2)
    assert told.startswith("2 networks to train, 1,960 updates in all, about 2 h 5 min with 2 jobs")


def test_list_and_show_tell_of_every_study_and_of_its_networks(capsys):
    assert main(["study", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name}\n" in listed for name in STUDIES)
    assert main(["study", "show", "staleness", "--scale", "paper"]) == 0
    shown = capsys.readouterr().out
    assert "s1024" in shown
    assert "60,000" in shown


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["walk"], "must be one of list, show, run; got .walk"),
        (["shwo"], "Did you mean show?"),
        (["run"], "needs the name of a study; got none"),
        (["run", "stalenes"], "got .stalenes.. Did you mean staleness?"),
        (["run", "staleness", "--scale", "larg"], "one of smoke, short, paper; got .larg"),
        (["run", "staleness", "--only", "s3"], "must be among s0, s1.*got s3"),
        (["run", "staleness", "--until", "0"], "--until must be 1 or more"),
        (["run", "staleness", "--jobs", "-1"], "--jobs must be 0 or more"),
    ],
)
def test_what_cannot_be_meant_gets_a_sentence_and_leaves_nothing(words, complaint, tmp_path, capfd):
    into = tmp_path / "studies"
    assert main(["study", *words, "--into", str(into)]) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert re.search(complaint, told.err)
    assert not into.exists()


@pytest.mark.parametrize(
    ("many", "end"), [(SHOWN, f"job {SHOWN}"), (188, f"job {SHOWN} and 176 more")]
)
def test_of_many_jobs_the_first_are_named(many, end, capfd):
    jobs = [Doubling(number, f"job {number}") for number in range(1, many + 1)]
    StudyDisplay(Display("study")).begins(jobs)
    told = capfd.readouterr().err.splitlines()[0]
    assert told.startswith(f"{many} jobs: job 1, job 2, ")
    assert told.endswith(f", {end}")
