"""Own attacks, threats and suites, several ε, data sets of any kind, and progress."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from sparring import APGD, FAB, L2, PGD, ImageSet, Linf, Square, Suite, evaluate
from sparring.attacks import OwnAttack, Threat
from sparring.attacks.crafting import Crafter, Recipe
from sparring.data import Batch
from sparring.errors import ConfigError, SparringError
from sparring.evaluation import Progress
from sparring.evaluation.suites import named_suite
from sparring.training.presets import fast

COUNT, PIXELS = 24, 9


def linear() -> nn.Sequential:
    model = nn.Linear(PIXELS, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, PIXELS, generator=Generator().manual_seed(0)))
        model.bias.copy_(-0.5 * model.weight.sum(1))
    return nn.Sequential(nn.Flatten(), model)


NET = linear()
WEIGHT = next(NET.parameters()).detach()
IMAGES = 0.4 + 0.2 * torch.rand(COUNT, 1, 3, 3, generator=Generator().manual_seed(1))
LABELS = NET(IMAGES).argmax(1)
EPS = (0.002, 0.01, 0.03, 0.08)


def leads() -> Tensor:
    """By how much a margin exceeds what a change of 1 in every pixel can take from it."""
    logits, weight = NET(IMAGES).detach(), WEIGHT
    lead = (logits[:, 0] - logits[:, 1]).abs()
    return lead / (weight[0] - weight[1]).abs().sum()


def judged(threat: Any, **settings: Any) -> Any:
    settings = {"suite": [PGD(steps=10)], "checks": False, **settings}
    return evaluate(NET, IMAGES, LABELS, threat, **settings)


def sign(model: nn.Module, images: Tensor, labels: Tensor, *, threat: Threat) -> Tensor:
    """Optimal on a linear model. It asks the module for its weights, as other libraries do."""
    assert not model.training
    assert next(model.parameters()).shape == (2, PIXELS)
    x = images.requires_grad_()
    nn.functional.cross_entropy(model(x), labels).backward()
    assert x.grad is not None
    return (images + threat.eps * x.grad.sign()).clamp(0, 1)


@pytest.mark.parametrize("suite", ["pgd", [sign], [PGD(steps=1), sign], [APGD(steps=5)]])
def test_robust_accuracy_falls_with_eps_and_is_the_closed_form(suite: Any) -> None:
    verdicts = judged([Linf(eps) for eps in reversed(EPS)], suite=suite)
    found = [one.robust.successes for one in reversed(verdicts)]
    assert found == [int((leads() > eps).sum()) for eps in EPS]
    assert [one.evaluation.threat for one in reversed(verdicts)] == [f"Linf {e:g}" for e in EPS]
    assert found == [judged(Linf(eps), suite=suite).robust.successes for eps in EPS]


def test_what_a_smaller_eps_broke_counts_at_once_in_a_larger_one() -> None:
    asked: list[int] = []

    def only_small(model: Any, images: Tensor, labels: Tensor, *, threat: Threat) -> Tensor:
        asked.append(len(images))
        return sign(model, images, labels, threat=threat) if threat.eps < 0.02 else images

    small, large = judged([Linf(0.01), Linf(0.03)], suite=[only_small])
    assert 0 < small.robust.successes < COUNT
    assert asked == [COUNT, small.robust.successes]
    assert large.outcomes == small.outcomes
    broken = NET(small.adversarial).argmax(1) != LABELS
    assert torch.equal(large.adversarial[broken], small.adversarial[broken])


def test_threats_of_a_sequence_are_of_one_kind() -> None:
    for threats in ([], [Linf(0.1), L2(0.1)], [Linf(0.1), Linf(0.1)]):
        with pytest.raises(ConfigError, match="one or more that differ in eps alone"):
            judged(threats)
    with pytest.raises(ConfigError, match="resume keeps one evaluation"):
        judged([Linf(0.1), Linf(0.2)], resume="file")


def test_adversarial_images_come_back_and_break_what_the_verdict_says() -> None:
    verdict = judged(Linf(0.02))
    broken = NET(verdict.adversarial).argmax(1) != LABELS
    assert int((~broken).sum()) == verdict.robust.successes
    assert [by is not None for by in verdict.outcomes.broken_by] == broken.tolist()
    assert float(Linf(0.02).distance(verdict.adversarial, IMAGES).max()) <= 0.02 + 1e-6


@pytest.mark.parametrize(
    ("attack", "complaint"),
    [
        (lambda model, images, labels: images + 0.2, r"distance of 0\.2; the threat is Linf 0\.1"),
        (lambda model, images, labels: images * torch.nan, "pixels that are NaN"),
        (lambda model, images, labels: images[:1], r"returned shape \(1, 1, 3, 3\)"),
        (lambda model, images: images, "failed: TypeError"),
    ],
)
def test_an_own_attack_is_judged_within_the_threat(attack: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        judged(Linf(0.1), suite=[attack])


def test_an_own_attack_that_changes_the_network_is_refused() -> None:
    def flip(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        for weight in model.parameters():
            weight.data.neg_()
        return images

    def replace(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        linear = next(part for part in model.modules() if isinstance(part, nn.Linear))
        linear.bias = nn.Parameter(-linear.bias)
        return images

    def hook(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        last = model.get_submodule("1")
        last.register_forward_hook(lambda module, inputs, logits: -logits)
        return images

    with pytest.raises(ConfigError, match=r"left .* other hooks .*forward_hooks of 1\)"):
        judged(Linf(0.1), suite=[hook])
    assert torch.equal(NET(IMAGES).argmax(1), LABELS)
    before = {name: value.clone() for name, value in NET.state_dict().items()}
    for attack in (flip, replace):
        with pytest.raises(ConfigError, match=r"changed 1\.\w+ of the network"):
            judged(Linf(0.1), suite=[attack])
        assert all(torch.equal(NET.state_dict()[name], value) for name, value in before.items())


def test_a_module_can_be_an_attack() -> None:
    class Sign(nn.Module):
        @override
        def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            return sign(model, images, labels, threat=Linf(0.03))

    assert judged(Linf(0.03), suite=[Sign()]).robust == judged(Linf(0.03), suite=[sign]).robust


def test_an_own_attack_leaves_no_trace_and_draws_from_the_seed() -> None:
    def noise(model: Any, images: Tensor, labels: Tensor, **offered: Any) -> Tensor:
        model.train()
        return offered["threat"].uniform(images, offered["generator"])

    first, again, other = (judged(Linf(0.02), suite=[noise], seed=seed) for seed in (0, 0, 1))
    assert NET.training
    assert all(weight.grad is None for weight in NET.parameters())
    assert torch.equal(first.adversarial, again.adversarial)
    assert not torch.equal(first.adversarial, other.adversarial)


def test_a_suite_is_a_name_an_alias_an_object_or_a_list() -> None:
    suite = Suite(name="mine", summary="", attacks=(sign,))
    assert judged(Linf(0.1), suite=suite).evaluation.suite == "mine"
    both = judged(Linf(0.1), suite=[PGD(steps=1), sign]).evaluation
    assert both.suite == "pgd-1 cross-entropy + sign"
    assert [attack.name for attack in both.attacks] == ["pgd-1 cross-entropy", "sign"]
    named = [named_suite(name) for name in ("AutoAttack", "AA", "aa")]
    assert [one.name for one in named] == ["standard"] * 3
    with pytest.raises(ConfigError, match="differ in name; got sign twice"):
        judged(Linf(0.1), suite=[sign, sign])
    assert judged(Linf(0.1), suite=[sign, OwnAttack(sign, name="b")]).robust.successes == 0
    with pytest.raises(ConfigError, match="at least one attack"):
        judged(Linf(0.1), suite=[])
    with pytest.raises(ConfigError, match=r"suite must be one of .*Did you mean standard\?"):
        judged(Linf(0.1), suite="standart")


@dataclass(frozen=True, slots=True)
class Dark(Threat):
    """Pixels may only become darker, by at most `eps`: no ball of any norm."""

    eps: float

    @override
    def at(self, eps: float) -> "Dark":
        return Dark(eps)

    @override
    def project(self, x: Tensor, images: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, images - self.eps), images).clamp(0, 1)

    @override
    def ascend(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    @override
    def uniform(self, images: Tensor, generator: Generator) -> Tensor:
        noise = torch.rand(images.shape, generator=generator).to(images)
        return self.project(images - self.eps * noise, images)

    @override
    def distance(self, x: Tensor, images: Tensor) -> Tensor:
        change = (images - x).flatten(1)
        brighter = (change < -1e-6).any(1)
        return change.abs().amax(1).masked_fill(brighter, torch.inf)


def darkest() -> Tensor:
    """How far pixels must darken to break each image of the linear model."""
    logits, weight = NET(IMAGES).detach(), WEIGHT
    lead = (logits[:, 0] - logits[:, 1]).abs()
    way = (weight[0] - weight[1]) * torch.where(LABELS == 0, 1, -1)[:, None]
    return lead / way.clamp_min(0).sum(1)


@pytest.mark.parametrize("suite", [[PGD(steps=10)], [APGD(steps=10)], [sign]])
def test_an_own_threat_is_searched_and_judged(suite: Any) -> None:
    threats = [Dark(eps) for eps in EPS]
    if suite == [sign]:
        with pytest.raises(ConfigError, match=r"distance of inf; the threat is Dark 0\.002"):
            judged(threats, suite=suite)
        return
    verdicts = judged(threats, suite=suite, checks=True)
    assert [one.robust.successes for one in verdicts] == [
        int((darkest() > eps).sum()) for eps in EPS
    ]
    assert verdicts[0].evaluation.threat == "Dark 0.002"
    assert verdicts[0].evaluation.findings


def test_training_batches_of_an_own_threat_stay_in_it() -> None:
    levels = (255 * IMAGES).round().to(torch.uint8)
    images = ImageSet(pixels=levels, labels=LABELS, num_classes=2)
    attack = PGD(Dark(0.1), steps=3)
    recipe = Recipe(attack=attack, batch_size=8, updates=3, seed=0, eps_schedule=lambda at: at)
    crafter = Crafter(recipe, images, torch.device("cpu"))
    batch = crafter.craft(crafter.clean(1), NET, version=0)
    assert batch.eps == pytest.approx(0.05)
    reach = Dark(batch.eps).distance(batch.adversarial, batch.images)
    assert 0 < float(reach.max()) <= batch.eps + 1e-6
    assert repr(batch) == ("AttackedBatch(1: images (8, 1, 3, 3) on cpu, eps 0.05, staleness 1)")


def test_attacks_that_need_more_of_a_threat_say_so() -> None:
    for attack, complaint in ((FAB(), "no `towards`"), (Square(), "Linf and L2 only")):
        with pytest.raises(ConfigError, match=complaint):
            judged(Dark(0.1), suite=[attack])
    with pytest.raises(ConfigError, match=r"no `towards`\. Take suite pgd or pgd-40"):
        judged(Dark(0.1), suite="standard")


def test_a_threat_without_what_it_needs_cannot_be_made_nor_stored() -> None:
    class Incomplete(Threat):
        eps = 0.1

    with pytest.raises(TypeError, match=r"abstract.*ascend.*at.*distance.*project.*uniform"):
        Incomplete()  # pyright: ignore[reportAbstractUsage]
    with pytest.raises(
        ConfigError, match=r"the threat of a run must be Linf, L2 or Custom.*got a Dark"
    ):
        fast(threat=Dark(0.1))


def test_a_data_set_of_any_kind_is_the_same_as_its_tensors() -> None:
    levels = (255 * IMAGES).round().to(torch.uint8)
    held = ImageSet(pixels=levels, labels=LABELS, num_classes=2)
    images, labels = held.batch(torch.arange(COUNT))
    pairs = TensorDataset(images, labels)
    wanted = evaluate(NET, images, labels, Linf(0.03), checks=False).outcomes
    for data in (held, held[:], pairs, DataLoader(pairs, batch_size=5)):
        assert evaluate(NET, data, Linf(0.03), checks=False).outcomes == wanted
        assert evaluate(NET, data, threat=Linf(0.03), checks=False, device="cpu").outcomes == wanted
    with pytest.raises(ConfigError, match="has its own labels"):
        evaluate(NET, pairs, labels, Linf(0.1))
    with pytest.raises(ConfigError, match="or a data set and a threat"):
        evaluate(NET, images, Linf(0.1))
    found = evaluate(NET, IMAGES.double().numpy(), LABELS.tolist(), Linf(0.1), checks=False)
    assert found.outcomes == evaluate(NET, IMAGES, LABELS, Linf(0.1), checks=False).outcomes
    with pytest.raises(ConfigError, match=r"suite\[0\] must be .*got the class PGD"):
        judged(Linf(0.1), suite=[PGD])
    with pytest.raises(ConfigError, match=r"pairs of an image tensor and a class.*ToTensor"):
        evaluate(NET, TensorDataset(images), Linf(0.1))
    with pytest.raises(ConfigError, match=r"device .*tpu9"):
        judged(Linf(0.1), device="tpu9")


def test_a_verdict_keeps_the_images_that_it_judged(tmp_path: Path) -> None:
    copied = IMAGES.clone(), IMAGES.clone()
    asked: list[Any] = [(copied[0], LABELS), (Batch(copied[1], LABELS),)]
    judge: Any = evaluate
    for held, given in zip(copied, asked, strict=True):
        verdict = judge(NET, *given, Linf(0.02), checks=False)
        held.zero_()
        verdict.save_adversarial(tmp_path / "found.pt")
        saved = torch.load(tmp_path / "found.pt", weights_only=True)
        assert torch.equal(saved["images"], IMAGES)


def test_the_global_random_state_is_not_drawn_from() -> None:
    asked: list[Any] = [(IMAGES, LABELS), (TensorDataset(IMAGES, LABELS),)]
    judge: Any = evaluate
    for given in asked:
        before = torch.get_rng_state()
        judge(NET, *given, Linf(0.02), checks=True)
        assert torch.equal(torch.get_rng_state(), before)


def test_a_verdict_is_shown_in_a_few_words() -> None:
    verdict = judged(Linf(0.03))
    assert repr(verdict) == (
        f"natural {verdict.natural}, robust {verdict.robust} "
        "(suite pgd-10 cross-entropy, Linf 0.03, 24 images)"
    )
    assert float(verdict.robust) == verdict.evaluation.robust.share
    assert f"{verdict.robust:.3f}" == f"{verdict.robust.share:.3f}"
    assert verdict.to_dict()["outcomes"]["labels"] == LABELS.tolist()
    assert sum(one.robust.successes for one in verdict.per_class()) == verdict.robust.successes


def test_progress_prints_a_line_for_each_attack_and_ends_at_no_time_left(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.evaluation.progress.SOON", math.inf)
    judged([Linf(0.01), Linf(0.03)], suite=[PGD(steps=2), sign], progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "Linf 0.01, attack 1 of 2, pgd-2 cross-entropy",
        "Linf 0.01, attack 2 of 2, sign",
        "Linf 0.03, attack 1 of 2, pgd-2 cross-entropy",
        "Linf 0.03, attack 2 of 2, sign",
    ]
    seen: list[Progress] = []
    judged(Linf(0.03), suite=[PGD(steps=2), sign], checks=True, progress=seen.append)
    assert seen[0].left
    assert [now.of_all for now in seen][-1] == seen[-1].share == 1.0
    assert seen[-1].attack == "checks"


def test_an_attack_with_another_threat_than_the_evaluations_is_refused() -> None:
    for attack in (PGD(Linf(0.05), steps=2), APGD(eps=0.05, steps=2)):
        assert judged(Linf(0.05), suite=[attack]).robust == judged(Linf(0.05), suite=attack).robust
        with pytest.raises(ConfigError, match=r"got Linf 0.05 of .* evaluation of Linf 0.3"):
            judged(Linf(0.3), suite=[attack])


@pytest.mark.parametrize(
    ("name", "suite", "attacks"),
    [("SUITE", "mine", 2), ("weak", "pgd-1 cross-entropy", 1)],
)
def test_a_suite_is_named_by_a_file(name: str, suite: str, attacks: int) -> None:
    file = Path(__file__).parents[1] / "training" / "own_objects.py"
    found = judged(Linf(0.1), suite=f"{file}:{name}").evaluation
    assert (found.suite, len(found.attacks)) == (suite, attacks)


def test_items_that_are_dicts_are_read_as_dataset_from_reads_them() -> None:
    items: Any = [
        {"image": image, "label": label} for image, label in zip(IMAGES, LABELS, strict=True)
    ]
    unnamed: Any = [{"a": IMAGES[0]}]
    wanted = judged(Linf(0.02))
    for source in (DataLoader(items, batch_size=5), DataLoader(items)):
        found = evaluate(NET, source, Linf(0.02), checks=False)
        assert (found.natural, found.robust) == (wanted.natural, wanted.robust)
    with pytest.raises(SparringError, match="Items that are dicts must hold one image"):
        evaluate(NET, DataLoader(unnamed), Linf(0.02))
    wrongs: list[Any] = [[], list(IMAGES)]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match="pairs of an image tensor and a class, at least one"):
            evaluate(NET, DataLoader(wrong), Linf(0.02))


def test_one_function_is_a_suite() -> None:
    assert judged(Linf(0.02), suite=sign).robust == judged(Linf(0.02), suite=[sign]).robust


def test_an_image_that_a_search_left_misclassified_inside_the_threat_is_broken() -> None:
    for threat in (Linf(0.02), L2(0.05)):
        verdict = judged(threat, suite=[FAB(steps=1)])
        wrong = NET(verdict.adversarial).argmax(1) != LABELS
        assert [by is not None for by in verdict.outcomes.broken_by] == wrong.tolist()


class Hidden(nn.Module):
    """The same logits at the levels of 8-bit images, without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NET

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.round(x * 255) / 255)


def test_the_state_of_another_model_or_attack_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.evaluation.partial.EVERY", 0.0)
    images = torch.round(IMAGES * 255) / 255
    labels = NET(images).argmax(1)

    def found(model: nn.Module, suite: Any, file: str | None) -> int:
        resume = None if file is None else tmp_path / file
        settings: Any = {"suite": suite, "checks": False, "resume": resume}
        return evaluate(model, images, labels, Linf(0.05), **settings).robust.successes

    hidden = found(Hidden(), "pgd", "one")
    assert found(NET, "pgd", "one") == found(NET, "pgd", None) < hidden

    def weak(model: Any, images: Tensor, labels: Tensor) -> Tensor:
        return images

    def strong(model: Any, images: Tensor, labels: Tensor) -> Tensor:
        return sign(model, images, labels, threat=Linf(0.05))

    strong.__name__ = "weak"
    assert found(NET, [weak], "two") == COUNT
    assert found(NET, [strong], "two") == found(NET, [sign], None) < COUNT


def test_logits_in_bf16_are_judged() -> None:
    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return NET(x).bfloat16()

    verdict = evaluate(Rounded(), IMAGES, LABELS, Linf(0.02), checks=False)
    assert verdict.robust.successes < COUNT
