"""Plans on the command line: where their numbers come from, and commands that can be typed."""

import json
import shlex
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from sparring.cli.main import main
from sparring.records import MetricsLog, RunDirectory
from sparring.training.presets import fast


def planned(words: str, capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(["plan", *words.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_plan_is_printed_with_the_kind_of_every_number(capsys):
    words = "--devices 2 --update-ms 5 --mtbf-hours 100 --price 3.6"
    assert main(["plan", *words.split()]) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert ["attack", "40", "ms", "by", "kappa", "8"] in lines
    assert ["update", "5", "ms", "given"] in lines
    assert ["all-reduce:", "latency", "10", "µs", "default"] in lines
    assert ["restart", "60", "s", "default"] in lines
    assert "use 1 trainer with 1 worker: 2 of 2 devices" in shown
    for word in (
        "simulated",
        "formula",
        "saturates at",
        "accuracy is not predicted",
        "Not included",
    ):
        assert word in shown
    assert "next: sparring train --preset paper --steps 8 --source async --workers 1" in shown


def test_no_layout_that_is_shown_is_faster_than_the_chosen_one(capsys):
    found = planned("--devices 6 --max-staleness 2 --mtbf-hours 0.05 --allreduce-ms 0", capsys)
    speed, devices = found["chosen"]["speed_up_simulated"], found["chosen"]["devices"]
    for other in found["layouts"]:
        assert other["speed_up_simulated"] <= 1.02 * speed
        assert other["devices"] >= devices or 1.02 * other["speed_up_simulated"] < speed


@pytest.mark.parametrize(
    ("words", "torchrun"),
    [
        ("--devices 3 --max-trainers 1 --kappa 4 --batch 64 --trainer-waits", ""),
        ("--devices 2 --max-staleness 0", "torchrun --nproc-per-node 2 -m "),
        ("--devices 3 --max-trainers 1 --kappa 4 --batch 64 --fresh-steps 1 --publish-every 9", ""),
    ],
)
def test_the_command_of_a_plan_is_one_that_train_takes(words, torchrun, capsys):
    found = planned(words, capsys)
    assert found["command"].startswith(torchrun + "sparring train ")
    typed = shlex.split(found["command"].removeprefix(torchrun))
    assert main([*typed[1:], "--dry-run"]) == 0
    settings = json.loads(capsys.readouterr().out)
    best = found["chosen"]
    assert settings["batch_size"] == found["batch"]
    if best["workers"]:
        source = settings["source"]
        assert (source["workers"], source["policy"]["lag"]) == (best["workers"], best["lag"])
        assert source["helps"] == ("--trainer-waits" not in words)
        assert settings["attack"]["steps"] == 4
        assert (source["fresh_steps"], source["policy"]["period"]) == (
            found["fresh_steps"],
            found["publish_every"],
        )
        assert best["staleness_max_simulated"] < best["lag"] + found["publish_every"]


def test_fresh_steps_limit_the_speed_up_and_allow_what_is_older(capsys):
    assert main(["plan", "--fresh-steps", "2", "--publish-every", "9", "--max-trainers", "1"]) == 0
    shown = capsys.readouterr().out
    assert "with 2 fresh steps a trainer is at most 3.00 times one device, by the formula" in shown
    older = ["plan", "--publish-every", "40", "--max-staleness", "64", "--max-trainers", "1"]
    assert main(older) == 0
    assert "try --fresh-steps 3" in capsys.readouterr().out
    assert main(["plan", "--publish-every", "40"]) == 2
    assert "every 40 updates, and 32 at most" in capsys.readouterr().err


def test_money_is_devices_times_time(capsys):
    best = planned("--devices 1 --attack-ms 30 --update-ms 6 --price 2", capsys)["chosen"]
    assert best["device_seconds_per_batch"] == pytest.approx(0.036, rel=0.02)
    spent = 2 * best["device_seconds_per_batch"] * 1e6 / 3600
    assert best["price_per_million_batches"] == pytest.approx(spent)


def test_costs_in_a_runs_log_are_as_good_as_given_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = RunDirectory.create(tmp_path / "run")
    run.write_config(replace(fast(), batch_size=96))
    log = MetricsLog(run.metrics)
    for step in range(12):
        slow = 10 if step < 5 else 1  # caches fill
        times = {"attack_seconds": 0.04 * slow, "update_seconds": 0.01 * slow}
        log.append({"step": step + 1, "loss": 1.0, **times})
    ours = planned("--calibrate run --max-trainers 1", capsys)
    given = planned("--max-trainers 1 --attack-ms 40 --update-ms 10 --kappa 5", capsys)
    assert ours["layouts"][0]["speed_up_simulated"] == given["layouts"][0]["speed_up_simulated"]
    assert ours["batch"] == 96
    origins = {item["name"]: item["origin"] for item in ours["quantities"]}
    assert origins["attack"] == origins["update"] == "measured, log of run"
    for overhead in ("lease", "handover", "publication"):
        assert origins[overhead] == "default, as run has no workers"
    assert origins["all-reduce: gradients"] == "default"
    assert f"--config {run.config.relative_to(tmp_path)} " in ours["command"]
    half = planned("--calibrate run --max-trainers 1 --update-ms 20", capsys)
    times = {item["name"]: (item["value"], item["origin"]) for item in half["quantities"]}
    assert times["update"] == (20, "given")
    assert times["attack"] == (pytest.approx(40), "measured, log of run")
    save_file({"weight": torch.zeros(500, 400), "count": torch.tensor(3)}, run.weights)
    known = planned("--calibrate run --max-trainers 1", capsys)["quantities"]
    sizes = {item["name"]: (item["value"], item["origin"]) for item in known}
    assert sizes["all-reduce: gradients"] == (0.8, "weights of run")
