"""Natural and robust accuracy under a suite of attacks, image by image.

Shapes: N images of the set, S one image (C H W).  Units: pixels in [0, 1].
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn

from sparring.attacks import Batch, Classifier, Threat, as_batch
from sparring.attacks.plausible import doubt, threat_text
from sparring.data import derive_seed
from sparring.errors import ConfigError
from sparring.evaluation.certificates import certified_images
from sparring.evaluation.evaluation_state import EvaluationState, Observer, Partial, Progress
from sparring.evaluation.masking_checks import IMAGES, examine
from sparring.evaluation.model_under_test import ROUGHLY, ModelUnderTest, ask
from sparring.evaluation.suites import named_suite
from sparring.models import (
    PROBES,
    Precision,
    check_callable,
    computing_threads,
    evaluation_mode,
    has_matrix_units,
    original_module,
    plain_settings,
    possible_precision,
    working_copy,
)
from sparring.records import Evaluation, Examples, Outcomes, Proportion, describe
from sparring.records.typed import typed, typed_record


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What an evaluation found, as shares and image by image."""

    evaluation: Evaluation
    """Natural and robust accuracy, attack by attack."""
    outcomes: Outcomes
    """What became of every image."""
    examples: Examples | None = None
    """The first images, clean and attacked, where they are pictures."""


@typed
@plain_settings()
def evaluate(  # noqa: PLR0913 - four things that are judged, settings by keyword
    model: Classifier,
    images: Batch,
    labels: Batch,
    threat: Threat,
    *,
    suite: str = "pgd",
    seed: int = 0,
    precision: Precision = "auto",
    checks: bool = True,
    batch_size: int | None = None,
    resume: Path | str | None = None,
    observer: Observer | None = None,
) -> Verdict:
    """How many of these images a model gets right, and how many no attack of a suite breaks.

    `model` maps images to logits: a `torch.nn.Module`, judged in evaluation mode and left as it
    was, or any differentiable function. It must take batches of any size. What is inside
    `DataParallel` or `torch.compile` is judged without it. `images` hold pixels in [0, 1], `labels`
    class indices, both tensors or NumPy arrays; neither is written to. The gradient mode, autocast,
    the default dtype and the default device around the call change nothing.
    An image counts as broken only once the model itself, in its own arithmetic, has misclassified
    a version of it inside the threat (+ 1e-6). Every image's random numbers come from (`seed`,
    attack, search, its place in the set) alone.

    `precision` is that of the search. "fp32" searches in single precision. "bf16" searches in bf16
    first, and what that leaves again in single precision, so that rounding cannot make a model look
    more robust; "auto" does so where the device has matrix units for bf16 and the model bears it.
    Anything but a module is searched as it is.

    At most `batch_size` images pass through the model at once, by default 128 on a CPU and 1,024
    elsewhere (untested). Rounding depends on it, so an image at the margin may fall with one size
    and not with another.

    `resume` is a file in which an evaluation is kept while it runs: if it holds one of the same
    model, images and settings, this resumes from there, to the same outcomes; any other is
    overwritten. The file stays.

    Afterwards up to 128 images that the model gets right, in one batch, are checked for signs of
    gradient masking and of a broken evaluation, unless `checks` is false: the findings say what was
    seen, and those that are flagged why the robust accuracy should not be believed.

    A suite that certifies adds a lower bound by interval bound propagation (`certified`), or says
    in a caveat why there is none.

    Cost: one forward pass over all images; for each search of each attack, its passes over the
    images that are robust so far, and one forward pass for each image that seems broken; and that
    of `examine`.
    Raises `ConfigError` for an unknown suite and for images, labels or logits that cannot be meant.
    """
    named_suite(suite)
    images, labels = as_batch(images, labels, "an evaluation")
    check_callable(model)
    model = original_module(model)
    with evaluation_mode(model):
        tested = ModelUnderTest(model, images, labels, threat, batch_size)
        return _evaluated(
            tested,
            images,
            labels,
            suite=suite,
            seed=seed,
            precision=precision,
            checks=checks,
            resume=None if resume is None else Path(resume),
            observer=observer,
        )


