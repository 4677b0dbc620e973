"""Settings from the command line on top of a record."""

from dataclasses import dataclass, field, replace
from typing import Literal

import pytest

from sparring.errors import ConfigError
from sparring.records import override


@dataclass(frozen=True, kw_only=True, slots=True)
class Linf:
    eps: float = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    threat: Linf = field(default_factory=Linf)
    steps: int = 8
    loss: Literal["cross-entropy", "margin"] = "cross-entropy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    peak: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Triangle:
    peak: float = 0.2
    warm_up: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Average:
    decay: float = 0.99


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    attack: Attack = field(default_factory=Attack)
    rate: Constant | Triangle = field(default_factory=Triangle)
    average: Average | None = None
    late_rate: Constant | Triangle | None = None
    data: str = "mnist"
    updates: int = 10
    clip: float | None = None


START = Settings()

CHANGES = [
    ([], START),
    (["updates=3"], replace(START, updates=3)),
    (["updates=3", "updates=4"], replace(START, updates=4)),
    (["attack.loss=margin"], replace(START, attack=Attack(loss="margin"))),
    (["attack.threat.eps=8/255"], replace(START, attack=Attack(threat=Linf(eps=8 / 255)))),
    (["rate.peak=.003"], replace(START, rate=Triangle(peak=0.003))),
    (["data=/a folder/x=y"], replace(START, data="/a folder/x=y")),
    (["clip=1", "clip=null"], START),
    (["average.decay=0.5"], replace(START, average=Average(decay=0.5))),
    (["average={}"], replace(START, average=Average())),
    (["rate.kind=Constant"], replace(START, rate=Constant(peak=0.2))),
    (
        ["rate.peak=0.7", "rate.kind=Constant"],
        replace(START, rate=Constant(peak=0.7)),
    ),
    (["rate.kind=Constant", "rate.peak=3"], replace(START, rate=Constant(peak=3.0))),
    (["rate.kind=Constant", "rate.kind=Triangle"], START),
    (['rate={"kind":"Constant"}'], replace(START, rate=Constant())),
    (["late_rate.kind=Constant"], replace(START, late_rate=Constant())),
    (
        ["late_rate.kind=Constant", "late_rate.peak=1"],
        replace(START, late_rate=Constant(peak=1.0)),
    ),
]


@pytest.mark.parametrize(("assignments", "expected"), CHANGES)
def test_an_assignment_changes_its_setting_and_no_other(
    assignments: list[str], expected: Settings
) -> None:
    assert override(START, assignments) == expected


REFUSALS = [
    (["updtes=3"], "Did you mean updates?"),
    (["attack.eps=0.1"], "Did you mean attack.threat.eps?"),
    (["atack.steps=3"], "Did you mean attack?"),
    (["rate.kind=Trianlge"], "Did you mean Triangle?"),
    (["rate.warm_up=0.1", "rate.kind=Constant"], "rate.warm_up is not a setting of Constant"),
    (["rate.kind=Constant", "rate.warm_up=0.1"], "rate.warm_up is not a setting of Constant"),
    (["attack.loss=margn"], "Did you mean margin?"),
    (["updates=1.5"], "updates must be an integer; got 1.5."),
    (["updates=NaN"], 'updates must be an integer; got "NaN".'),
    (["clip=inf"], "clip must be a number"),
    (["updates.x=1"], "updates is one value without settings inside; got updates.x."),
    (["clip.x=1"], "clip must be a number"),
    (["late_rate.peak=1"], 'late_rate must be an object with its "kind"'),
    (["updates"], "must be followed by name=value"),
    (["=3"], "must be followed by name=value"),
    (["attack..steps=3"], "attack. is not a setting of Attack"),
    (["attack.kind=Attack"], "attack.kind is not a setting of Attack"),
]


@pytest.mark.parametrize(("assignments", "message"), REFUSALS)
def test_an_assignment_that_cannot_be_is_refused_with_its_name(
    assignments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        override(START, assignments)
    assert str(refusal.value).startswith("--set")
    assert message in str(refusal.value)
