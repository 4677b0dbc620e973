"""Whole runs: what they write, what they refuse, and what they say when something is wrong."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from processes import finished as ended
from sparring.attacks import L2, PGD, Linf
from sparring.errors import CheckpointError, ConfigError, DataError, NonFiniteLoss, RunError
from sparring.models import PaperNetwork
from sparring.records import Environment, MetricsLog, RunDirectory, from_json, read_json, to_json
from sparring.training import (
    SGD,
    Adam,
    Constant,
    Natural,
    Step,
    TrainConfig,
    Triangular,
    Validation,
    WarmUp,
    preparation,
    presets,
    resume,
    train,
)
from sparring.training.monitor import DeadStart
from training.small_runs import (
    PAPERS,
    UPDATES,
    Killed,
    Watching,
    assert_same_bits,
    small,
    weights_of,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    config = small(
        model=PAPERS,
        precision="fp32",
        schedule=Triangular(peak_at=0.5),
        eps_schedule=WarmUp(share=0.5),
        validation=Validation(every=3, images=16, steps=1),
    )
    return train(config, tmp_path_factory.mktemp("runs") / "run").run


def test_a_run_leaves_its_settings_environment_metrics_weights_and_resume_state(
    finished: RunDirectory,
) -> None:
    assert {path.name for path in finished.path.iterdir()} == {
        "config.json",
        "classes.json",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "weights.safetensors",
        "resume.pt",
    }
    where = from_json(Environment, read_json(finished.environment), where="environment.json")
    assert (where.threads, where.device, where.precision) == (1, "cpu", "fp32 spectral")


def test_every_update_has_a_row_of_what_it_did(finished: RunDirectory) -> None:
    rows = [row for row in MetricsLog(finished.metrics).rows() if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, UPDATES + 1))
    places = [(update + 0.5) / UPDATES for update in range(UPDATES)]
    rates = [1e-3 * (2 * min(place, 1 - place)) for place in places]
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates)
    assert [row["eps"] for row in rows] == pytest.approx([0.3 * min(1, 2 * p) for p in places])
    for row in rows:
        supply, attack, update = (
            float(row[f"{what}_seconds"] or 0) for what in ("supply", "attack", "update")
        )
        assert 0 < attack <= supply
        assert row["images_per_second"] == pytest.approx(8 / (supply + update), rel=0.01)
        assert 0 <= float(row["training_accuracy"] or 0) <= 1


def test_looks_come_at_their_interval_and_at_the_end(finished: RunDirectory) -> None:
    looks = [row for row in MetricsLog(finished.metrics).rows() if "robust_accuracy" in row]
    assert [look["step"] for look in looks] == [3, 6, UPDATES]
    assert all(look["validation_images"] == 16 for look in looks)


def test_looking_does_not_change_the_weights(tmp_path: Path) -> None:
    blind = train(small(), tmp_path / "blind")
    looking = small(validation=Validation(every=1, images=16, steps=2))
    assert_same_bits(
        weights_of(blind.network), weights_of(train(looking, tmp_path / "looking").network)
    )


def test_training_leaves_the_global_random_state_and_the_thread_count_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(small(), tmp_path / "run", until=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    resume(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_an_occupied_folder_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(RunError, match="empty folder"):
        train(small(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": "mnits"}, DataError, "mnits"),
        ({"device": "cuda:99"}, ConfigError, "cannot be used: (Runtime|Assertion)Error"),
        ({"device": "gpu"}, ConfigError, "cannot be used: RuntimeError"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    changes: dict[str, str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train(small(**changes), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not a checkpoint"),
        lambda path: torch.save({"format": 1}, path),
        lambda path: torch.save([1, 2, 3], path),
        lambda path: torch.save({"format": 99, "network": {}}, path),
    ],
    ids=["cut", "empty", "text", "hollow", "list", "layout"],
)
def test_a_damaged_checkpoint_is_refused(damage: Callable[[Path], None], tmp_path: Path) -> None:
    run = train(small(updates=1), tmp_path / "run").run
    damage(run.resume)
    weights = run.weights.read_bytes()
    with pytest.raises(
        CheckpointError, match=r"resume\.pt (must|was written under other|is no checkpoint)"
    ):
        resume(run.path)
    assert run.weights.read_bytes() == weights


class Bomb:
    """Unpickled, it would run a command."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch exploded",)


def test_a_checkpoint_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train(small(updates=1), tmp_path / "run").run
    torch.save({"format": 1, "bomb": Bomb()}, run.resume)
    with pytest.raises(CheckpointError, match="cannot be read"):
        resume(run.path)
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    run = train(small(updates=2), tmp_path / "run").run
    settings = json.loads(run.config.read_text())
    settings["seed"] = 7
    run.config.write_text(json.dumps(settings))
    with pytest.raises(
        CheckpointError, match=r"was written under other settings than its config.json"
    ):
        resume(run.path)


