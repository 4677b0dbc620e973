"""Natural and robust accuracy under a suite of attacks, image by image.

Shapes: N images of the set, S one image (C H W).  Units: pixels in [0, 1].
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn

from sparring.attacks import Attack, Batch, Classifier, OwnAttack, Threat, as_batch
from sparring.attacks.identity import digest, identity, same_threat
from sparring.attacks.own_threat import called_safely, check_threat
from sparring.attacks.plausible import doubt, threat_text, too_dark
from sparring.attacks.threat import itself, resized
from sparring.data import Batch as LabelledBatch
from sparring.errors import ConfigError
from sparring.evaluation.evaluation_state import SHOWN, EvaluationState
from sparring.evaluation.inputs import Source, materialised
from sparring.evaluation.judge import share_of
from sparring.evaluation.masking_checks import EFFORT, examine, misled, num_checked
from sparring.evaluation.model_under_test import ROUGHLY, ModelUnderTest, ask
from sparring.evaluation.partial import Partial
from sparring.evaluation.progress import Ahead, Observer, Progress, watched
from sparring.evaluation.proofs import Prover
from sparring.evaluation.suites import AttackList, Suite, suite_of
from sparring.evaluation.verdict import Verdict
from sparring.models import (
    PROBES,
    Precision,
    check_callable,
    chosen_device,
    computing_threads,
    evaluation_mode,
    original_module,
    plain_settings,
    possible_precision,
    working_copy,
)
from sparring.records import Evaluation, describe
from sparring.records.checks import at_least
from sparring.records.files import from_home
from sparring.records.typed import typed
from sparring.seeds import derive_seed

Attacks = str | Suite | Attack | AttackList | Callable[..., object]


@overload
def evaluate(
    model: Classifier,
    images: Batch | Source,
    labels: Batch | Threat | None = None,
    threat: Threat | None = None,
    **settings: Any,
) -> Verdict: ...
@overload
def evaluate(
    model: Classifier,
    images: Batch,
    labels: Batch,
    threat: Sequence[Threat],
    **settings: Any,
) -> tuple[Verdict, ...]: ...
@overload
def evaluate(
    model: Classifier,
    images: Source,
    labels: Sequence[Threat],
    **settings: Any,
) -> tuple[Verdict, ...]: ...
@typed
@plain_settings()
def evaluate(  # noqa: PLR0913 - model, images, labels, threat; settings by keyword
    model: Classifier,
    images: Batch | Source,
    labels: Batch | Sequence[int] | Threat | Sequence[Threat] | None = None,
    threat: Threat | Sequence[Threat] | None = None,
    *,
    suite: Attacks = "pgd",
    seed: int = 0,
    precision: Precision = "auto",
    checks: bool = True,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    resume: Path | str | None = None,
    keep_adversarial: bool = False,
    progress: bool | Observer = False,
) -> Verdict | tuple[Verdict, ...]:
    """Natural and robust accuracy of a model on these images, under a suite of attacks.

    `model` maps images to logits: a `torch.nn.Module`, used in evaluation mode and restored
    afterwards, or any differentiable function. It must take batches of any size. A module inside
    `DataParallel` or `torch.compile` is used without it. `images` hold pixels in [0, 1], `labels`
    class indices, both tensors or NumPy arrays; neither is written to. Instead of both, an
    `ImageSet`, a `Dataset` (its test images), a `torch.utils.data.Dataset` or a `DataLoader` is
    read into memory, in its order: `evaluate(model, loader, Linf(8/255))`. The gradient mode,
    autocast, the default dtype and the default device around the call have no effect.
    Several threads may evaluate at once, also one network, if its passes store nothing in it. They
    share the settings of the process, so take processes on a GPU, for convolutions without TF32,
    and where the default dtype is another.
    An image counts as broken once the model itself, in its own arithmetic, misclassifies a version
    of it inside the threat, up to a rounding of 1e-6 · (1 + ε). Every image's random numbers come
    from (`seed`, attack, search, its place in the set) alone. An attack of your own gets one
    `generator` a batch, seeded by the place of the batch's first image, so its random numbers
    depend on `batch_size` and on which images the attacks before it broke.

    A sequence of threats of one kind gives a verdict for each, in the same order. The smallest is
    evaluated first, and its broken images count as broken in the larger ones, by the attack of that
    name. An image that is proved robust in a larger one counts as proved in the smaller ones. So
    robust and certified accuracy do not increase with ε.

    `suite` is a name (`autoattack` and `aa` are `standard`), a `Suite`, or a list of attacks. An
    attack of your own may be any function `attack(model, images, labels)` that returns images; of
    `threat` and `generator` it gets the keyword arguments that it takes. Its images are checked
    like those of other attacks; images outside the threat are refused.

    `precision` is that of the search: "fp32" or "auto", single precision. "bf16" makes the first
    search in bf16 before, and then searches the rest in single precision, so that rounding cannot
    make a model look more robust; it pays only if most images break. A function is searched as it
    is.

    A pass has at most `batch_size` images, by default 128 on a CPU and 1,024 elsewhere (untested).
    Rounding depends on it, so an image at the margin may break with one size and not with another.
    With a `device` a module computes there, and is moved back afterwards.

    `resume` is a file for the state of a running evaluation. If it holds that of the same model,
    images and settings, the evaluation resumes from there, to the same outcomes; any other is
    overwritten. The file stays. It holds the adversarial images of the first 12 images only, and
    the verdict none, unless `keep_adversarial`.

    `progress=True` shows the progress and the time left in a terminal, a notebook or, every ten
    seconds, a log; a function gets a `Progress` after every pass.

    Unless `checks` is `False`, 64 to 128 of the correctly classified images are then used to check
    for signs of gradient masking and of a broken evaluation. A flagged finding says why the robust
    accuracy should not be trusted.

    A suite that certifies first proves images robust by bounds (`certificate`). Proved images
    are not attacked and count as robust (`Evaluation.certified`), but for a brief attack on up to
    64 of them. Without a certificate, a caveat says why.

    Cost: a copy of `images` that are a tensor; one forward pass over all images; that of
    `certificate`; for each search of each attack, its passes over the images that are neither
    proved nor broken, and one forward pass for each image that seems broken; and that of `examine`.
    Raises `ConfigError` for an unknown suite and for wrong images, labels or logits.
    """
    chosen = suite_of(suite)
    at_least("seed", seed, 0)
    check_callable(model)
    images, labels, threat = _arguments(model, images, labels, threat)
    model = original_module(model)
    threats = (threat,) if isinstance(threat, Threat) else threat
    if len(threats) > 1 and resume is not None:
        raise ConfigError("resume keeps one evaluation; got several threats. Leave it out.")
    if device is not None and not isinstance(model, nn.Module):
        images = images.to(chosen_device(str(device)))
    verdicts: dict[int, Verdict] = {}
    before: EvaluationState | None = None
    prover: Prover | None = None
    with moved(model, device), evaluation_mode(model), watched(progress) as observer:
        for each in threats:
            check_threat(each, images)
        threats = [called_safely(each) for each in threats]
        for number in sorted(range(len(threats)), key=lambda number: threats[number].eps):
            tested = ModelUnderTest(model, images, labels, threats[number], batch_size)
            if chosen.certifies and prover is None:
                prover = Prover(tested=tested, images=images, threats=threats, seed=seed)
            verdicts[number], before = _evaluated(
                tested,
                images,
                labels,
                suite=chosen,
                seed=seed,
                precision=precision,
                checks=checks,
                resume=None if resume is None else from_home(resume),
                keep_adversarial=keep_adversarial,
                observer=_of_several(observer, threats, number),
                prover=prover,
                before=before,
            )
    if isinstance(threat, Threat):
        return verdicts[0]
    return tuple(verdicts[number] for number in range(len(threats)))


def _of_several(
    observer: Observer | None, threats: Sequence[Threat], number: int
) -> Observer | None:
    """An observer whose progress names the threat, if there are several."""
    if observer is None or len(threats) == 1:
        return observer
    threat = threat_text(threats[number])
    return lambda now: observer(replace(now, threat=threat))


def _arguments(
    model: Classifier, images: Any, labels: Any, threat: Any
) -> tuple[Tensor, Tensor, Threat | Sequence[Threat]]:
    """Images in memory of their own, labels and threat, also from a data set."""
    of_caller = isinstance(images, Tensor | LabelledBatch)
    if not isinstance(images, Tensor | np.ndarray):
        if threat is None:
            labels, threat = None, labels
        if labels is not None:
            raise ConfigError.expected(
                "a data set has its own labels", "labels as well", "Leave them out."
            )
        images, labels = materialised(images)
    if isinstance(labels, Threat | None) or threat is None:
        raise ConfigError(
            "evaluate() takes images, labels and a threat, or a data set and a threat. "
            "Pass evaluate(model, images, labels, Linf(8/255))."
        )
    sizes = () if isinstance(threat, Threat) else tuple(threat)
    if not isinstance(threat, Threat) and not _differ_in_size_alone(sizes):
        raise ConfigError.expected(
            "a sequence of threats must hold one or more that differ in eps alone",
            ", ".join(f"{type(itself(one)).__name__} {one.eps}" for one in sizes) or "none",
            "Pass [Linf(e) for e in (2/255, 4/255, 8/255)].",
        )
    if isinstance(labels, Sequence):
        labels = np.array(labels)
    images, labels = as_batch(images, labels, "an evaluation", model)
    return images.clone() if of_caller else images, labels, threat


def _differ_in_size_alone(threats: Sequence[Threat]) -> bool:
    """Whether the threats are one in several sizes, so that the smaller ones lie in the larger."""
    kinds, sizes = {type(itself(one)) for one in threats}, {one.eps for one in threats}
    if len(kinds) != 1 or len(sizes) < len(threats):
        return False
    first = threats[0]
    return all(same_threat(resized(called_safely(first), one.eps), one) for one in threats[1:])


@contextmanager
def moved(model: Classifier, device: str | torch.device | None) -> Iterator[None]:
    """A module on another device while the block lasts."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if device is None or first is None or not isinstance(model, nn.Module):
        yield
        return
    home = first.device
    model.to(chosen_device(str(device)))
    try:
        yield
    finally:
        model.to(home)


