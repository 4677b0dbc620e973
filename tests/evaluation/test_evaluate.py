"""The verdict on a model: counted image by image, by the model itself, whatever the attack says."""

from collections.abc import Callable
from functools import partial as partial_of
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import (
    APGD,
    FAB,
    L2,
    PGD,
    Classifier,
    Linf,
    Square,
    Threat,
)
from sparring.errors import ConfigError
from sparring.evaluation import SUITES, Progress, Suite, Verdict, certificates, partial
from sparring.evaluation import evaluate as evaluate_and_check
from sparring.evaluation import suites as suites_module
from sparring.models import PaperCNN, Precision
from sparring.models.forms import precision_of
from sparring.records.evaluation import NAMED_SUITES
from sparring.records.text import arithmetic_text

PIXELS = 12

evaluate = partial_of(evaluate_and_check, checks=False)
"""The checks have tests of their own, in test_checks.py."""


def linear(generator_seed: int = 0) -> nn.Linear:
    layer = nn.Linear(PIXELS, 2).double()
    generator = torch.Generator().manual_seed(generator_seed)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        layer.bias.zero_()
    return layer


def images_of(count: int) -> Tensor:
    """Pixels far from 0 and 1, so that the box never binds."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, PIXELS, generator=generator, dtype=torch.float64) * 0.4 + 0.3


def truth(model: nn.Linear, images: Tensor, labels: Tensor, reach: Tensor) -> Tensor:
    """Where a linear model is right by more than the most that a change can take from it."""
    signed = (2 * labels - 1).double()
    difference = model.weight[1] - model.weight[0]
    return ((images @ difference) * signed - reach > 0).detach()


def verdict_of(model: nn.Linear, images: Tensor, labels: Tensor) -> Verdict:
    return evaluate(model, images, labels, Linf(eps=0.05))


def test_accuracies_of_a_linear_model_are_the_closed_form_ones() -> None:
    model, images = linear(), images_of(300)
    labels = torch.arange(300) % 2
    difference = model.weight[1] - model.weight[0]
    # In L2 the search comes near the worst case, along the sphere, but not all the way to it.
    for threat, norm, reached in (
        (Linf(eps=0.05), difference.norm(1), 1.0),
        (L2(eps=0.2), difference.norm(2), 0.99),
    ):
        verdict = evaluate(model, images, labels, threat)
        natural = truth(model, images, labels, torch.zeros(()))
        robust = truth(model, images, labels, threat.eps * norm)
        assert 0 < robust.sum() < natural.sum() < 300
        assert verdict.evaluation.natural.successes == natural.sum()
        nearly = truth(model, images, labels, reached * threat.eps * norm)
        assert robust.sum() <= verdict.evaluation.robust.successes <= nearly.sum()
        held = [
            right == label and breaker is None
            for right, label, breaker in zip(
                verdict.outcomes.natural,
                verdict.outcomes.labels,
                verdict.outcomes.broken_by,
                strict=True,
            )
        ]
        assert all(right for right, sure in zip(held, robust.tolist(), strict=True) if sure)


def test_a_model_in_double_precision_is_shown_its_own_images() -> None:
    model = nn.Sequential(nn.Flatten(), linear())
    images = images_of(4).view(4, 1, 3, 4)
    verdict = evaluate(model, images, torch.arange(4) % 2, Linf(eps=0.05))
    assert verdict.examples is not None
    assert len(verdict.examples.images) == 4


def test_every_broken_image_names_its_attack_and_the_class_it_was_taken_for() -> None:
    images, labels = images_of(200), torch.arange(200) % 2
    verdict = verdict_of(linear(), images, labels)
    outcomes = verdict.outcomes
    names = {attack.name for attack in verdict.evaluation.attacks}
    broken = [place for place, name in enumerate(outcomes.broken_by) if name is not None]
    assert broken
    for place in broken:
        assert outcomes.broken_by[place] in names
        assert outcomes.natural[place] == outcomes.labels[place] != outcomes.adversarial[place]
    counts = verdict.evaluation.natural.successes - verdict.evaluation.robust.successes
    assert len(broken) == counts


def test_the_same_seed_gives_the_same_outcome_for_every_image() -> None:
    model = PaperCNN("torch", generator=torch.Generator().manual_seed(0))
    images = torch.rand(140, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    labels = model(images).argmax(1)
    one, again, other = (
        evaluate(model, images, labels, Linf(eps=2e-4), seed=seed).outcomes for seed in (0, 0, 1)
    )
    assert one == again
    assert one.labels == other.labels


def remembering(seen: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """A model that is right about everything and remembers what it is shown."""

    def logits_of(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return torch.stack([images.sum(1) * 0 + 1, images.sum(1) * 0], 1)

    return logits_of


def test_an_image_starts_from_the_same_noise_whichever_others_are_attacked() -> None:
    images, labels = images_of(200), torch.zeros(200, dtype=torch.int64)
    everyone: list[Tensor] = []
    evaluate(remembering(everyone), images, labels, Linf(eps=0.1))
    alone: list[Tensor] = []
    some_wrong = labels.clone()
    some_wrong[50:150] = 1
    evaluate(remembering(alone), images, some_wrong, Linf(eps=0.1))
    shown = torch.cat(everyone)
    starts = torch.cat([batch for batch in alone if not torch.isin(batch, images).all()])
    assert len(starts)
    assert all(bool((shown == start).all(1).any()) for start in starts)


class Sly(nn.Module):
    """Wrong about everything that is not exactly a clean image in [0.3, 0.7]; gradient given."""

    def forward(self, images: Tensor) -> Tensor:
        outside = (images.flatten(1).amax(1) > 2).double()
        return torch.stack([1 - 2 * outside, outside], 1) + 0 * images.sum(1, keepdim=True)


def leave_the_threat(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack with a fault: it returns images far outside ε and the pixel range."""
    monkeypatch.setattr(PGD, "step", lambda self, model, x, images, labels: images + 5)


