"""Stepwise attacks and threats of one's own: tried before training, and named when they fail."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from sparring.attacks import Crafter, CustomThreat, Linf, Recipe
from sparring.data import load_dataset
from sparring.errors import ConfigError
from sparring.loader import AdversarialLoader, SourceKind, Stale
from sparring.records.stage import IN_TURN
from sparring.training import Custom, resume, train
from training.small_runs import PLAIN, small

FULL = Linf(0.3)
WAITING = Stale(staleness=1, fresh_steps=1)


@dataclass(frozen=True)
class InSteps:
    """A stepwise attack, each method of which can be replaced by a wrong one."""

    wrong: str = ""
    threat: Linf = FULL
    steps: int = 3
    restarts: int = 1

    def at(self, eps: float, steps: int | None = None) -> Any:
        if self.wrong == "at":
            raise KeyError("at")
        return replace(self, threat=Linf(eps), steps=self.steps if steps is None else steps)

    def only(self, steps: int) -> Any:
        return 3 if self.wrong == "only" else replace(self, steps=steps)

    def search_from(self, start: Tensor, model: Any, images: Tensor, labels: Tensor) -> Any:
        if self.wrong == "raises":
            raise KeyError("search")
        if self.wrong == "one":
            return images[:1]
        moved = start + self.steps * (5 if self.wrong == "pixels" else 0.01)
        return moved if self.wrong == "pixels" else self.threat.project(moved, images)

    def __call__(
        self, model: Any, images: Tensor, labels: Tensor, *, generator: Generator
    ) -> Tensor:
        return self.threat.project(images + self.steps * 0.01, images)


WRONG = {
    "at": r"at of the attack \(InSteps\) failed: KeyError",
    "only": r"only of the attack \(InSteps\) must return a StepwiseAttack; got int",
    "raises": r"search_from of the attack \(InSteps\) failed: KeyError: 'search'",
    "one": r"returned shape \(1, 1, 28, 28\) for images of shape \(8, 1, 28, 28\)",
    "pixels": r"returned pixels from .* pixels must lie in \[0, 1\]",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_every_method_of_a_stepwise_attack_is_tried_before_training(
    wrong: str, tmp_path: Path
) -> None:
    images, network = load_dataset("mnist").train, PLAIN.build(0)
    with pytest.raises(ConfigError, match=WRONG[wrong]):
        AdversarialLoader(images, network, InSteps(wrong), batch_size=8, updates=2, source=WAITING)
    with pytest.raises(ConfigError, match=WRONG[wrong]):
        train(small(attack=InSteps(wrong), source=WAITING, updates=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_its_two_stages_are_the_whole_attack() -> None:
    recipe = Recipe(attack=InSteps(), batch_size=8, updates=2, seed=0, fresh_steps=1)
    crafter = Crafter(recipe, load_dataset("mnist").train, torch.device("cpu"))
    network, batch = PLAIN.build(0), crafter.clean(0)
    whole = crafter.craft(batch, network, version=0)
    for stage in IN_TURN:
        batch = crafter.craft(batch, network, version=0, stage=stage)
    torch.testing.assert_close(batch.adversarial, whole.adversarial)


LATE = """
from sparring import Linf

CALLS = 0


class Late:
    def __init__(self, eps, last):
        self.eps, self.last, self.inner = eps, last, Linf(eps)

    def at(self, eps):
        return Late(eps, self.last)

    def project(self, x, images):
        global CALLS
        CALLS += 1
        if CALLS > self.last:
            raise KeyError("late")
        return self.inner.project(x, images)

    def __getattr__(self, name):
        return getattr(Linf(self.__dict__["eps"]), name)


def attack(model, images, labels, *, threat, generator):
    return threat.uniform(images, generator)


def make():
    return attack
"""


@pytest.fixture
def late(tmp_path: Path) -> Path:
    file = tmp_path / "late.py"
    file.write_text(LATE)
    return file


def test_a_named_threat_that_fails_during_training_is_named(late: Path, tmp_path: Path) -> None:
    threat = CustomThreat(factory=f"{late}:Late", arguments=("eps=0.3", "last=30"))
    config = small(threat=threat, attack=replace(small().pgd, threat=threat), updates=40)
    with pytest.raises(ConfigError, match="Late failed: KeyError: 'late'"):
        train(config, tmp_path / "run")
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["threat", "attack"])
@pytest.mark.parametrize("source", [Stale(staleness=0), Stale(staleness=1)])
def test_a_run_with_an_own_threat_or_attack_can_be_extended(
    what: str, source: SourceKind, late: Path, tmp_path: Path
) -> None:
    config = small(updates=2, source=source)
    if what == "threat":
        threat = CustomThreat(factory=f"{late}:Late", arguments=("eps=0.3", "last=1000"))
        config = replace(config, threat=threat, attack=replace(config.pgd, threat=threat))
    else:
        config = replace(config, attack=Custom(factory=f"{late}:make"))
    train(config, tmp_path / "run")
    if source.bound:
        with pytest.raises(ConfigError, match="are attacked 1 updates ahead"):
            resume(tmp_path / "run", updates=4)
    else:
        assert resume(tmp_path / "run", updates=4).version == 4
