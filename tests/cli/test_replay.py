"""`sparring replay`: what it says, and what it exits with."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sparring.cli.console import PROGRESS
from sparring.cli.main import main
from sparring.models import save_weights
from sparring.models.weights import content_digest
from sparring.records import RunDirectory
from sparring.training import Stale, Step, train
from training.small_runs import Killed, Watching, small


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return train(small(source=Stale(staleness=2)), tmp_path_factory.mktemp("runs") / "run").run


@pytest.fixture
def run(finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A finished run in runs/ of the current folder, that may be damaged."""
    monkeypatch.chdir(tmp_path)
    return RunDirectory(Path(shutil.copytree(finished.path, Path("runs") / "a run")))


def alter_loss(run: RunDirectory, step: int, loss: float | None) -> None:
    lines = run.metrics.read_text().splitlines()
    row = json.loads(lines[step - 1])
    assert (row["step"], "loss" in row) == (step, True)
    lines[step - 1] = json.dumps(row | {"loss": loss})
    run.metrics.write_text("\n".join(lines) + "\n")


def flip_a_bit(run: RunDirectory) -> str:
    """Name of the tensor that is now another."""
    weights = load_file(run.weights)
    name = sorted(weights)[0]
    with safe_open(run.weights, framework="pt") as file:
        about = file.metadata()
    weights[name].view(torch.int32).flatten()[0] ^= 1
    save_weights(weights, run.weights, about={**about, "content": content_digest(weights)})
    return name


def test_an_equal_replay_is_told_and_exits_with_0(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert main(["replay"]) == 0
    shown = capsys.readouterr()
    first, *rest = shown.out.splitlines()
    assert re.fullmatch(r"runs/a run: 8 updates replayed in \d+\.\d s; staleness 2 at most", first)
    assert rest == [
        "every loss is the recorded one",
        "the stored weights, of update 8, are equal bit for bit",
        "next: sparring inspect 'runs/a run'",
    ]
    assert shown.err == (
        "runs/a run: 8 updates of 8 images against Linf 0.3, staleness at most 2, "
        "on cpu with 1 thread\n"
    )
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_an_equal_replay_is_told_to_machines(run, capsys):
    assert main(["replay", str(run.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("seconds") > 0
    assert told == {
        "run": "runs/a run",
        "equal": True,
        "updates": 8,
        "staleness_max": 2,
        "parting": None,
        "weights_version": 8,
        "weights_equal": True,
        "different_tensors": [],
    }


def test_a_parting_is_told_with_both_losses_and_exits_with_1(run, capsys):
    alter_loss(run, 3, 2.5)
    assert main(["replay", str(run.path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("runs/a run: 3 updates replayed in ")
    assert re.fullmatch(
        r"replay and run part by update 3: its loss was 2\.5, and is \d\.\d{6,} here", lines[1]
    )
    assert lines[2:] == ["next: sparring inspect 'runs/a run'"]

    assert main(["replay", str(run.path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["equal"], told["updates"]) == (False, 3)
    assert (told["parting"]["step"], told["parting"]["recorded_loss"]) == (3, 2.5)
    assert f"is {told['parting']['replayed_loss']!r} here" in lines[1]
    assert (told["weights_equal"], told["different_tensors"]) == (None, None)


def test_other_weights_are_told_by_tensor_and_exit_with_1(run, capsys):
    name = flip_a_bit(run)
    assert main(["replay", str(run.path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "every loss is the recorded one",
        f"the stored weights, of update 8, differ in {name}",
    ]
    assert main(["replay", str(run.path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["equal"], told["parting"]) == (False, None)
    assert (told["weights_equal"], told["different_tensors"]) == (False, [name])


def test_a_loss_that_is_not_finite_here_is_told_to_machines_as_null(run, capsys):
    config = json.loads(run.config.read_text())
    config["optimizer"]["learning_rate"] = 1e30
    run.config.write_text(json.dumps(config))
    run.weights.unlink()  # they are of the other rate, and would be refused
    assert main(["replay", str(run.path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["parting"]["step"], told["parting"]["replayed_loss"]) == (2, None)


def test_a_run_without_weights_is_told_to_have_none(tmp_path, capsys):
    def leave(step: Step) -> None:
        if step.step == 2:
            raise Killed("leave")

    with pytest.raises(Killed, match="leave"):
        train(small(), tmp_path / "run", sinks=[Watching(leave)])
    assert main(["replay", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "every loss is the recorded one",
        "no weights are stored that could be compared",
    ]


def test_what_may_alone_change_bits_is_noticed_on_stderr(run, capsys):
    where = json.loads(run.environment.read_text())
    run.environment.write_text(json.dumps(where | {"processor": "Z80"}))
    assert main(["replay", str(run.path), "--json"]) == 0
    assert "\nnotice: processor was Z80 before and is " in capsys.readouterr().err


def test_a_bar_says_that_it_is_a_replay(run, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(PROGRESS, "is_interactive", True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["replay"]) == 0
    assert "replay" in capsys.readouterr().err


MISTAKES = {
    "replay nowhere": "nowhere does not exist",
    "replay runs/a-run": "Did you mean runs/a run?",
    "replay settings.json": "has no config.json",
    "replay runs b": "one word, RUN, beside its flags; got runs b.",
    "replay --jsno": "Did you mean --json?",
    "replay --seed 3": "sparring replay has no flag --seed",
    "repaly": "Did you mean replay?",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(line, run, capsys):
    Path("settings.json").touch()
    assert main(line.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert MISTAKES[line] in shown.err


def test_without_any_run_one_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["replay"]) == 2
    assert "there is no folder runs here" in capsys.readouterr().err


def test_a_damaged_trace_is_told_in_one_sentence(run, capsys):
    alter_loss(run, 4, None)
    assert main(["replay"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert ": the loss of step 4 must be a number; got null." in shown.err
