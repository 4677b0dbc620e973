"""The evaluation of a run directory: what it reads, what it leaves, what it refuses."""

from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD, Linf
from sparring.data import Images, ImageSet, load_dataset
from sparring.errors import CheckpointError, ConfigError, RunError
from sparring.evaluation import SUITES, evaluate, evaluate_network, evaluate_run, partial
from sparring.evaluation.evaluation_state import EvaluationState, Progress
from sparring.evaluation.judge import slice_accuracy
from sparring.evaluation.strength import kept_as, strongest
from sparring.records import (
    AttackResult,
    Evaluation,
    Examples,
    Outcomes,
    Proportion,
    RunDirectory,
)
from sparring.training import resume, train
from training.small_runs import small


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return train(small(updates=2), tmp_path / "run").run


def test_an_evaluation_is_written_image_by_image_and_as_shares(run: RunDirectory) -> None:
    found = evaluate_run(run, num_images=40, threads=1, checks=False)
    assert Evaluation.load(run.evaluation) == found
    outcomes = Outcomes.load(run.outcomes)
    labels = load_dataset("mnist").test.labels[:40].tolist()
    assert list(outcomes.labels) == labels
    assert found.natural.successes == sum(
        said == label for said, label in zip(outcomes.natural, labels, strict=True)
    )
    assert (found.suite, found.threat, found.num_images) == ("pgd", "Linf 0.3", 40)
    assert found.environment.threads == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"precision": "fp16"}, "fp16"),
    ({"batch_size": 0}, "batch_size"),
    ({"seed": 2**64}, "seed must be"),
    ({"seed": -1}, "seed must be 0 or more"),
    ({"threads": "x"}, "threads must be an integer; got 'x'"),
    ({"save_adversarial": 3}, "save_adversarial must be a path or text or None; got 3"),
    ({"resume": "state.pt"}, "unexpected keyword argument 'resume'"),
    ({"keep_adversarial": True}, "unexpected keyword argument 'keep_adversarial'"),
    ({"foo": 1}, "unexpected keyword argument 'foo'. It takes .* suite, seed, precision"),
]