def _evaluated(  # noqa: PLR0913 - as `evaluate`
    tested: ModelUnderTest,
    images: Shaped[Tensor, " N *S"],
    labels: Int64[Tensor, " N"],
    *,
    suite: str,
    seed: int,
    precision: Precision,
    checks: bool,
    resume: Path | None,
    observer: Observer | None,
) -> Verdict:
    chosen = named_suite(suite)
    begun = time.perf_counter()
    model, threat = tested.judge.model, tested.judge.threat
    attacks = list(chosen.against(threat).values())
    judge, device = tested.judge, tested.judge.device
    logits = tested.logits
    chosen.check(tuple(images.shape[1:]), logits.shape[1])
    ask(model, images, labels)
    forms, arithmetic = _forms(tested, precision, images)
    state = EvaluationState(
        judge=judge,
        forms=forms,
        images=images,
        labels=labels,
        logits=logits,
        attacks=attacks,
        seed=seed,
        batch_size=tested.batch_size,
    )
    natural = state.robust_so_far
    threads = torch.get_num_threads()
    settings = (suite, repr(attacks), seed, arithmetic, threads, state.batch_size)
    partial = Partial(path=resume, owner=_digest(settings, images, labels, state.logits))
    spent = partial.restore(state)
    findings = None
    with computing_threads(tested.threads):
        for progress in state.run():
            if observer is not None:
                observer(progress)
            partial.keep(state, seconds=spent + time.perf_counter() - begun)
        if checks:
            findings = examine(
                tested,
                images,
                right=state.logits.argmax(1) == labels,
                seed=derive_seed(seed, "checks"),
                observer=_checking(state, observer),
            )
    environment = describe(threads=threads, device=str(device), precision=arithmetic)
    num_classes = state.logits.shape[1]
    caveats = [said for attack in attacks if (said := attack.caveat(num_classes))]
    if images.ndim == 4 and (doubtful := doubt(threat, tuple(images.shape[1:]))):
        caveats.append(doubtful)
    lower, why = _certificate(model, threat, state) if chosen.certifies else (None, None)
    evaluation = Evaluation(
        suite=suite,
        threat=threat_text(threat),
        natural=natural,
        attacks=state.results(),
        robust=state.robust_so_far,
        num_images=len(labels),
        seed=seed,
        precision=arithmetic,
        seconds=spent + time.perf_counter() - begun,
        environment=environment,
        certified=lower,
        findings=findings,
        checked_images=min(IMAGES, natural.successes) if checks else None,
        caveats=(*caveats, *([] if why is None else [why])),
    )
    return Verdict(evaluation=evaluation, outcomes=state.outcomes(), examples=state.examples())


def _certificate(
    model: Classifier, threat: Threat, state: EvaluationState
) -> tuple[Proportion | None, str | None]:
    """The lower bound, or why there is none: whatever happens, what the attacks found is kept."""
    if not isinstance(model, nn.Module):
        return None, "no certificate: it needs a torch.nn.Module, whose layers it can see"
    try:
        size = state.batch_size
        held = certified_images(model, state.images, state.labels, threat, batch_size=size)
    except ConfigError as error:
        return None, f"no certificate: {error}"
    except Exception as error:  # of the walk through a network of one's own, or of memory
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return None, f"no certificate: it could not be computed ({reason})"
    if bool((held & ~state.robust).any()):
        return None, f"no certificate: {_contradiction(held, state)}"
    return Proportion(successes=int(held.sum()), total=len(held)), None


def _contradiction(held: Tensor, state: EvaluationState) -> str:
    """That bounds and attacks cannot both be right, with what each of them says."""
    broken = (held & ~state.robust).nonzero().flatten()
    by = state.outcomes().broken_by[int(broken[0])] or "the clean image itself"
    return (
        f"bounds would certify {int(held.sum())} of {len(held)} images, but {len(broken)} of these "
        f"are misclassified, first image {int(broken[0])} (counted from 0, by {by}). The network "
        "computes something that its trace does not show, so the certificate is withdrawn; what "
        "the attacks found stands, and may be too little"
    )


def _forms(
    tested: ModelUnderTest, precision: Precision, images: Tensor
) -> tuple[list[Classifier], str]:
    """The model as attacks see it: the same function, computed in the cheapest faithful ways."""
    model, device = tested.judge.model, tested.judge.device
    exact, arithmetic = tested.attacked, tested.arithmetic
    if not tested.has_weights or not isinstance(model, nn.Module):
        return [exact], arithmetic
    if precision == "auto":
        buffered = any(value.is_floating_point() for value in model.buffers())
        precision = "auto" if has_matrix_units(device) and not buffered else "fp32"
    if precision != "fp32":
        precision = possible_precision(model, precision, images[:PROBES])
    if precision == "fp32":
        return [exact], arithmetic
    rough = working_copy(model, precision)
    if not tested.agrees(rough.attacked, images, within=ROUGHLY):
        return [exact], arithmetic
    return [rough.attacked, exact], f"{rough.name}, then {arithmetic}"


def _checking(state: EvaluationState, observer: Observer | None) -> Callable[[float], None]:
    """Tells an observer how far the checks are, as one more attack."""
    number = len(state.attacks) + 1
    robust = state.robust_so_far

    def tell(share: float) -> None:
        if observer is not None:
            observer(
                Progress(
                    attack="checks",
                    number=number,
                    of=number,
                    share=share,
                    robust=robust.successes,
                    total=robust.total,
                )
            )

    return tell


def _digest(settings: object, *tensors: Tensor) -> str:
    found = hashlib.sha256(repr(settings).encode())
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
