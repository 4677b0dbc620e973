"""An image that is proved needs no attack: attacks prove it by failing."""

from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from sparring.attacks import APGD, FAB, L2, PGD, Linf, Square
from sparring.evaluation import Progress, Suite, certificates, evaluate, partial
from sparring.evaluation.certificates import certificate
from sparring.records import Evaluation, from_json


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def random_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 4),
    ).eval()


def trained_network() -> nn.Module:
    """It tells bright upper halves from bright lower ones with a wide margin."""
    network, images = random_network(0), torch.rand(256, 1, 8, 8, generator=seeded(5))
    labels = (images[:, 0, :4].sum((1, 2)) > images[:, 0, 4:].sum((1, 2))).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network


NETWORKS = {
    "random": lambda: random_network(1),
    "another": lambda: random_network(2),
    "trained": trained_network,
}


def judged(model: nn.Module, count: int = 60) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 1, 8, 8, generator=seeded(3))
    with torch.no_grad():
        return images, model(images).argmax(1)


@pytest.mark.parametrize("norm", [Linf, L2])
@pytest.mark.parametrize("kind", NETWORKS)
def test_no_attack_breaks_a_proved_image(kind: str, norm: type[Linf | L2]) -> None:
    """At the largest of some sizes at which a tenth of the images is proved."""
    model = NETWORKS[kind]()
    images, labels = judged(model)
    threat = norm(eps=0.1)
    held = certificate(model, images, labels, threat).proved
    while held.sum() < 6 and threat.eps > 1e-4:
        threat = norm(eps=threat.eps / 2)
        held = certificate(model, images, labels, threat).proved
    assert held.sum() > 5
    attacks = (
        PGD(steps=20),
        PGD(steps=20, loss="margin", start="corner"),
        APGD(steps=20),
        APGD(steps=10, loss="dlr", targets=3),
        FAB(steps=10, targets=3),
        Square(queries=60),
    )
    suite = Suite(name="all", summary="", attacks=attacks)
    found = evaluate(model, images[held], labels[held], threat, suite=suite, checks=False)
    assert found.robust.share == 1


class Recording:
    """An attack that fails and keeps the images that it was given."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        self.seen.append(images.clone())
        return images


def test_attacks_see_what_is_not_proved_and_the_verdict_tells_both_apart() -> None:
    model, recording = trained_network(), Recording()
    images, labels = judged(model)
    labels[:3] = 1 - labels[:3]  # wrong when clean
    suite = Suite(name="both", summary="", attacks=(recording, PGD(steps=10)), certifies=True)
    verdict = evaluate(model, images, labels, Linf(eps=0.05), suite=suite, checks=False)
    found, outcomes = verdict.evaluation, verdict.outcomes
    assert found.certified is not None
    assert found.withstood is not None
    assert outcomes.proved is not None
    proved = torch.tensor(outcomes.proved)
    assert 0 < found.certified.successes == int(proved.sum()) < found.robust.successes
    assert found.withstood.successes == found.robust.successes - found.certified.successes
    open_ones = ~proved
    open_ones[:3] = False
    (first, *_) = recording.seen
    assert torch.equal(torch.cat(recording.seen).unique(dim=0), images[open_ones].unique(dim=0))
    assert first.shape[1:] == images.shape[1:]
    plain = Suite(name="plain", summary="", attacks=(Recording(), PGD(steps=10)))
    other = evaluate(model, images, labels, Linf(eps=0.05), suite=plain, checks=False)
    assert other.outcomes.broken_by == outcomes.broken_by
    assert f"{found.certified.successes} are proved" in found.proofs
    low, high = 100 * found.certified.share, 100 * found.robust.share
    assert found.bracket == f"certified {low:.1f} % ≤ true ≤ {high:.1f} % attacked"
    assert found.bracket in repr(verdict)
    assert found.bracket in found.proofs
    assert other.evaluation.proofs == other.evaluation.bracket == ""


def test_of_several_sizes_what_is_proved_in_a_larger_is_proved_in_a_smaller() -> None:
    model = trained_network()
    images, labels = judged(model)
    suite = Suite(name="both", summary="", attacks=(PGD(steps=5),), certifies=True)
    sizes = [Linf(eps=eps) for eps in (0.06, 0.02, 0.04)]
    largest, smallest, middle = evaluate(model, images, labels, sizes, suite=suite, checks=False)
    for more, less in ((smallest, middle), (middle, largest)):
        assert more.outcomes.proved is not None
        assert less.outcomes.proved is not None
        assert all(
            a or not b for a, b in zip(more.outcomes.proved, less.outcomes.proved, strict=True)
        )
        assert all(
            b is not None or a is None
            for a, b in zip(more.outcomes.broken_by, less.outcomes.broken_by, strict=True)
        )
    alone = evaluate(model, images, labels, sizes[1], suite=suite, checks=False)
    assert alone.evaluation.certified == smallest.evaluation.certified
    assert smallest.evaluation.certified != largest.evaluation.certified


def test_the_verdict_names_robust_images_that_the_budget_left_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trained_network()
    images, labels = judged(model)
    suite = Suite(name="both", summary="", attacks=(PGD(steps=9),), certifies=True)
    threat = Linf(eps=0.05)
    whole = evaluate(model, images, labels, threat, suite=suite, checks=False)
    assert whole.outcomes.unfinished == (False,) * len(labels)
    assert not any("budget" in caveat for caveat in whole.evaluation.caveats)
    monkeypatch.setattr(certificates, "FRUITLESS", 0)
    found = evaluate(model, images, labels, threat, suite=suite, checks=False)
    bounded = certificate(model, images, labels, threat)
    assert found.outcomes.unfinished == tuple(bounded.unfinished.tolist())
    assert not (bounded.unfinished & bounded.proved).any()
    robust = torch.tensor([by is None for by in found.outcomes.broken_by])
    left = (bounded.unfinished & robust).nonzero().flatten().tolist()
    assert left
    (caveat,) = (one for one in found.evaluation.caveats if "budget" in one)
    assert f"before {len(left)} image" in caveat
    assert f": {left[0]}" in caveat


def test_a_resumed_evaluation_keeps_its_proofs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "EVERY", 0.0)
    model = trained_network()
    images, labels = judged(model)
    suite = Suite(name="both", summary="", attacks=(PGD(steps=9),), certifies=True)
    settings = {"suite": suite, "checks": False}
    whole = evaluate(model, images, labels, Linf(eps=0.05), **settings)

    def stop(now: Progress) -> None:
        if (tmp_path / "partial").exists() and now.number == 1:
            raise KeyboardInterrupt

    resumed = {**settings, "resume": tmp_path / "partial"}
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, images, labels, Linf(eps=0.05), progress=stop, **resumed)
    monkeypatch.setattr("sparring.evaluation.proofs.certificate", None)  # not called again
    found = evaluate(model, images, labels, Linf(eps=0.05), **resumed)
    assert found.outcomes == whole.outcomes
    assert found.evaluation.certified == whole.evaluation.certified


def test_an_evaluation_from_before_proofs_came_first_is_read() -> None:
    model = trained_network()
    images, labels = judged(model)
    suite = Suite(name="both", summary="", attacks=(PGD(steps=2),), certifies=True)
    found = evaluate(model, images, labels, Linf(eps=0.05), suite=suite, checks=False).evaluation
    stored = found.to_dict()
    for name in ("certified_seconds", "check_seconds"):
        del stored[name]
    before = from_json(Evaluation, stored, where="evaluation.json")
    assert (before.certified, before.withstood) == (found.certified, found.withstood)
