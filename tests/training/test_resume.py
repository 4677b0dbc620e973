"""A run stopped anywhere and resumed ends in the weights of one that never stopped."""

import os
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from torch import Tensor

from processes import started
from sparring.attacks import PGD, Linf
from sparring.errors import Interrupted
from sparring.models import load_weights
from sparring.models.weights import read_weights
from sparring.records import MetricsLog, RunDirectory, to_json, write_json
from sparring.training import (
    SGD,
    Certified,
    Fresh,
    Mixed,
    Stale,
    Step,
    TrainConfig,
    TrainedRun,
    Triangular,
    Validation,
    WarmUp,
    resume,
    train,
)
from sparring.training.team import stop_request
from training.small_runs import PAPERS, UPDATES, Watching, assert_same_bits, small, weights_of

CONFIGS = {
    "fresh": small(model=PAPERS, source=Fresh(), average=0.9, eps_schedule=WarmUp(share=0.5)),
    "stale": small(source=Stale(staleness=3), schedule=Triangular(), objective=Mixed()),
    "growing": small(source=Stale(staleness=3, warm_up=7, fresh_steps=1)),
    "sgd": small(optimizer=SGD(learning_rate=0.05), clip_norm=1.0),
    "looking": small(
        objective=Certified(),
        attack=PGD(threat=Linf(eps=0.3), steps=0, start="none"),
        eps_schedule=WarmUp(share=0.5),
        validation=Validation(every=2, images=16, steps=1),
    ),
}


class Whole(NamedTuple):
    """A run that was never stopped."""

    config: TrainConfig
    trained: TrainedRun


TIMES = {"images_per_second"} | {f"{what}seconds" for what in ("", "attack_", "supply_", "update_")}


def stop_at(step: int, number: signal.Signals) -> Watching:
    def act(done: Step) -> None:
        if done.step == step:
            os.kill(os.getpid(), number)

    return Watching(act)


def rows(run: RunDirectory) -> list[dict[str, object]]:
    log = MetricsLog(run.metrics).rows()
    return [{name: value for name, value in row.items() if name not in TIMES} for row in log]


def stored(run: RunDirectory, config: TrainConfig) -> dict[str, Tensor]:
    network = config.model.build(seed=0)
    load_weights(network, run.weights)
    return weights_of(network)