def test_an_attack_that_leaves_the_threat_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_the_threat(monkeypatch)
    images, labels = images_of(10), torch.zeros(10, dtype=torch.int64)
    verdict = evaluate(Sly(), images, labels, Linf(eps=0.1))
    assert Sly()(images + 5).argmax(1).eq(1).all()
    assert verdict.evaluation.robust.successes == 10


def test_a_module_is_judged_in_evaluation_mode_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(PIXELS), nn.Linear(PIXELS, 2))
    model.train()
    model[2].eval()
    images = images_of(60).float()
    with torch.no_grad():
        labels = model.eval()(images).argmax(1)
    model.train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    verdict = evaluate(model, images, labels, Linf(eps=1e-6))
    assert verdict.evaluation.natural.successes == 60
    assert [part.training for part in model] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


def test_the_global_random_state_is_left_alone() -> None:
    model = linear()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    verdict_of(model, images_of(5), torch.tensor([0, 1, 0, 1, 0]))
    assert torch.equal(torch.get_rng_state(), state)


class Centred(nn.Linear):
    """Subtracts a constant that is neither parameter nor buffer, so that it fails in bf16."""

    mean = torch.full((PIXELS,), 0.5)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input - self.mean)


def test_bf16_is_searched_only_if_asked_for_and_able(monkeypatch: pytest.MonkeyPatch) -> None:
    able = {"amx_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    images, labels = images_of(8).float(), torch.arange(8) % 2
    precisions = [
        evaluate(
            nn.Linear(PIXELS, 2), images, labels, Linf(eps=0.05), precision=asked
        ).evaluation.precision
        for asked in ("auto", "fp32", "bf16")
    ]
    direct = "fp32 direct"
    assert precisions == [direct, direct, f"bf16 shadow, channels-last, then {direct}"]
    with pytest.raises(ConfigError, match="failed in precision bf16"):
        evaluate(Centred(PIXELS, 2), images, labels, Linf(eps=0.05), precision="bf16")


class Cast(nn.Module):
    """A network with weights of another type than its images."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner.to(dtype), dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images.to(self.dtype)).float()


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float64, "fp64"),
        (torch.float32, "fp32"),
        (torch.float16, "fp16"),
        (torch.bfloat16, "bf16"),
    ],
)
def test_a_searchs_arithmetic_is_named_by_the_dtype_of_the_weights(
    dtype: torch.dtype, name: str
) -> None:
    images, labels = images_of(8).float(), torch.arange(8) % 2
    plain, dropping = nn.Linear(PIXELS, 2), nn.Sequential(nn.Dropout(), nn.Linear(PIXELS, 2))
    for network, form in ((plain, "direct"), (dropping, "folded")):
        verdict = evaluate(Cast(network, dtype), images, labels, Linf(0.05), checks=False)
        assert verdict.evaluation.precision == f"{name} {form}"
        assert arithmetic_text(verdict.evaluation.precision) == name
    mixed = nn.Sequential(plain.float(), nn.Linear(2, 2).double())
    assert precision_of(mixed) == "fp32/fp64"
    assert precision_of(nn.Flatten()) == "fp32"


def test_an_observer_sees_every_batch_and_the_robust_accuracy_so_far() -> None:
    seen: list[Progress] = []
    images, labels = images_of(300), torch.arange(300) % 2
    verdict = evaluate(linear(), images, labels, Linf(eps=0.05), progress=seen.append)
    attacks = [attack.name for attack in verdict.evaluation.attacks]
    assert list(dict.fromkeys(step.attack for step in seen)) == attacks
    assert [step.robust for step in seen] == sorted((s.robust for s in seen), reverse=True)
    for name in attacks:
        shares = [step.share for step in seen if step.attack == name]
        assert shares == sorted(shares)
        assert 0 < shares[0] < shares[-1] == 1
    assert seen[-1].robust == verdict.evaluation.robust.successes


@pytest.mark.parametrize(("precision", "before"), [("fp32", 0), ("bf16", 1)])
def test_restarts_go_to_robust_images_only_and_bf16_searches_once_before(
    precision: Precision, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []
    step = PGD.step

    def counting(
        attack: PGD,
        logits_of: Classifier,
        x: Tensor,
        images: Tensor,
        loss_of: Callable[[Tensor], Tensor],
    ) -> Tensor:
        searched.append(len(x))
        return step(attack, logits_of, x, images, loss_of)

    monkeypatch.setattr(PGD, "step", counting)
    monkeypatch.setattr(
        suites_module,
        "SUITES",
        {"three": Suite(name="three", summary="", attacks=(PGD(steps=3, restarts=3),))},
    )
    images, labels = images_of(100), torch.arange(100) % 2
    verdict = evaluate(linear(), images, labels, Linf(eps=0.05), suite="three", precision=precision)
    left = verdict.evaluation.robust.successes
    natural = verdict.evaluation.natural.successes
    assert natural > left > 0
    assert searched == [natural] * 3 + [left] * (6 + 3 * before)


def test_suites_are_those_that_records_name_and_in_that_order() -> None:
    assert tuple(SUITES) == NAMED_SUITES


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_has_distinct_attacks_and_takes_the_threat_it_is_given(name: str) -> None:
    suite = SUITES[name]
    against = suite.against(L2(eps=2))
    assert suite.name == name
    assert len(against) == len(suite.attacks)
    assert all(attack.threat == L2(eps=2) for attack in against)
    assert [attack.against(Linf()) for attack in against] == list(suite.attacks)


def test_the_strong_suite_is_100_steps_from_each_of_5_starts() -> None:
    assert SUITES["pgd-100x5"].attacks == (PGD(steps=100, restarts=5, loss="cross-entropy"),)
    assert SUITES["pgd-40"].attacks == (PGD(steps=40, restarts=1),)


def test_the_standard_suite_is_that_of_autoattack() -> None:
    """Its attacks in its order, with the parameters that its authors published."""
    first, second, third, fourth = SUITES["standard"].against(Linf())
    assert first == APGD(loss="cross-entropy", steps=100, restarts=1, targets=0)
    assert second == APGD(loss="dlr", steps=100, restarts=1, targets=9)
    assert third == FAB(steps=100, targets=9)
    assert fourth == Square(queries=5000, share=0.8)
    ranks = [search.rank for search in second.searches(10)]
    assert ranks == [search.rank for search in third.searches(10)] == list(range(1, 10))


def short_of_memory(images: Tensor, threat: Threat) -> None:
    raise torch.OutOfMemoryError("tried to allocate 9 GiB\nand more lines")


def test_a_suite_that_certifies_brackets_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite(name="both", summary="", attacks=(PGD(steps=10),), certifies=True)
    monkeypatch.setattr(suites_module, "SUITES", {"both": suite})
    images, labels, model = images_of(300), torch.arange(300) % 2, linear()
    threat = Linf(eps=0.05)
    found = evaluate(model, images, labels, threat, suite="both").evaluation
    gap = (model.weight[1] - model.weight[0]).norm(1)
    true = int(truth(model, images, labels, threat.eps * gap).sum())
    assert found.certified is not None
    assert 0 < found.certified.successes <= true <= found.robust.successes
    assert found.caveats == ()
    opaque = evaluate(lambda x: model(x), images, labels, threat, suite="both").evaluation
    assert opaque.certified is None
    assert opaque.caveats[0].startswith("no certificate: it needs a torch.nn.Module")
    monkeypatch.setattr(certificates, "around", short_of_memory)
    kept = evaluate(model, images, labels, threat, suite="both").evaluation
    assert kept.robust == found.robust
    assert kept.caveats == (
        "no certificate: it could not be computed (OutOfMemoryError: tried to allocate 9 GiB)",
    )


def test_few_classes_are_attacked_as_far_as_they_go_and_it_is_said() -> None:
    images, labels = images_of(12), torch.arange(12) % 2
    threat = Linf(eps=0.2)
    suite = [APGD(threat), APGD(threat, loss="dlr", targets=9), FAB(threat)]
    assert [attack.caveat(10) for attack in suite] == [None] * 3
    for attack in suite:
        found = attack(linear(), images, labels, generator=torch.Generator().manual_seed(0))
        assert (linear()(found).argmax(1) != labels).all()
    caveats = [attack.caveat(2) for attack in suite]
    assert caveats == [
        None,
        "apgd-t has the margin as its loss, because dlr needs 4 classes and 1 of 9 targets",
        "fab-t has 1 of 9 targets",
    ]


@pytest.mark.parametrize("stop", [1, 7, 30, 45])
def test_an_evaluation_that_was_stopped_ends_as_if_it_had_not(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "EVERY", 0.0)
    model = PaperCNN("torch", generator=torch.Generator().manual_seed(0))
    images = torch.rand(9, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    labels = model(images).argmax(1)
    attacks = (PGD(steps=5, restarts=2), APGD(steps=9), FAB(steps=4, targets=3), Square(queries=20))
    suite = Suite(name="short", summary="", attacks=attacks)
    monkeypatch.setattr(suites_module, "SUITES", {"short": suite})
    judged: Any = partial_of(evaluate, suite="short", precision="bf16")
    threat = Linf(eps=0.01)
    whole = judged(model, images, labels, threat)
    assert 0 < whole.evaluation.robust.successes < 9
    passes = 0

    def stopping(progress: Progress) -> None:
        nonlocal passes
        passes += 1
        if passes == stop + 1:
            raise KeyboardInterrupt

    file = tmp_path / "partial.pt"
    with pytest.raises(KeyboardInterrupt):
        judged(model, images, labels, threat, resume=file, progress=stopping)
    found = judged(model, images, labels, threat, resume=file)
    assert found.outcomes == whole.outcomes
    assert [a.robust for a in found.evaluation.attacks] == [
        a.robust for a in whole.evaluation.attacks
    ]
    again: list[Progress] = []
    judged(model, images, labels, threat, resume=file, progress=again.append)
    assert len(again) < passes + stop


def test_what_a_file_says_of_squares_to_come_is_drawn_anew(tmp_path: Path, monkeypatch) -> None:
    """A damaged plan would point outside the images."""
    monkeypatch.setattr(partial, "EVERY", 0.0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    images = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = model(images).argmax(1)
    judged: Any = partial_of(evaluate, suite=[Square(queries=40)], checks=False)
    whole = judged(model, images, labels, Linf(eps=0.02))
    assert whole.evaluation.robust.successes > 0
    seen: list[Progress] = []

    def stopping(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 22:
            raise KeyboardInterrupt

    file = tmp_path / "partial.pt"
    with pytest.raises(KeyboardInterrupt):
        judged(model, images, labels, Linf(eps=0.02), resume=file, progress=stopping)
    kept = torch.load(file)
    assert kept["survey"]["search"]["plan"].fill_(1e6).numel() > 0
    torch.save(kept, file)
    found = judged(model, images, labels, Linf(eps=0.02), resume=file)
    assert found.outcomes == whole.outcomes


def test_the_file_of_another_evaluation_is_passed_over(tmp_path: Path, caplog) -> None:
    file = tmp_path / "partial.pt"
    images, labels = images_of(8), torch.arange(8) % 2
    expected = evaluate(linear(), images, labels, Linf(eps=0.05))
    for content in (b"", b"not a file of ours"):
        file.write_bytes(content)
        found = evaluate(linear(), images, labels, Linf(eps=0.05), resume=file)
        assert found.outcomes == expected.outcomes
        assert "cannot be used" in caplog.text
        caplog.clear()
    torch.save({"owner": "someone else", "survey": {}, "seconds": 5.0}, file)
    found = evaluate(linear(), images, labels, Linf(eps=0.05), resume=file)
    assert found.outcomes == expected.outcomes
    assert "of another evaluation" in caplog.text


def test_wrong_input_is_refused() -> None:
    model, images, labels = linear(), images_of(4), torch.tensor([0, 1, 0, 1])
    threat = Linf(eps=0.1)
    with pytest.raises(ConfigError, match=r"suite must be one of pgd, .*got \"pgd-4\".*pgd-40"):
        evaluate(model, images, labels, threat, suite="pgd-4")
    with pytest.raises(ConfigError, match="at least one image"):
        evaluate(model, images[:0], labels[:0], threat)
    with pytest.raises(ConfigError, match=r"pixels must lie in \[0, 1\]"):
        evaluate(model, images * 255, labels, threat)
    with pytest.raises(ConfigError, match=r"labels must be int64 of shape \(4,\)"):
        evaluate(model, images, labels[:3], threat)
    with pytest.raises(ConfigError, match="at least 6 classes for these labels"):
        evaluate(model, images, labels + 4, threat)
