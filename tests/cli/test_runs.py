"""Whole runs by real processes: trained, stopped, resumed, inspected, evaluated."""

import json
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from sparring.cli.inspect import evenly, setting_text
from sparring.cli.main import main
from sparring.records import RunDirectory, to_json
from sparring.training.presets import fast

TINY = [
    *("--set", "batch_size=8", "--set", "validation.images=16", "--set", "validation.steps=1"),
    *("--set", "validation.every=2", "--threads", "1"),
]

pytestmark = pytest.mark.process


def sparring(*words: str) -> list[str]:
    return [sys.executable, "-m", "sparring", *words]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A finished run, and what the process that made it said on stdout and stderr."""
    folder = tmp_path_factory.mktemp("trained")
    done = subprocess.run(
        sparring("train", "--updates", "3", "--steps", "1", "--json", *TINY),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


def test_a_run_goes_into_a_folder_of_its_own_and_is_told_to_machines(trained):
    folder, out, err = trained
    told = json.loads(out)
    assert re.fullmatch(r"runs/fast-\d{8}-\d{6}", told["run"])
    assert told["updates"] == 3
    assert told["seconds"] > 0
    assert 0 <= told["robust_accuracy"] <= told["natural_accuracy"] <= 1
    assert told["validation_images"] == 16
    assert (folder / told["run"] / "weights.safetensors").is_file()
    assert {"update 2 of", "update 3 of"} <= {line[:11] for line in err.splitlines()[1:]}


def test_inspect_tells_everything_to_machines(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained[0])
    assert main(["inspect", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["updates"], told["updates_done"], told["updates_saved"]) == (3, 3, 3)
    assert told["complete"] is True
    assert [look["step"] for look in told["looks"]] == [2, 3]
    assert (told["staleness_mean"], told["staleness_max"]) == (0, 0)
    assert told["config"]["batch_size"] == 8
    assert told["environment"]["threads"] == 1
    assert told["attack_seconds"] > 0


def test_a_run_is_evaluated_then_shown_with_what_was_found(trained, monkeypatch, capsys):
    folder, out, _ = trained
    run = json.loads(out)["run"]
    monkeypatch.chdir(folder)
    assert main(["inspect"]) == 0
    assert capsys.readouterr().out.endswith(f"next: sparring evaluate {run}\n")

    assert main(["evaluate", "--images", "16", "--threads", "1"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == f"{run} against Linf 0.3 on 16 test images"
    rows = [line for line in lines if re.search(r"%\s+\[", line)]
    assert [row.split("  ")[0] for row in rows][0::3] == ["natural", "robust"]
    assert max(map(len, rows)) <= 80
    assert lines[-1] == f"next: sparring report {run}"

    assert (
        main(
            [
                "evaluate",
                run,
                "--images=8",
                "--suite=pgd-40",
                "--no-checks",
                "--threads=1",
                "--json",
            ]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert (told["suite"], told["num_images"], told["run"]) == ("pgd-40", 8, run)

    assert main(["inspect", run]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"suite (\S+), Linf 0\.3, (\d+) test", shown) == [
        ("pgd-40", "8"),
        ("pgd", "16"),
    ]
    assert shown.endswith(f"next: sparring evaluate {run} --suite standard\n")


def test_a_negative_number_of_threads_is_refused_before_anything_is_judged(trained, capsys):
    folder, out, _ = trained
    run = folder / json.loads(out)["run"]
    before = sorted(path.name for path in run.iterdir())
    assert main(["evaluate", str(run), "--threads", "-1"]) == 2
    assert "threads must be 0 or more" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == before


def test_inspect_reads_a_run_without_torch(trained):
    code = (
        "import sys\n"
        "from sparring.cli.main import main\n"
        "main(['inspect']) and sys.exit('failed')\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=trained[0], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(trained, monkeypatch, capsys):
    folder, out, _ = trained
    first = json.loads(out)
    weights = folder / first["run"] / "weights.safetensors"
    before = weights.read_bytes()
    monkeypatch.chdir(folder)
    assert main(["train", "--resume", first["run"], "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["robust_accuracy"] == first["robust_accuracy"]
    assert weights.read_bytes() == before


def test_two_runs_of_one_second_go_into_two_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda *_: "20300101-120000")
    words = ["train", "--preset", "natural", "--updates", "1", *TINY]
    assert main(words) == main(words) == 0
    names = ["natural-20300101-120000", "natural-20300101-120000-2"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("trained for 1 update in ")
    assert lines[-1] == f"next: sparring evaluate runs/{names[1]}"
    assert re.search(
        r"^robust accuracy .* \[.*\]: 16 validation images, PGD", "\n".join(lines), re.M
    )


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_run_with_its_checkpoint_and_resume_finishes_it(
    sent, code, tmp_path, monkeypatch, capsys
):
    run = RunDirectory(tmp_path / "a run")
    words = ("--updates", "8", "--steps", "20", *TINY)
    with subprocess.Popen(
        sparring("train", "--out", "a run", *words),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            _wait_for(run.metrics, process)
            process.send_signal(sent)
            out, err = process.communicate(timeout=500)
        finally:
            process.kill()
    assert process.returncode == code, err
    assert out == ""
    assert err.splitlines()[-1].startswith("error: stopped at step ")
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "a run", "--json"]) == 0
    stopped = json.loads(capsys.readouterr().out)
    assert 0 < stopped["updates_done"] == stopped["updates_saved"] < 8
    assert stopped["next"] == "sparring train --resume 'a run'"

    assert main(["train", "--resume", "a run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["updates"] == 8


def _wait_for(metrics: Path, process: subprocess.Popen[str]) -> None:
    """Until the run has done an update."""
    until = time.monotonic() + 500
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, "it ended before the signal"
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_run_that_never_began_is_shown_and_can_be_resumed(tmp_path, capsys):
    run = RunDirectory.create(tmp_path / "run")
    run.write_config(fast())
    assert main(["inspect", str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert f"not finished, 0 of {fast().updates:,} updates done" in shown
    assert shown.endswith(f"next: sparring train --resume {run.path}\n")


@pytest.mark.parametrize("count", [0, 1, 2, 9, 10, 11, 12, 137])
def test_a_long_history_is_thinned_evenly_and_keeps_its_ends(count):
    kept = evenly(range(count), 10)
    assert len(kept) == min(count, 10)
    assert kept[:1] == list(range(count))[:1]
    assert kept[-1:] == list(range(count))[-1:]
    gaps = [after - before for before, after in pairwise(kept)] or [1]
    assert min(gaps) > 0
    assert max(gaps) - min(gaps) <= 1


def test_settings_are_shown_by_kind_and_name():
    attack = to_json(fast())["attack"]
    assert isinstance(attack, dict)
    attack["threat"] = {"kind": "L2", "eps": 8 / 255}
    assert setting_text(attack).startswith("threat L2, eps 8/255, steps ")
