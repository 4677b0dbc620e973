"""The alarm for catastrophic overfitting, on real runs and on chosen comparisons."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparring.attacks import PGD, Linf
from sparring.data import load_dataset
from sparring.records import MetricsLog
from sparring.training import Adam, TrainConfig, Triangular, Validation, WarmUp, train
from sparring.training.comparison import Comparison
from sparring.training.monitor import OverfittingAlarm
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


SLOW = [comparison(0.9, 0.1), comparison(0.9, 0.1), comparison(0.9, 0.8)]


def heard(history: Sequence[Comparison], config: TrainConfig, apart: int = 25) -> list[str]:
    alarm = OverfittingAlarm(config, load_dataset("mnist"), torch.device("cpu"))
    rows = [replace(row, step=7 + apart * number) for number, row in enumerate(history)]
    return [text for row in rows for text in alarm.notices(row)]


def test_the_alarm_is_told_once_when_it_lasts_and_once_when_it_has_ended() -> None:
    config = small(validation=LOOKS, updates=1000)
    assert not heard([comparison(0.9, 0.8)] * 9, config)
    said = heard([comparison(0.9, 0.1)] * 9, config)
    assert len(said) == 1
    assert "90% withstand the run's own attack of 1 step, 10% one of 10 (step 57)" in said[0]
    ended = heard([comparison(0.9, 0.1)] * 5 + [comparison(0.9, 0.8)] * 3, config)
    assert ended == [*said, "no longer so: catastrophic overfitting (step 132)."]


# Measured with small-cnn and BatchNorm2d under the preset fast, seeds 11 and 0, every 35 and 28
# updates: attacked images in training and in evaluation mode, clean ones likewise, averaged.
MEASURED = {
    "slow, seed 11": [
        (0.50, 0.14, 0.67, 0.32, 0.09),
        (0.79, 0.68, 0.95, 0.93, 0.61),
        (0.86, 0.84, 0.96, 0.96, 0.80),
        (0.81, 0.73, 0.98, 0.96, 0.73),
    ],
    "slow, seed 0": [
        (0.62, 0.09, 0.73, 0.09, 0.09),
        (0.76, 0.68, 0.90, 0.88, 0.60),
        (0.84, 0.80, 0.96, 0.96, 0.75),
    ],
    "lost, seed 11": [
        (0.92, 0.89, 0.99, 0.99, 0.87),
        (0.99, 0.53, 0.97, 0.75, 0.80),
        (0.98, 0.97, 0.97, 0.10, 0.30),
        (0.99, 0.99, 0.97, 0.10, 0.10),
        (1.00, 0.67, 0.97, 0.10, 0.10),
        (0.99, 0.11, 0.97, 0.10, 0.10),
        (0.85, 0.02, 0.95, 0.10, 0.10),
        (0.87, 0.85, 0.98, 0.98, 0.20),
    ],
}


def measured(name: str) -> list[Comparison]:
    return [
        Comparison(
            step=0,
            own_steps=2,
            long_steps=10,
            own_accuracy=min(attacked, clean),
            long_accuracy=0.9 * min(attacked, clean),
            batch_accuracy=trained,
            trained_accuracy=trained,
            attacked_accuracy=attacked,
            clean_trained_accuracy=clean_trained,
            clean_accuracy=clean,
            average_accuracy=average,
        )
        for trained, attacked, clean_trained, clean, average in MEASURED[name]
    ]


@pytest.mark.parametrize("every", [1, 5, 20])
@pytest.mark.parametrize("start", ["slow, seed 11", "slow, seed 0"])
def test_a_slow_start_is_not_told_however_often_it_is_looked_at(start: str, every: int) -> None:
    config = small(validation=LOOKS, updates=1000)
    assert not heard(SLOW * 4, config)
    assert not heard(measured(start), config)
    first = measured(start)[0]
    lag = heard([first] * (40 // every) + measured(start)[1:], config, apart=every)
    assert not lag


def test_a_network_that_is_lost_in_evaluation_mode_is_told_while_it_is_and_named() -> None:
    said = heard(measured("lost, seed 11"), small(validation=LOOKS, updates=1000), apart=35)
    names = [text.partition(":")[0] for text in said]
    assert names == [
        "training mode and evaluation mode differ",
        "clean images are lost",
        "no longer so",
        "no longer so",
    ]
    assert "97% are right in training mode, 10% in evaluation mode (step 147)" in said[0]


def test_at_the_end_there_is_no_waiting() -> None:
    assert len(heard([comparison(0.9, 0.1)], small(validation=LOOKS, updates=7))) == 1


def test_in_doubt_the_next_look_comes_sooner_and_the_last_update_has_one() -> None:
    config = small(validation=LOOKS, updates=130)
    alarm = OverfittingAlarm(config, load_dataset("mnist"), torch.device("cpu"))
    alarm.notices(replace(comparison(0.9, 0.1), step=40))
    assert [step for step in range(1, 131) if alarm.due(step)] == [40, 65, 80, 120, 130]
    without = small(validation=replace(LOOKS, alarm_every=0))
    quiet = OverfittingAlarm(without, load_dataset("mnist"), torch.device("cpu"))
    assert not any(map(quiet.due, range(1, 10)))


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
    run = train(config, tmp_path / "run", sinks=[watching]).run
    rows = [row for row in MetricsLog(run.metrics).rows() if "own_accuracy" in row]
    steps = [int(row["step"] or 0) for row in rows]
    assert steps == sorted(steps)
    assert {40, 80, 120} <= set(steps) <= {40, 65, 80, 105, 120}
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


class Growing:
    """Noise that grows with each call, drawn from the global random state."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model, images, labels) -> Tensor:
        self.calls += 1
        return (images + 0.02 * self.calls * torch.rand(images.shape)).clamp(0, 1)


def test_looking_changes_nothing_that_an_own_attack_remembers(tmp_path: Path) -> None:
    found = []
    for every in (0, 1):
        attack = Growing()
        config = small(attack=attack, validation=replace(LOOKS, alarm_every=every))
        torch.manual_seed(0)
        found.append((weights_of(train(config, tmp_path / str(every)).network), attack.calls))
    assert_same_bits(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] == config.updates


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