FILL_THE_DISK = """
import resource, signal, sys
from pathlib import Path
from sparring.errors import CheckpointNotWritten
from sparring.training import resume
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, resource.RLIM_INFINITY))
try:
    resume(Path(sys.argv[1]))
except CheckpointNotWritten as error:
    print(error)
    raise SystemExit(error.exit_code)
"""


@pytest.mark.process
def test_a_full_disk_leaves_the_previous_checkpoint_whole(tmp_path: Path) -> None:
    whole = train(small(model=PAPERS, updates=4), tmp_path / "whole")
    out = tmp_path / "run"

    def leave(step: object) -> None:
        if len(watching.steps) == 2:
            raise Killed("leave without a checkpoint")

    watching = Watching(leave)
    with pytest.raises(Killed, match="leave"):
        train(small(model=PAPERS, updates=4, checkpoint_every=1), out, sinks=[watching])
    run = RunDirectory.open(out)
    before = run.resume.read_bytes()
    answer = ended(FILL_THE_DISK, out)
    assert answer.returncode == 1, answer.stderr
    assert "The previous one is whole" in answer.stdout
    assert run.resume.read_bytes() == before
    assert not list(out.glob(".*.tmp"))
    assert_same_bits(weights_of(resume(out).network), weights_of(whole.network))


def test_a_loss_that_is_not_finite_names_step_rate_and_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A rate that breaks the network at once would be refused before the run.
    monkeypatch.setattr(preparation, "rehearse", lambda *of: None)
    config = small(optimizer=SGD(learning_rate=1e30), checkpoint_every=1, updates=4)
    watching = Watching()
    with pytest.raises(NonFiniteLoss, match=r"at step \d with learning rate 1e\+30") as stopped:
        train(config, tmp_path / "run", sinks=[watching])
    assert not watching.notices  # a failure is a row of its own kind, and the error says it
    run = RunDirectory.open(tmp_path / "run")
    assert f"The last good checkpoint is in {run.resume}" in str(stopped.value)
    assert stopped.value.exit_code == 1
    assert any("event" in row for row in MetricsLog(run.metrics).rows())


@pytest.mark.parametrize(("learning_rate", "notices"), [(1e-9, 1), (2e-3, 0)])
def test_a_start_that_learns_nothing_is_called_dead_once_and_a_healthy_one_never(
    learning_rate: float, notices: int, tmp_path: Path
) -> None:
    watching = Watching()
    config = small(
        attack=PGD(steps=0, start="none"),
        objective=Natural(),
        optimizer=Adam(learning_rate=learning_rate),
        updates=110,
        checkpoint_every=1000,
    )
    run = train(config, tmp_path / "run", sinks=[watching]).run
    assert len(watching.notices) == notices
    assert all("dead start" in notice for notice in watching.notices)
    events = [row for row in MetricsLog(run.metrics).rows() if "event" in row]
    assert len(events) == notices


GUESS = math.log(10)


def step_of(number: int, loss: float) -> Step:
    return Step(
        step=number,
        loss=loss,
        training_accuracy=0.1,
        learning_rate=1e-4,
        eps=0.3,
        staleness=0,
        attack_seconds=0.1,
        supply_seconds=0.1,
        update_seconds=0.1,
        images_per_second=1.0,
    )


@pytest.mark.parametrize(
    ("losses", "natural", "told_at"),
    [
        ([GUESS] * 150 + [1.5] * 50, [0.1, 0.6], None),  # batch 32, 200 updates, a small ResNet
        ([GUESS] * 199 + [2.2], [0.1, 0.5], None),
        ([GUESS] * 100 + [2.0] * 100 + [GUESS] * 100, [0.1] * 3, 300),
        ([GUESS] * 100 + [2.0] * 100 + [GUESS] * 150, [0.1, 0.1, 0.7], None),
        ([GUESS] * 100, [0.1], 100),
        ([GUESS] * 99, [0.1], None),
        ([GUESS] * 120, [0.1, 0.1], 120),
        ([GUESS] * 120, [0.1, 0.4], None),
        ([GUESS] * 500, [0.1, 0.1], 200),
        ([7.0] * 30 + [GUESS] * 500, [0.1, 0.1], 230),
    ],
)
def test_a_slow_start_that_recovers_is_not_called_dead(
    losses: list[float], natural: list[float], told_at: int | None
) -> None:
    answers, watched = iter(natural), DeadStart(num_classes=10)
    told = [
        number
        for number, loss in enumerate(losses, 1)
        if watched.notice(step_of(number, loss), lambda: next(answers), last=number == len(losses))
    ]
    assert told == ([] if told_at is None else [told_at])