@pytest.mark.parametrize(("wrong", "complaint"), REFUSED)
def test_a_refused_evaluation_leaves_no_folder_and_no_file(
    wrong: dict[str, Any], complaint: str, run: RunDirectory, tmp_path: Path
) -> None:
    data = load_dataset("mnist")
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    before = sorted(tmp_path.rglob("*"))
    settings: dict[str, Any] = {"num_images": 2, "checks": False, "threads": 1, **wrong}
    with pytest.raises(ConfigError, match=complaint):
        evaluate_network(network, data, Linf(0.1), out=tmp_path / "new" / "place", **settings)
    with pytest.raises(ConfigError, match=complaint):
        evaluate_run(run, other_data=replace(data, name="others"), **settings)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_largest_seed_can_be_stored_and_read(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    settings: dict[str, Any] = {"num_images": 2, "checks": False, "threads": 1}
    for seed in (2**64 - 1, 0):
        evaluate_network(
            network, load_dataset("mnist"), Linf(0.1), out=tmp_path, seed=seed, **settings
        )
    kept = [Evaluation.load(path).seed for path in RunDirectory(tmp_path).evaluations()]
    assert 2**64 - 1 in kept


def test_first_images_that_lack_classes_are_said_to(tmp_path: Path) -> None:
    """Of 300 digits that are stored by class the first 100 cannot be of all ten."""
    mnist = load_dataset("mnist")
    mixed = first_of(mnist.test, torch.arange(300))
    by_class = first_of(mnist.test, mixed.labels.argsort(stable=True))
    data = {name: replace(mnist, test=test) for name, test in (("", by_class), ("+", mixed))}
    run = train(small(updates=2), tmp_path / "run", data=data[""]).run
    few, many, whole = (
        evaluate_run(run, data=data[""], num_images=count, threads=1, checks=False)
        for count in (20, 100, 300)
    )
    other = evaluate_run(run, other_data=data["+"], num_images=100, threads=1, checks=False)
    assert few.caveats == whole.caveats == ()
    (on_others,) = other.caveats
    assert on_others.startswith("on the test images of mnist, not on the run's own")
    (said,) = many.caveats
    there = len(by_class.labels[:100].unique())
    assert said.startswith(f"the first 100 test images are of {there} of the 10 classes of their")
    assert Evaluation.load(run.path / "evaluation-pgd-100-unchecked.json") == many


def first_of(images: Images, places: Tensor) -> ImageSet:
    """These images of a set, in this order, in memory."""
    return ImageSet(
        pixels=images.levels(places), labels=images.labels[places], num_classes=images.num_classes
    )


def test_the_first_images_are_kept_as_the_attacks_left_them(run: RunDirectory) -> None:
    evaluate_run(run, num_images=14, threads=1, checks=False)
    outcomes, kept = Outcomes.load(run.outcomes), Examples.load(run.examples)
    test = load_dataset("mnist").test
    assert (len(kept.images), kept.channels, kept.height, kept.width) == (12, 1, 28, 28)
    moved = 0
    for place, image in enumerate(kept.images):
        clean, attacked = (
            np.frombuffer(b64decode(pixels), np.uint8).astype(float) / 255
            for pixels in (image.clean, image.attacked)
        )
        pixels, _ = test.batch(torch.tensor([place]))
        assert np.abs(clean - pixels.flatten().numpy()).max() < 1 / 255
        assert np.abs(attacked - clean).max() <= 0.3 + 1 / 255
        assert (image.label, image.natural) == (outcomes.labels[place], outcomes.natural[place])
        assert image.broken_by == outcomes.broken_by[place]
        assert image.adversarial == outcomes.adversarial[place]
        moved += np.abs(attacked - clean).max() > 0.1
    assert moved == sum(image.natural == image.label for image in kept.images)


def test_an_evaluation_begun_before_images_were_kept_goes_on_without(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = EvaluationState.state
    monkeypatch.setattr(partial, "EVERY", 0.0)
    monkeypatch.setattr(
        EvaluationState, "state", lambda self: {k: v for k, v in old(self).items() if k != "shown"}
    )

    def stop(_: Progress) -> None:
        if run.partial_evaluations():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, num_images=40, suite="pgd-40", threads=1, checks=False, progress=stop)
    evaluate_run(run, num_images=40, suite="pgd-40", threads=1, checks=False)
    assert run.outcomes.exists()
    assert not run.examples.exists()


def test_a_quick_look_leaves_the_state_of_a_longer_evaluation(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "EVERY", 0.0)

    def stop(_: Progress) -> None:
        if run.partial_evaluations():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, num_images=40, suite="pgd-40", threads=1, checks=False, progress=stop)
    (state,) = run.partial_evaluations()
    before = state.read_bytes()
    for threat in (None, [Linf(0.01), Linf(0.02)]):
        evaluate_run(run, num_images=3, threat=threat, threads=1, checks=False)
        assert run.partial_evaluations() == [state]
        assert state.read_bytes() == before
    evaluate_run(run, num_images=40, suite="pgd-40", threads=1, checks=False)
    assert not run.partial_evaluations()


def test_adversarial_images_for_a_folder_that_is_not_there_are_refused_at_once(
    run: RunDirectory, tmp_path: Path
) -> None:
    def watched(_: Progress) -> None:
        raise AssertionError

    file = tmp_path / "no" / "images.npz"
    with pytest.raises(ConfigError, match="there is no folder"):
        evaluate_run(run, num_images=3, save_adversarial=file, progress=watched)


def test_an_evaluation_is_kept_even_if_its_images_cannot_be_written(
    run: RunDirectory, tmp_path: Path
) -> None:
    (tmp_path / "images.npz").mkdir()
    with pytest.raises(RunError, match="cannot write"):
        evaluate_run(run, num_images=3, checks=False, save_adversarial=tmp_path / "images.npz")
    assert Evaluation.load(run.evaluation).num_images == 3


def test_an_evaluation_by_another_suite_is_kept(run: RunDirectory) -> None:
    quick = evaluate_run(run, num_images=3, threads=1, checks=False)
    evaluate_run(run, num_images=3, suite="pgd-40", threads=1, checks=False)
    assert Evaluation.load(run.evaluation).suite == "pgd-40"
    assert Evaluation.load(run.path / "evaluation-pgd-3-unchecked.json") == quick
    assert (run.path / "outcomes-pgd-3-unchecked.json").exists()
    assert (run.path / "examples-pgd-3-unchecked.json").exists()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)], ids=str)
