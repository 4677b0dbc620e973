"""A threat of your own is tried before a search trusts it, and suites differ in name."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from typing_extensions import override

from bounds.networks import drawn
from sparring import APGD, FAB, PGD, Linf, Square, Suite, evaluate, transfer
from sparring.attacks import CustomThreat, Threat
from sparring.attacks.crafting import Crafter, Recipe
from sparring.data import ImageSet, load_dataset
from sparring.errors import ConfigError
from sparring.evaluation.model_under_test import ModelUnderTest
from sparring.evaluation.strength import keep, strongest
from sparring.evaluation.suites import named_suite, suite_of
from sparring.records import Evaluation, RunDirectory

NET = drawn(nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), 0).eval()
IMAGES = torch.rand(12, 1, 3, 3, generator=Generator().manual_seed(1))
LABELS = NET(IMAGES).argmax(1)


@dataclass(frozen=True)
class Darker(Threat):
    """Pixels become darker only; each method can be replaced by a wrong one."""

    eps: float
    wrong: str = ""

    @override
    def at(self, eps: float) -> "Darker":
        return self if self.wrong == "at" else replace(self, eps=eps)

    @override
    def project(self, x: Tensor, images: Tensor) -> Tensor:
        if self.wrong == "kept":
            return x.clamp(0, 1)
        near = torch.minimum(torch.maximum(x, images - self.eps), images)
        if self.wrong == "pixels":
            return near
        return near[:1] if self.wrong == "one" else near.clamp(0, 1)

    @override
    def ascend(self, gradient: Tensor) -> Tensor:
        if self.wrong == "raises":
            raise KeyError("nothing")
        return gradient / 0 * 0 if self.wrong == "nan" else gradient.sign()

    @override
    def uniform(self, images: Tensor, generator: Generator) -> Tensor:
        noise = torch.rand(images.shape, generator=generator)
        return (images - self.eps * noise).clamp(0, 1)

    @override
    def distance(self, x: Tensor, images: Tensor) -> Tensor:
        if self.wrong == "scalar":
            return torch.tensor(0.0)
        change = (images - x).flatten(1)
        return change.abs().amax(1).masked_fill((change < -1e-6).any(1), torch.inf)


WRONG = {
    "kept": "project returned an image at a distance of inf",
    "pixels": r"project returned pixels from -[\d.]+ to [\d.]+; pixels must lie in \[0, 1\]",
    "one": r"project must return a tensor of shape \(8, 1, 3, 3\); got \(1, 1, 3, 3\)",
    "raises": "the threat Darker failed: KeyError",
    "nan": "ascend returned NaN",
    "scalar": r"distance must return a tensor of shape \(8,\); got \(\)",
    "at": r"at\(0.1\) must return the same threat with that eps; got 0.2",
}


def judged(threat: Any, **settings: Any) -> Any:
    settings = {"suite": [PGD(steps=2)], "checks": False, **settings}
    return evaluate(NET, IMAGES, LABELS, threat, **settings)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_threat_that_breaks_its_rules_is_refused_before_the_search(wrong: str) -> None:
    for threat in (Darker(0.2, wrong), [Darker(0.1), Darker(0.2, wrong)]):
        with pytest.raises(ConfigError, match=WRONG[wrong] if isinstance(threat, Darker) else "."):
            judged(threat)
    recipe = Recipe(attack=PGD(Darker(0.2, wrong)), batch_size=4, updates=1, seed=0)
    with pytest.raises(ConfigError, match="the threat Darker"):
        Crafter(recipe, load_dataset("mnist").train, torch.device("cpu"))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_transfer_matrix_refuses_it_as_well(wrong: str) -> None:
    with pytest.raises(ConfigError, match=WRONG[wrong]):
        transfer({"a": NET, "b": NET}, IMAGES, LABELS, Darker(0.2, wrong), steps=(1,))


def test_a_point_outside_the_threat_counts_as_its_clean_image() -> None:
    labels = LABELS.clone()
    labels[::2] = (labels[::2] + 1) % 3
    tested = ModelUnderTest(NET, IMAGES, labels, Linf(0.1), None)
    outside = (IMAGES + 0.3).remainder(1)
    assert torch.equal(tested.right(outside, IMAGES, labels), labels == LABELS)


def test_a_threat_that_keeps_them_is_taken() -> None:
    assert judged(Darker(0.2)).robust.successes <= judged(Darker(0.01)).robust.successes


@pytest.mark.parametrize("eps", [0.0, -0.3, float("inf"), float("nan"), "0.1", True])
def test_the_size_of_a_threat_is_a_number_above_0(eps: Any) -> None:
    with pytest.raises(ConfigError, match="a number above 0 as eps"):
        judged(Darker(eps))


def test_what_the_code_of_a_named_threat_raises_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "threats.py"
    file.write_text(
        "from sparring import Linf\n"
        "class Late(Linf):\n"
        "    calls = 0\n"
        "    def project(self, x, images):\n"
        "        Late.calls += 1\n"
        "        if Late.calls > 4: raise KeyError('late')\n"
        "        return Linf.project(self, x, images)\n"
        "    def at(self, eps): return type(self)(eps)\n"
    )
    threat = CustomThreat(factory=f"{file}:Late", arguments=("eps=0.1",))
    with pytest.raises(ConfigError, match="Late failed: KeyError: 'late'"):
        judged(threat)


@dataclass(frozen=True)
class Patch(Darker):
    """Only the first pixels change: a smaller one is no part of a larger one of other pixels."""

    size: int = 9


def test_threats_of_a_list_differ_in_eps_alone() -> None:
    with pytest.raises(ConfigError, match="differ in eps alone"):
        judged([Patch(0.1, size=9), Patch(0.2, size=1)])
    with pytest.raises(ConfigError, match="differ in eps alone"):
        judged([Linf(0.1), Darker(0.2)])
    assert len(judged([Patch(0.1, size=2), Patch(0.2, size=2)])) == 2


class Masked(Threat):
    """Only some pixels change. It has no comparison, and two masks have no truth value."""

    def __init__(self, eps: float, mask: Tensor) -> None:
        self.eps, self.mask = eps, mask

    @override
    def at(self, eps: float) -> "Masked":
        return type(self)(eps, self.mask.clone())

    @override
    def project(self, x: Tensor, images: Tensor) -> Tensor:
        near = x.clamp(images - self.eps, images + self.eps).clamp(0, 1)
        return torch.where(self.mask, near, images)

    @override
    def ascend(self, gradient: Tensor) -> Tensor:
        return gradient.sign() * self.mask

    @override
    def uniform(self, images: Tensor, generator: Generator) -> Tensor:
        noise = torch.rand(images.shape, generator=generator) * 2 - 1
        return self.project(images + self.eps * noise, images)

    @override
    def distance(self, x: Tensor, images: Tensor) -> Tensor:
        return (x - images).abs().flatten(1).amax(1)


@dataclass(frozen=True)
class Compared(Masked):
    """The same with the comparison of a dataclass."""

    eps: float
    mask: Tensor


@pytest.mark.parametrize("kind", [Masked, Compared])
def test_threats_that_hold_tensors_are_compared_by_content(kind: type[Masked]) -> None:
    mask = torch.arange(9).view(1, 3, 3) < 5
    one = judged(kind(0.2, mask))
    several = judged([kind(0.1, mask.clone()), kind(0.2, mask)])
    assert several[1].robust == one.robust
    assert judged(kind(0.2, mask), suite=[PGD(kind(0.2, mask.clone()), steps=2)]).robust
    name = kind.__name__
    with pytest.raises(ConfigError, match=f"differ in eps alone; got {name} 0.1, {name} 0.2"):
        judged([kind(0.1, mask), kind(0.2, ~mask)])
    with pytest.raises(ConfigError, match=r"must have the threat that is evaluated"):
        judged(kind(0.2, mask), suite=[PGD(kind(0.2, ~mask), steps=2)])


def test_an_own_attack_gets_the_threat_itself() -> None:
    seen: list[Threat] = []

    def kept(model: Any, images: Tensor, labels: Tensor, *, threat: Threat) -> Tensor:
        seen.append(threat)
        return images

    threat = Masked(0.2, torch.ones(1, 3, 3).bool())
    judged(threat, suite=[kept])
    assert seen == [threat]


class Late(Masked):
    """Fails in the search: with other numbers of images than it is tried on."""

    @override
    def project(self, x: Tensor, images: Tensor) -> Tensor:
        if len(images) == 3:
            raise KeyError("three")
        return super().project(x, images)


def test_what_the_code_of_a_threat_raises_in_a_search_is_one_clear_error() -> None:
    late = Late(0.2, torch.ones(1, 3, 3).bool())
    for attack in (PGD(steps=2), APGD(steps=2)):
        with pytest.raises(ConfigError, match="the threat Late failed: KeyError: 'three'"):
            judged(late, suite=[attack], batch_size=3)
    with pytest.raises(ConfigError, match="the threat Late failed: KeyError: 'three'"):
        transfer({"a": NET, "b": NET}, IMAGES[:3], LABELS[:3], late, steps=(1,))
    recipe = Recipe(attack=PGD(late, steps=2), batch_size=3, updates=1, seed=0, fresh_steps=1)
    pixels = (255 * IMAGES).round().to(torch.uint8)
    held = ImageSet(pixels=pixels, labels=LABELS, num_classes=3)
    crafter = Crafter(recipe, held, torch.device("cpu"))
    for stage in ("whole", "first", "last"):
        with pytest.raises(ConfigError, match="the threat Late failed: KeyError: 'three'"):
            crafter.craft(crafter.clean(0), NET, version=0, stage=stage)


CHANGED = [
    (PGD(steps=10), PGD(steps=10, step_size=1e-5)),
    (PGD(steps=10), PGD(steps=10, start="none")),
    (PGD(steps=10), PGD(steps=10, restarts=2)),
    (APGD(loss="dlr", targets=9), APGD(loss="dlr", targets=2)),
    (APGD(), APGD(restarts=3)),
    (FAB(), FAB(targets=1)),
    (Square(), Square(share=0.1)),
]


@pytest.mark.parametrize(("one", "other"), CHANGED)
def test_attacks_of_other_settings_have_other_names(one: Any, other: Any) -> None:
    assert one.name != other.name
    assert suite_of([one]).name != suite_of([other]).name


def test_a_weaker_list_of_attacks_of_the_same_kinds_is_not_the_suite_standard() -> None:
    weak = [APGD(), APGD(loss="dlr", targets=1), FAB(targets=1), Square(share=0.1)]
    names = {attack.name for attack in named_suite("standard").against(Linf(0.1))}
    assert not names <= {attack.name for attack in suite_of(weak).against(Linf(0.1))}


@pytest.mark.parametrize("name", ["standard", "pgd"])
def test_a_suite_of_your_own_cannot_take_the_name_of_another(name: str) -> None:
    own = Suite(name=name, summary="one step", attacks=(PGD(steps=1),))
    with pytest.raises(ConfigError, match=f"must not have the name of another; got {name}"):
        judged(Linf(0.1), suite=own)
    assert suite_of(named_suite(name)) is named_suite(name)


def test_an_own_suite_that_changed_and_kept_its_name_replaces_no_verdict(tmp_path: Path) -> None:
    place = RunDirectory(tmp_path)
    strong, weak = (
        judged(Linf(0.2), suite=Suite(name="mine", summary="one attack", attacks=(attack,)))
        for attack in (PGD(steps=10), PGD(steps=10, step_size=1e-6, start="none"))
    )
    assert strong.robust.successes < weak.robust.successes
    for verdict in (strong, weak):
        keep(place, verdict)
    kept = [Evaluation.load(path) for path in place.evaluations()]
    assert len(kept) == 2
    assert Evaluation.load(place.evaluation).robust == strong.robust
    assert strongest(kept, "").robust == strong.robust
