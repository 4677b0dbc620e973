"""The linear scaling rule of Goyal et al. 2017, as several trainers take it."""

import math
from dataclasses import replace

import pytest

from sparring.training import (
    Adam,
    Constant,
    Gradual,
    OneCycle,
    Steps,
    TrainConfig,
    Triangular,
    linearly_scaled,
)
from sparring.training.optimizers import factor
from sparring.training.presets import PRESETS, fast, paper


def rate(config: TrainConfig, progress: float) -> float:
    assert isinstance(config.optimizer, Adam)
    return config.optimizer.learning_rate * factor(config.schedule, progress)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("trainers", [2, 3, 8])
def test_as_many_images_in_larger_batches_with_larger_steps(name, trainers):
    one = PRESETS[name]()
    many = linearly_scaled(one, trainers)
    assert many.batch_size // many.trainers == one.batch_size
    seen, before = many.updates * many.batch_size, one.updates * one.batch_size
    assert before <= seen < before + many.batch_size
    for progress in (0.1, 0.3, 0.6, 0.9):
        assert rate(many, progress) == pytest.approx(trainers * rate(one, progress))
    assert many.eps_schedule == one.eps_schedule
    assert many.early_steps == one.early_steps


@pytest.mark.parametrize("schedule", [Constant(), Steps(at=(0.5,)), OneCycle(start=0.6)])
def test_what_begins_high_is_warmed_up_from_the_unscaled_rate_over_5_of_90_epochs(schedule):
    one = replace(paper(), schedule=schedule)
    many = linearly_scaled(one, 4)
    assert rate(many, 0.0) == pytest.approx(rate(one, 0.0))
    assert rate(many, 2.5 / 90) == pytest.approx(2.5 * rate(one, 2.5 / 90))
    assert rate(many, 5 / 90) == pytest.approx(4 * rate(one, 5 / 90))


@pytest.mark.parametrize("schedule", [Triangular(), OneCycle(), OneCycle(start=0.25)])
def test_what_begins_no_higher_than_the_unscaled_rate_is_left_alone(schedule):
    assert linearly_scaled(replace(fast(), schedule=schedule), 4).schedule == schedule


def test_what_is_counted_in_updates_comes_after_as_many_images():
    many = linearly_scaled(replace(fast(), snapshot_every=0, checkpoint_every=1), 2)
    assert (many.updates, many.validation.every, many.validation.alarm_every) == (490, 123, 50)
    assert (many.snapshot_every, many.checkpoint_every) == (0, 1)
    assert many.average == pytest.approx(fast().average ** 2)


def test_one_trainer_changes_nothing():
    assert linearly_scaled(fast(), 1) == fast()


def test_a_gradual_rise_multiplies_what_it_leads_to():
    schedule = Gradual(share=0.2, start=0.25, then=Steps(at=(0.1,), factor=0.5))
    found = [schedule(place) for place in (0.0, 0.1, 0.2, 0.9)]
    assert found == pytest.approx([0.25, 0.625 * 0.5, 0.5, 0.5])
    assert math.isclose(Adam().learning_rate * schedule(0.0), 2.5e-5)