def _evaluated(  # noqa: PLR0913 - as `evaluate`
    tested: ModelUnderTest,
    images: Shaped[Tensor, " N *S"],
    labels: Int64[Tensor, " N"],
    *,
    suite: Suite,
    seed: int,
    precision: Precision,
    checks: bool,
    resume: Path | None,
    keep_adversarial: bool,
    observer: Observer | None,
    prover: Prover | None,
    before: EvaluationState | None,
) -> tuple[Verdict, EvaluationState]:
    begun = time.perf_counter()
    model, threat = tested.judge.model, tested.judge.threat
    attacks = suite.against(threat)
    judge, device = tested.judge, tested.judge.device
    logits = tested.logits
    suite.check(tuple(images.shape[1:]), logits.shape[1], threat)
    ask(model, images, labels)
    forms, arithmetic = _forms(tested, precision, images)
    right = logits.argmax(1) == labels
    state = EvaluationState(
        judge=judge,
        forms=forms,
        images=images,
        labels=labels,
        logits=logits,
        attacks=attacks,
        seed=seed,
        batch_size=tested.batch_size,
        kept=len(images) if resume is None or keep_adversarial else SHOWN,
        after=_of_checks(int(right.sum()) if checks else 0),
    )
    natural = state.robust_so_far
    if before is not None:
        state.begin_with(before)
    threads = torch.get_num_threads()
    known = identity([*attacks, itself(threat)])
    judged = digest(identity(itself(threat)), images, labels)
    settings = (suite.name, known, seed, arithmetic, threads, state.batch_size, identity(model))
    searches = [(one.attack, one.place, one.form) for one in state.passes]
    settings += (prover is not None, len(state.shown), searches)
    partial = Partial(path=resume, owner=digest((settings, judged), state.logits))
    spent = partial.restore(state)
    findings = None
    if prover is not None and state.proof.held is None:
        _prove(state, prover, observer)
    with computing_threads(tested.threads):
        for progress in state.run():
            if observer is not None:
                observer(progress())
            partial.keep(state, seconds=spent + time.perf_counter() - begun)
        checking = time.perf_counter()
        if checks:
            findings = examine(
                tested,
                images,
                right=right,
                seed=derive_seed(seed, "checks"),
                observer=_checking(state, observer),
            )
    check_seconds = time.perf_counter() - checking
    environment = describe(threads=threads, device=str(device), precision=arithmetic)
    num_classes = state.logits.shape[1]
    caveats = [said for attack in attacks if (said := attack.caveat(num_classes))]
    overstated = misled(attacks, state.broken_by, num_classes)
    if images.ndim in (3, 4):
        shape = tuple(images.shape[1:])
        doubts = doubt(threat, shape if len(shape) == 3 else (1, *shape)), too_dark(images)
        caveats += filter(None, doubts)
    proof = state.proof
    certified = None if proof.held is None else share_of(proof.held)
    evaluation = Evaluation(
        suite=suite.name,
        threat=threat_text(threat),
        natural=natural,
        attacks=state.results(),
        robust=state.robust_so_far,
        num_images=len(labels),
        seed=seed,
        judged=judged,
        method=digest(known) if any(isinstance(each, OwnAttack) for each in attacks) else "",
        precision=arithmetic,
        seconds=spent + time.perf_counter() - begun,
        environment=environment,
        certified=certified,
        certified_seconds=None if certified is None else proof.seconds,
        findings=findings,
        checked_images=num_checked(natural.successes) if checks else None,
        check_seconds=check_seconds if checks else None,
        caveats=(
            *caveats,
            *filter(None, (overstated, proof.why, proof.caveat(state.robust))),
        ),
    )
    verdict = Verdict(
        evaluation=evaluation,
        outcomes=state.outcomes(),
        examples=state.examples(),
        adversarial=state.shown if len(state.shown) == len(images) else None,
        images=images,
    )
    return verdict, state