@pytest.fixture(scope="module", params=CONFIGS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    config = CONFIGS[request.param]
    return Whole(config, train(config, tmp_path_factory.mktemp(request.param) / "whole"))


@pytest.mark.parametrize("until", [1, 5])
def test_gone_on_with_after_a_part_of_the_updates(whole: Whole, until: int, tmp_path: Path) -> None:
    config, trained = whole
    part = train(config, tmp_path / "run", until=until)
    assert part.version == until
    again = resume(tmp_path / "run", until=until)
    assert_same_bits(weights_of(again.network), weights_of(part.network))
    done = resume(tmp_path / "run")
    assert done.version == UPDATES
    assert_same_bits(weights_of(done.network), weights_of(trained.network))
    assert rows(done.run) == rows(trained.run)


@pytest.mark.parametrize("step", [6])
def test_resumed_after_a_request_to_stop(whole: Whole, step: int, tmp_path: Path) -> None:
    config, trained = whole
    with pytest.raises(Interrupted, match=rf"stopped at step {step} by SIGINT") as stopped:
        train(config, tmp_path / "parts", sinks=[stop_at(step, signal.SIGINT)])
    assert stopped.value.exit_code == 130
    rest = Watching()
    parts = resume(tmp_path / "parts", sinks=[rest])
    assert [done.step for done in rest.steps] == list(range(step + 1, UPDATES + 1))
    assert_same_bits(weights_of(parts.network), weights_of(trained.network))
    assert_same_bits(stored(parts.run, config), stored(trained.run, config))
    assert rows(parts.run) == rows(trained.run)


def test_sigterm_is_heeded_like_ctrl_c(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        train(small(), tmp_path / "run", sinks=[stop_at(2, signal.SIGTERM)])
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert resume(tmp_path / "run").version == UPDATES


def test_who_waits_for_others_relents_at_the_second_request() -> None:
    """A launcher sends one more than it was sent; who never comes to an update must be ended."""
    before = signal.getsignal(signal.SIGTERM)
    with stop_request(patient=True) as stop:
        for _ in range(2):
            stop.relent()
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is stop
        stop.relent()
        assert signal.getsignal(signal.SIGTERM) == before
        assert stop.signal == signal.SIGTERM


def test_a_request_at_the_last_update_lets_the_run_finish(tmp_path: Path) -> None:
    finished = train(small(), tmp_path / "run", sinks=[stop_at(UPDATES, signal.SIGINT)])
    assert finished.version == UPDATES
    *_, last = MetricsLog(finished.run.metrics).rows()
    assert str(last["event"]).startswith("SIGINT came at the last update")


@pytest.mark.parametrize("until", [UPDATES, 99])
def test_a_finished_run_is_resumed_without_an_update(until: int, tmp_path: Path) -> None:
    done = train(small(), tmp_path / "run", until=until)
    assert done.version == UPDATES
    watching = Watching()
    again = resume(tmp_path / "run", sinks=[watching])
    assert not watching.steps
    assert_same_bits(weights_of(again.network), weights_of(done.network))


@pytest.mark.parametrize("damage", ["missing", "short", "changed"])
def test_weights_of_a_complete_run_are_written_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = train(small(updates=2, average=0.9), tmp_path / "run").run
    mapped, about = read_weights(run.weights)
    weights = {name: value.clone() for name, value in mapped.items()}
    whole = run.weights.read_bytes()
    if damage == "missing":
        run.weights.unlink()
    else:
        cut, end = (whole[:1000], b"") if damage == "short" else (whole[:-1], b"\x01")
        run.weights.write_bytes(cut + end)
    watching = Watching()
    assert resume(run.path, sinks=[watching]).version == 2
    assert not watching.steps
    again, about_again = read_weights(run.weights)
    assert_same_bits(again, weights)
    assert about_again == about
    assert "missing or damaged; it was written again from resume.pt" in caplog.text


def test_whole_weights_of_a_complete_run_are_left_alone(tmp_path: Path) -> None:
    run = train(small(updates=1), tmp_path / "run").run
    before = run.weights.stat()
    resume(run.path)
    assert run.weights.stat().st_ino == before.st_ino


KILLED = """
import sys
from pathlib import Path
from sparring.records import from_json, read_json
from sparring.training import TrainConfig, resume, train
source, out = map(Path, sys.argv[1:])
config = from_json(TrainConfig, read_json(source), where=str(source))
resume(out) if (out / "config.json").exists() else train(config, out)
"""


@pytest.mark.process
def test_resumed_after_being_killed_at_five_random_points(tmp_path: Path) -> None:
    config = small(
        model=PAPERS, source=Stale(staleness=3), average=0.9, updates=60, checkpoint_every=7
    )
    write_json(tmp_path / "config.json", to_json(config))
    whole = train(config, tmp_path / "whole")
    run = RunDirectory(tmp_path / "killed")
    chance = random.Random(0)
    for _ in range(5):
        goal = _rows(run.metrics) % 60 + chance.randint(1, 9)
        process = started(KILLED, tmp_path / "config.json", run.path)
        try:
            while process.is_alive() and _rows(run.metrics) < goal:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.05))
        finally:
            process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended before it was killed"
    resumed = resume(run.path)
    assert_same_bits(weights_of(resumed.network), weights_of(whole.network))
    assert rows(run) == rows(whole.run)
    assert not list(run.path.glob("*.tmp")) or _only_killed_writes(run.path)


def _rows(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _only_killed_writes(folder: Path) -> bool:
    """A kill in the middle of a checkpoint may leave its own temporary file, no other."""
    return all(path.name.startswith((".resume", ".weights")) for path in folder.glob(".*.tmp"))
