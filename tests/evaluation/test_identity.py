"""What tells evaluations from one another: a changed attack, threat or data set is another one."""

import subprocess
import sys
from functools import partial as bound
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring import PGD, Linf, evaluate
from sparring.attacks.identity import identity
from sparring.data import Dataset, ImageSet
from sparring.evaluation import evaluate_network
from sparring.evaluation import partial as partials
from sparring.records import Evaluation, RunDirectory

SOURCE = Path(sparring.__file__).parents[1]
CODE = """
STEPS = {steps}
def helper(x):
    return x + {shift}
class Attack:
    power = 1
    def __init__(self, much):
        self.much = much
    def __call__(self, model, images, labels):
        return helper(images * STEPS * self.much)
class Threat:
    def __init__(self, eps):
        self.eps = eps
    def project(self, x, images):
        return x
def made(much):
    def attack(model, images, labels, share={share}):
        return helper(images) * much
    return attack
"""


def attacks(folder: Path, name: str, **numbers: Any) -> Any:
    """A module of one's own, from a file."""
    file = folder / f"{name}.py"
    file.write_text(CODE.format(**{"steps": 3, "shift": 1, "share": 0.5, **numbers}))
    space: dict[str, Any] = {"__name__": "mine"}
    exec(compile(file.read_text(), str(file), "exec"), space)
    return space


GLOBALS = """
import functools
import numpy as np, torch
from sparring import PGD
VALUE = {value}
def attack(model, images, labels):
    return images * VALUE[0]
"""
VALUES = [
    ("torch.zeros(3)", "torch.ones(3)"),
    ("torch.zeros(3)", "torch.zeros(3, dtype=torch.float64)"),
    ("torch.zeros(3).to_sparse()", "torch.ones(3).to_sparse()"),
    ("np.zeros(3)", "np.ones(3)"),
    ("np.array(['a', 'b'])", "np.array(['a', 'c'])"),
    ("np.array([{}, 1], dtype=object)", "np.array([{}, 2], dtype=object)"),
    ("np.float64(1)", "np.float64(2)"),
    ("[1, [2]]", "[1, [3]]"),
    ("(1, (2,))", "(1, (3,))"),
    ("{'k': {'much': 1}}", "{'k': {'much': 2}}"),
    ("{1, 2}", "{1, 3}"),
    ("range(3)", "range(4)"),
    ("torch.nn.Flatten()", "torch.nn.Flatten(2)"),
    ("PGD(steps=3)", "PGD(steps=4)"),
    ("functools.partial(max, 1)", "functools.partial(max, 2)"),
    ("torch.float32", "torch.float64"),
]


def named(value: str) -> Any:
    """An attack of one's own that reads a global of this value."""
    space: dict[str, Any] = {"__name__": "mine"}
    exec(compile(GLOBALS.format(value=value), "mine.py", "exec"), space)
    return space["attack"]


@pytest.mark.parametrize(("value", "other"), VALUES)
def test_a_global_that_an_attack_reads_counts_by_its_content(value: str, other: str) -> None:
    assert identity(named(value)) == identity(named(value))
    assert identity(named(value)) != identity(named(other))


def test_a_global_that_holds_itself_counts_by_its_content() -> None:
    def looped(number: int) -> Any:
        attack = named("[0, {}]")
        attack.__globals__["VALUE"] += [attack.__globals__["VALUE"], attack, number]
        return attack

    assert identity(looped(1)) == identity(looped(1)) != identity(looped(2))


def test_a_global_with_the_name_of_an_attribute_is_not_read() -> None:
    space: dict[str, Any] = {"__name__": "mine", "grad": 1}
    exec("def attack(model, images, labels): return images.grad", space)
    before = identity(space["attack"])
    space["grad"] = 2
    assert identity(space["attack"]) == before


class Net(nn.Module):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.layer = steps, nn.Linear(2, 2)
        for weights in self.layer.parameters():
            nn.init.zeros_(weights)


