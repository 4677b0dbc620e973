"""Shorter attacks early in a run: where they hold, how far they reach, what is refused."""

import pytest
import torch

from sparring.attacks import L2, PGD, Linf
from sparring.data import load_dataset
from sparring.errors import ConfigError
from sparring.records import from_json, to_json
from sparring.training import EarlySteps, TrainConfig, Trainer, WarmUp
from training.small_runs import small, steps_of

EARLY = (EarlySteps(until=0.25, steps=1), EarlySteps(until=0.5, steps=2))


def test_steps_hold_until_their_share_of_the_run_and_then_the_attacks_own() -> None:
    config = small(updates=8, attack=PGD(steps=5), early_steps=EARLY)
    assert [steps_of(config, number) for number in range(8)] == [1, 1, 2, 2, 5, 5, 5, 5]
    assert {steps_of(small(), number) for number in range(8)} == {2}


def test_early_steps_are_never_more_than_the_attacks_own() -> None:
    config = small(updates=8, attack=PGD(steps=1), early_steps=EARLY)
    assert {steps_of(config, number) for number in range(8)} == {1}
    untouched = small(updates=8, attack=PGD(steps=0, start="none"), early_steps=EARLY)
    assert {steps_of(untouched, number) for number in range(8)} == {0}


@pytest.mark.parametrize("threat", [Linf(eps=0.4), L2(eps=2.0)], ids=str)
@pytest.mark.parametrize("step_size", [None, 0.08])
@pytest.mark.parametrize("steps", [1, 2, 5, 7])
def test_fewer_steps_reach_as_far_in_units_of_eps(
    threat: Linf | L2, step_size: float | None, steps: int
) -> None:
    full = PGD(threat=threat, steps=5, step_size=step_size)
    short = full.at(threat.eps / 2, steps)
    reach = full.steps * full.step_length / full.threat.eps
    assert short.steps == steps
    assert short.steps * short.step_length / short.threat.eps == pytest.approx(reach)


def test_the_trainer_attacks_by_the_early_steps() -> None:
    config = small(
        updates=4,
        attack=PGD(threat=Linf(eps=0.3), steps=4, step_size=0.1, start="none"),
        early_steps=(EarlySteps(until=0.5, steps=1),),
        eps_schedule=WarmUp(share=1.0),
    )
    trainer = Trainer(config, load_dataset("mnist"), torch.device("cpu"))
    calls: list[int] = []
    attacked = trainer.copy.attacked
    trainer.copy.attacked = lambda images: calls.append(len(images)) or attacked(images)
    for number, steps in enumerate([1, 1, 4, 4]):
        calls.clear()
        batch = trainer.loader.begin(number)
        assert len(calls) == steps
        assert batch.eps == pytest.approx(0.3 * (number + 0.5) / 4)


def test_early_steps_survive_their_way_through_json() -> None:
    config = small(early_steps=EARLY)
    assert from_json(TrainConfig, to_json(config), where="test") == config


def test_early_steps_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"until must lie in \(0, 1\).*got 1"):
        EarlySteps(until=1.0, steps=2)
    with pytest.raises(ConfigError, match=r"early steps must be 1 or more.*got 0"):
        EarlySteps(until=0.5, steps=0)
    with pytest.raises(ConfigError, match=r"early_steps must be sorted by until; got 0.5, 0.25"):
        small(early_steps=EARLY[::-1])