def test_the_strongest_evaluation_is_the_verdict_whatever_came_when(
    run: RunDirectory, order: tuple[int, ...]
) -> None:
    """A suite beats the one before it, then more images, then checks; nothing is lost."""
    asked = (
        {"num_images": 3, "checks": False},
        {"num_images": 4, "checks": False},
        {"num_images": 4, "checks": True},
        {"num_images": 2, "checks": False, "suite": "pgd-40"},
    )
    found = {number: evaluate_run(run, threads=1, **asked[number]) for number in order}
    assert Evaluation.load(run.evaluation) == found[3]
    assert [kept_as(run, found[number]) for number in range(4)] == [
        "pgd-3-unchecked",
        "pgd-4-unchecked",
        "pgd-4",
        "",
    ]
    assert len(Outcomes.load(run.outcomes).labels) == 2
    for number in range(3):
        shares, outcomes, examples = run.evaluation_files(kept_as(run, found[number]))
        assert Evaluation.load(shares) == found[number]
        assert len(Outcomes.load(outcomes).labels) == found[number].num_images
        assert examples.exists()
    assert len(run.evaluations()) == len(asked)


PGD_ATTACKS = tuple(attack.name for attack in SUITES["pgd"].against(Linf()))
BASE = {"num_images": 100, "robust": 90, "suite": "pgd", "attacks": PGD_ATTACKS}
STRONGER = [
    {},
    {"num_images": 200, "robust": 190},
    {"suite": "pgd + mine", "attacks": (*PGD_ATTACKS, "mine"), "robust": 90},
    {"suite": "pgd-40", "attacks": ("pgd-40",), "num_images": 50, "robust": 49},
    {"suite": "standard", "attacks": ("apgd",), "num_images": 40, "robust": 39},
    {"suite": "standard", "attacks": ("apgd",), "num_images": 60, "robust": 50},
    {"suite": "mine", "attacks": ("mine",), "num_images": 60, "robust": 40},
]
"""Each is stronger than those before it."""
WEAKEST = [
    {"suite": "standard", "attacks": ("apgd",), "num_images": 31, "robust": 0},
    {"suite": "standard", "attacks": ("apgd",), "own_threat": False},
    {"suite": "standard", "attacks": ("apgd",), "classes": (0, 1)},
    {"suite": "standard", "attacks": ("apgd",), "weights": "earlier"},
]
"""Weaker than all of these."""


def stored(found: Evaluation, changes: dict[str, Any]) -> Evaluation:
    asked = {**BASE, **changes}
    total, suite = asked.pop("num_images"), asked.pop("suite")
    left = Proportion(successes=asked.pop("robust"), total=total)
    attacks = [AttackResult(name=name, robust=left, seconds=1) for name in asked.pop("attacks")]
    return replace(
        found,
        suite=suite,
        num_images=total,
        natural=Proportion(successes=total, total=total),
        robust=left,
        attacks=tuple(attacks),
        **asked,
    )


def test_the_strongest_of_several_is_the_same_in_any_order(run: RunDirectory) -> None:
    found = evaluate_run(run, num_images=2, threads=1, checks=False)
    weak = [stored(found, changes) for changes in WEAKEST]
    ordered = [stored(found, changes) for changes in STRONGER]
    for count in range(1, len(ordered) + 1):
        for order in ([*ordered[:count], *weak], [*weak, *reversed(ordered[:count])]):
            assert strongest(order, found.weights) == ordered[count - 1]


def test_a_part_of_a_small_test_set_is_weaker_than_all_of_it(run: RunDirectory) -> None:
    found = evaluate_run(run, num_images=2, threads=1, checks=False)
    whole = stored(found, {"num_images": 20, "robust": 10})
    part = stored(found, {"num_images": 5, "robust": 5, "suite": "standard", "attacks": ("apgd",)})
    for order in ([whole, part], [part, whole]):
        assert strongest(order, found.weights, 20) == whole
        assert strongest(order, found.weights, 5) == part


def test_another_size_of_the_threat_never_becomes_the_verdict(run: RunDirectory) -> None:
    settings = {"num_images": 4, "threads": 1, "checks": False}
    other = evaluate_run(run, threat=Linf(eps=0.1), suite="pgd-40", **settings)
    assert Evaluation.load(run.evaluation) == other
    own = evaluate_run(run, **settings)
    assert Evaluation.load(run.evaluation) == own
    assert (other.own_threat, own.own_threat) == (False, True)
    assert Evaluation.load(run.path / "evaluation-pgd-40-4-Linf-0.1-unchecked.json") == other