@pytest.mark.parametrize(("natural", "dead"), [(0.52, True), (0.9, False)])
def test_of_two_classes_more_than_half_is_not_yet_learned(natural: float, dead: bool) -> None:
    watched, guess = DeadStart(num_classes=2), math.log(2)
    steps = [step_of(number, guess) for number in range(1, 201)]
    said = [notice for step in steps if (notice := watched.notice(step, lambda: natural))]
    assert len(said) == dead


def test_a_dead_start_advises_nothing_that_the_settings_do() -> None:
    for schedule, advice in {
        Constant(): "--set eps_schedule.kind=WarmUp",
        WarmUp(): "--set eps_schedule.share",
    }.items():
        watched = DeadStart(10, small(eps_schedule=schedule))
        steps = [step_of(number, GUESS) for number in range(1, 201)]
        (said,) = filter(None, (watched.notice(step, lambda: 0.1) for step in steps))
        assert "dead start: the loss has been 2.30 = ln(classes)" in said
        assert "for 200 updates, and natural accuracy is 10% (step 200)" in said
        assert advice in said
        assert ("kind=WarmUp" in said) is (schedule == Constant())


@pytest.mark.parametrize(
    ("later", "natural", "recovers"), [(1.2, 0.6, True), (GUESS, 0.6, False), (9.0, 0.1, False)]
)
def test_a_dead_start_is_over_once_the_network_is_right_on_clean_images(
    later: float, natural: float, recovers: bool
) -> None:
    watched, answers = DeadStart(10), [0.1, 0.1]
    losses = [GUESS] * 200 + [later] * 300
    said = [
        watched.notice(step_of(number, loss), lambda: answers.pop() if answers else natural)
        for number, loss in enumerate(losses, 1)
    ]
    told = [notice for notice in said if notice]
    assert told[0].startswith("dead start:")
    assert told[1:] == (
        ["no longer so: dead start; natural accuracy is 60% (step 300)."] if recovers else []
    )


@pytest.mark.parametrize(("natural", "dead"), [(0.1, True), (0.83, False)])
def test_a_network_that_knows_clean_images_is_not_dead_however_long_it_guesses_attacked_ones(
    natural: float, dead: bool
) -> None:
    """The preset paper stands near a loss of 2.30 for hundreds of updates and goes on learning."""
    watched, asked = DeadStart(num_classes=10), []

    def natural_accuracy() -> float:
        asked.append(natural)
        return natural

    losses = [7.0] * 50 + [math.log(10) + 0.01] * 350
    steps = [step_of(number, loss) for number, loss in enumerate(losses)]
    notices = [notice for step in steps if (notice := watched.notice(step, natural_accuracy))]
    assert len(notices) == dead
    assert len(asked) == (2 if dead else 3)
    assert all("natural accuracy is 10%" in notice for notice in notices)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_survives_its_way_through_json(name: str) -> None:
    config = presets.PRESETS[name]()
    stored = json.loads(json.dumps(to_json(config)))
    assert from_json(TrainConfig, stored, where="test") == config


def test_the_paper_preset_is_section_6_to_the_letter() -> None:
    config = presets.paper()
    assert config.model == PaperNetwork(initialisation="madry")
    assert config.attack == PGD(threat=Linf(eps=0.3), steps=8, start="uniform")
    assert config.pgd.step_length == pytest.approx(2.5 * 0.3 / 8)
    assert (config.batch_size, config.updates) == (128, 60_000)
    assert (config.optimizer, config.schedule) == (Adam(learning_rate=1e-4), Constant())
    assert (config.eps_schedule, config.average, config.clip_norm) == (Constant(), 0.0, None)


def test_the_madry_preset_is_mnist_challenge() -> None:
    config = presets.madry()
    assert config.attack == PGD(threat=Linf(eps=0.3), steps=40, step_size=0.01)
    assert (config.batch_size, config.updates) == (50, 100_000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more.*got 0"),
        ({"updates": 0}, "updates must be 1 or more.*got 0"),
        ({"seed": -1}, "seed must be 0 or more.*got -1"),
        ({"threads": -2}, "threads must be 0 or more.*got -2"),
        ({"checkpoint_every": 0}, "checkpoint_every must be 1 or more.*got 0"),
        ({"average": 1.0}, r"average must lie in \[0, 1\).*got 1"),
        ({"average": math.nan}, r"average must lie in \[0, 1\).*got nan"),
        ({"clip_norm": 0.0}, "clip_norm must be finite and above 0; got 0"),
        ({"threat": L2(eps=2.0)}, r"one norm.*got L2\(eps=2.0\) to withstand.*PGD\(threat=L2"),
    ],
)
def test_settings_outside_their_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**changes)