def _prove(state: EvaluationState, prover: Prover, observer: Observer | None) -> None:
    """Prove images before the attacks, which then leave them out."""
    if observer is not None:
        observer(state.proving(share=0.0))
    proof = prover.proof(state.judge.threat)
    state.proof = proof.checked(state.robust, state.attack_that_broke)
    if observer is not None:
        observer(state.proving(share=1.0))


def _forms(
    tested: ModelUnderTest, precision: Precision, images: Tensor
) -> tuple[list[Classifier], str]:
    """Forms of the model for attacks, the cheapest first, and their arithmetic."""
    model = tested.judge.model
    exact, arithmetic = tested.attacked, tested.arithmetic
    if not tested.has_weights or not isinstance(model, nn.Module):
        return [exact], arithmetic
    if precision != "bf16":
        return [exact], arithmetic
    rough = working_copy(model, possible_precision(model, precision, images[:PROBES]))
    if not tested.agrees(rough.attacked, images, within=ROUGHLY):
        return [exact], arithmetic
    return [rough.attacked, exact], f"{rough.name}, then {arithmetic}"


def _checking(state: EvaluationState, observer: Observer | None) -> Callable[[float], None]:
    """Reports the progress of the checks to an observer, as one more attack."""
    number, robust = len(state.attacks), state.robust_so_far
    images, done = state.after.images, 0.0
    begun = last = time.perf_counter()

    def report(effort: float) -> None:
        nonlocal done, last
        done, now = done + effort, time.perf_counter()
        state.pace.measured(number, effort, images, now - last)
        last = now
        if observer is not None:
            observer(
                Progress(
                    attack="checks",
                    number=number + 1,
                    of=number,
                    share=min(done / EFFORT, 1.0),
                    robust=robust.successes,
                    total=robust.total,
                    left=state.pace.left({number: Ahead(max(EFFORT - done, 0) * images, images)}),
                    spent=sum(state.seconds) + now - begun,
                    effort=state.pace.effort,
                )
            )

    return report


def _of_checks(right: int) -> Ahead:
    images = num_checked(right)
    return Ahead(EFFORT * images, images)