def test_several_sizes_are_kept_side_by_side_and_the_own_one_is_the_verdict(
    run: RunDirectory,
) -> None:
    sizes = [Linf(eps=eps) for eps in (0.1, 0.3, 0.2)]
    settings = {"num_images": 20, "threads": 1, "checks": False}
    found = evaluate_run(run, threat=sizes, **settings)
    assert [each.threat for each in found] == ["Linf 0.1", "Linf 0.3", "Linf 0.2"]
    assert found[0].robust >= found[2].robust >= found[1].robust
    assert Evaluation.load(run.evaluation) == found[1]
    assert {each.threat for each in map(Evaluation.load, run.evaluations())} == {
        each.threat for each in found
    }
    one = evaluate_run(run, threat=sizes[:1], **settings)
    assert len(one) == 1
    with pytest.raises(ConfigError, match="holds those of one threat; got 3 threats"):
        evaluate_run(run, threat=sizes, save_adversarial="found.npz", **settings)


def test_a_verdict_on_earlier_weights_does_not_stay(tmp_path: Path) -> None:
    run = train(small(updates=4), tmp_path / "run", until=2).run
    strong = evaluate_run(run, num_images=4, suite="pgd-40", threads=1, checks=False)
    resume(run.path)
    weak = evaluate_run(run, num_images=2, threads=1, checks=False)
    assert Evaluation.load(run.evaluation) == weak
    assert weak.weights != strong.weights
    (kept,) = run.path.glob("evaluation-*.json")
    assert Evaluation.load(kept) == strong


def test_nothing_is_written_when_something_is_wrong(run: RunDirectory) -> None:
    for count in (0, -1, 10_001):
        with pytest.raises(ConfigError, match=rf"must lie in \[1, 10000\]; got {count}"):
            evaluate_run(run, num_images=count)
    with pytest.raises(ConfigError, match="suite must be one of"):
        evaluate_run(run, suite="quick")
    run.weights.write_bytes(run.weights.read_bytes()[:1000])
    with pytest.raises(
        CheckpointError, match=r"weights.safetensors cannot be read; it must be a safetensors file"
    ):
        evaluate_run(run, num_images=3)
    assert not run.evaluation.exists()
    assert not run.outcomes.exists()


def test_a_slice_is_robust_where_it_is_right_both_clean_and_attacked() -> None:
    def logits_of(images: torch.Tensor) -> torch.Tensor:
        brightness = images.flatten(1).mean(1) - 0.5
        return torch.stack([-brightness, brightness], 1)

    images = torch.tensor([0.1, 0.45, 0.55, 0.9]).view(4, 1, 1, 1).expand(4, 1, 2, 2).contiguous()
    labels = torch.tensor([0, 0, 1, 0])
    natural, robust = slice_accuracy(
        logits_of, images, labels, PGD(threat=Linf(eps=0.2), steps=3), seed=0
    )
    assert (natural.successes, robust.successes, robust.total) == (3, 1, 4)


def test_a_network_is_judged_and_left_as_it_is() -> None:
    data = load_dataset("mnist")
    layers = [nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)]
    network = nn.Sequential(*layers).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, labels = data.test.batch(torch.arange(40))
    wanted = evaluate(network, images, labels, Linf(0.1), checks=False)
    for _ in range(2):
        found = evaluate_network(network, data, Linf(0.1), num_images=40, checks=False)
        assert found.outcomes == wanted.outcomes
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Stopped:
    """An attack that leaves images as they are, until a call is interrupted."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, model: Any, images: Tensor, labels: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return images


def test_a_damaged_evaluation_is_named_before_the_attacks(run: RunDirectory) -> None:
    evaluate_run(run, num_images=2, threads=1, checks=False)
    run.evaluation.write_text("{")
    with pytest.raises(RunError, match=r"evaluation\.json must hold JSON.* Or delete it"):
        evaluate_run(run, suite=Stopped(0), num_images=2, threads=1, checks=False)


@pytest.mark.parametrize(("calls", "kept"), [(1, True), (0, False)])
def test_an_interrupted_evaluation_says_whether_it_is_kept(
    calls: int,
    kept: bool,
    run: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(partial, "EVERY", 0.0 if kept else 1e9)
    suite = Stopped(calls)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, suite=suite, num_images=40, batch_size=2, threads=1, checks=False)
    assert bool(run.partial_evaluations()) == kept
    assert any("resumes it" in text for text in caplog.messages) == kept
