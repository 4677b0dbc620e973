"""The alarm for catastrophic overfitting, on real runs and on chosen comparisons."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparring.attacks import PGD, Linf
from sparring.data import load_dataset
from sparring.records import MetricsLog
from sparring.training import Adam, Triangular, Validation, WarmUp, train
from sparring.training.alarm import Comparison, OverfittingAlarm
from training.small_runs import Watching, assert_same_bits, small, weights_of

LOOKS = Validation(every=0, alarm_every=40, alarm_images=32)


def comparison(own: float, long: float) -> Comparison:
    return Comparison(step=7, own_steps=1, long_steps=10, own_accuracy=own, long_accuracy=long)


@pytest.mark.parametrize(
    ("own", "long", "alarming"),
    [(0.9, 0.1, True), (0.6, 0.29, True), (0.6, 0.31, False), (0.95, 0.9, False), (0.4, 0, False)],
)
def test_alarming_is_what_withstands_its_own_attack_and_not_half_as_often_a_longer_one(
    own: float, long: float, alarming: bool
) -> None:
    assert comparison(own, long).alarming is alarming


def test_the_alarm_is_told_once() -> None:
    dataset = load_dataset("mnist")
    alarm = OverfittingAlarm(small(validation=LOOKS), dataset, torch.device("cpu"))
    assert alarm.notice(comparison(0.9, 0.8)) is None
    said = alarm.notice(comparison(0.9, 0.1))
    assert said is not None
    assert "90% withstand the run's own attack of 1 step, 10% one of 10 (step 7)" in said
    assert alarm.notice(comparison(0.9, 0.1)) is None


def test_a_run_against_an_attack_that_sees_nothing_is_warned(tmp_path: Path) -> None:
    blind = PGD(threat=Linf(eps=0.3), steps=1, step_size=1e-4, start="none")
    config = small(
        attack=blind,
        batch_size=32,
        updates=120,
        optimizer=Adam(learning_rate=3e-3),
        schedule=Triangular(peak_at=0.3),
        validation=LOOKS,
        checkpoint_every=120,
    )
    watching = Watching()
    run = train(config, tmp_path / "run", observer=watching).run
    rows = [row for row in MetricsLog(run.metrics).rows() if "own_accuracy" in row]
    assert [row["step"] for row in rows] == [40, 80, 120]
    assert all((row["own_steps"], row["long_steps"]) == (1, 10) for row in rows)
    assert float(rows[-1]["own_accuracy"] or 0) > 0.5 > float(rows[-1]["long_accuracy"] or 0)
    assert len(watching.notices) == 1
    assert watching.notices[0].startswith("catastrophic overfitting")
    assert watching.notices[0] in [row.get("event") for row in MetricsLog(run.metrics).rows()]


def test_natural_training_has_no_attack_to_compare(tmp_path: Path) -> None:
    config = small(
        attack=PGD(threat=Linf(eps=0.3), steps=0), validation=replace(LOOKS, alarm_every=1)
    )
    run = train(config, tmp_path / "run").run
    assert not [row for row in MetricsLog(run.metrics).rows() if "own_accuracy" in row]


def test_looking_changes_nothing(tmp_path: Path) -> None:
    nets = [
        train(small(validation=replace(LOOKS, alarm_every=every)), tmp_path / str(every)).network
        for every in (0, 2)
    ]
    assert_same_bits(*map(weights_of, nets))


def test_the_longer_attack_has_at_least_twice_the_steps(tmp_path: Path) -> None:
    config = small(
        attack=PGD(threat=Linf(eps=0.3), steps=8),
        eps_schedule=WarmUp(share=1.0),
        validation=replace(LOOKS, alarm_every=4),
    )
    run = train(config, tmp_path / "run").run
    rows = [row for row in MetricsLog(run.metrics).rows() if "own_accuracy" in row]
    assert [(row["step"], row["own_steps"], row["long_steps"]) for row in rows] == [
        (4, 8, 16),
        (8, 8, 16),
    ]