def test_equal_code_and_contents_are_one_and_any_change_is_another(tmp_path: Path) -> None:
    one, again = (attacks(tmp_path, name) for name in ("one", "again"))
    equal = [
        (one["Attack"](2), again["Attack"](2)),
        (one["made"](2), again["made"](2)),
        (one["Threat"](0.1), again["Threat"](0.1)),
        (bound(one["made"], 2), bound(again["made"], 2)),
        (Net(3), Net(3)),
        (PGD(steps=3), PGD(steps=3)),
        ([torch.ones(2), {"a": 1}], [torch.ones(2), {"a": 1}]),
    ]
    for first, second in equal:
        assert identity(first) == identity(second)
    others = [
        (one["Attack"](2), one["Attack"](3)),
        (one["made"](2), one["made"](3)),
        (one["Threat"](0.1), one["Threat"](0.2)),
        (bound(one["made"], 2), bound(one["made"], 3)),
        (Net(3), Net(4)),
        (PGD(steps=3), PGD(steps=4)),
        ([torch.ones(2)], [torch.zeros(2)]),
        ([torch.ones(2)], [torch.ones(2, dtype=torch.float64)]),
    ]
    for change in ({"steps": 50}, {"shift": 2}):
        changed = attacks(tmp_path, "changed", **change)
        others.append((one["Attack"](2), changed["Attack"](2)))
    others.append((one["made"](2), attacks(tmp_path, "changed", share=0.1)["made"](2)))
    for first, second in others:
        assert identity(first) != identity(second)


def test_an_identity_is_the_same_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE.format(steps=3, shift=1, share=0.5))
    program = (
        "from mine import Attack, Threat, made\n"
        "from sparring.attacks.identity import identity\n"
        "shared = ('s', 't')\n"
        "sets = [{'a', 'b', 'c'}, {('a', shared), ('b', shared), ('c', shared)}]\n"
        "print(identity([Attack(2), Threat(0.1), made(3), sets]))\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": str(SOURCE)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert len(set(said)) == 1


def test_what_holds_itself_has_an_identity() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert identity(loop) == identity(loop)


class Mine:
    """An attack that darkens all pixels, by 0.01 a step."""

    name = "mine"

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, model: Any, images: Tensor, labels: Tensor) -> Tensor:
        return (images - 0.01 * self.steps).clamp(0, 1)


def test_an_evaluation_is_not_resumed_with_another_attack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partials, "EVERY", 0.0)
    images, file = torch.rand(40, 1, 3, 3), tmp_path / "partial.pt"
    layer = nn.Linear(9, 2)
    network = nn.Sequential(nn.Flatten(), layer)
    with torch.no_grad():  # images whose pixels sum up to more than 3 are of class 0
        layer.weight.copy_(torch.tensor([[1.0], [0.0]]).expand(2, 9))
        layer.bias.copy_(torch.tensor([0.0, 3.0]))
    labels = network(images).argmax(1)
    settings: dict[str, Any] = {"checks": False, "batch_size": 8}

    def stop(_: object) -> None:
        if file.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(
            network,
            images,
            labels,
            Linf(0.5),
            suite=[Mine(0)],
            resume=file,
            progress=stop,
            **settings,
        )
    other = evaluate(network, images, labels, Linf(0.5), suite=[Mine(50)], **settings)
    resumed = evaluate(
        network, images, labels, Linf(0.5), suite=[Mine(50)], resume=file, **settings
    )
    assert other.robust.successes < 40
    assert resumed.outcomes == other.outcomes


def data(seed: int) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (24, 1, 3, 3), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels=pixels, labels=torch.arange(24) % 2, num_classes=2)
    return Dataset(name="mine", train=images, validation=images, test=images)


def test_evaluations_of_other_data_threats_and_attacks_are_kept_side_by_side(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    settings: dict[str, Any] = {"out": tmp_path, "checks": False, "threads": 1}
    asked = [
        {"data": data(0), "suite": [Mine(0)]},
        {"data": data(1), "suite": [Mine(0)]},
        {"data": data(0), "suite": [Mine(5)]},
        {"data": data(1), "suite": [Mine(5)]},
    ]
    first = [
        evaluate_network(network, one["data"], Linf(0.5), suite=one["suite"], **settings)
        for one in asked
    ]
    place = RunDirectory(tmp_path)

    def kept() -> list[tuple[str, str]]:
        found = (Evaluation.load(path) for path in place.evaluations())
        return sorted((one.judged, one.method) for one in found)

    wanted = sorted((one.evaluation.judged, one.evaluation.method) for one in first)
    assert kept() == wanted
    assert len(set(wanted)) == 4
    for one in reversed(asked):  # again: each replaces its own
        evaluate_network(network, one["data"], Linf(0.5), suite=one["suite"], **settings)
        assert kept() == wanted
    assert Evaluation.load(place.evaluation).robust == min(
        (one.robust for one in first), key=lambda share: share.successes
    )
