"""The monitor of a run: validation, the notice of a dead start, and the overfitting alarm.

Units: accuracies are shares in [0, 1].
Source of the alarm: Wong, Rice & Kolter 2020, "Fast is better than free", section 5: training
against one step loses all robustness within a few hundred updates, and the training loss does not
show it.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from sparring.attacks import PGD, AttackedBatch
from sparring.data import Dataset, sample
from sparring.evaluation import certificate
from sparring.evaluation.judge import correct, slice_accuracy
from sparring.models import working_copy
from sparring.records.text import counted
from sparring.training.comparison import (
    AccuracyGap,
    Comparer,
    Comparison,
    clean_accuracy_in_training,
)
from sparring.training.config import TrainConfig
from sparring.training.objectives import Certified
from sparring.training.optimizers import WarmUp
from sparring.training.trainer import Step, Trainer

WINDOW = 100
"""Updates of guessing in one window; a dead start takes two windows."""
MARGIN = 0.02
"""Largest distance from ln(classes) of a mean loss of guessing."""
SIGHTINGS = 3
"""Comparisons in a row with a gap before there is a notice."""
LASTING = 50
"""Updates that a gap must last: running statistics and averages lag behind a slow start."""
SOONER = 25
"""Updates after which a comparison with a new gap is repeated."""

WAYS: Mapping[str, str] = MappingProxyType(
    {
        "examples": (
            "stale examples: of the latest batch {trained} are right as attacked for earlier "
            "weights, {judged} when attacked afresh (step {step}). The examples are too old to "
            "train against. Lower the staleness (--staleness, --lag) or the learning rate "
            "(--set optimizer.learning_rate=...)."
        ),
        "memory": (
            "overfitting to the training images: of the latest batch {trained} are right in "
            "training, of {images} validation images {judged} (step {step}). Use more images, "
            "augment them (--set augmentation=...) or train for fewer updates (--updates)."
        ),
        "mode": (
            "training mode and evaluation mode differ: of {images} validation images {trained} are "
            "right in training mode, {judged} in evaluation mode (step {step}). Layers such as "
            "BatchNorm use the statistics of the batch in the first and running statistics in the "
            "second. Lower the learning rate (--set optimizer.learning_rate=...), or use layers "
            "without running statistics, such as GroupNorm."
        ),
        "clean": (
            "clean images are lost: of {images} validation images {trained} are right under the "
            "run's own attack, {judged} when clean (step {step}). The network reads the label from "
            "the attack. Use a random start (--set attack.start=uniform), more steps (--steps), a "
            "lower learning rate (--set optimizer.learning_rate=...) or clean images in the "
            "objective (--objective mixed)."
        ),
        "attack": (
            "catastrophic overfitting: of {images} validation images {trained} withstand the run's "
            "own attack of {own_steps}, {judged} one of {long_steps} (step {step}). The network "
            "learns to mislead its attack and not to be robust, and its training accuracy does not "
            "show it. Some recover as the learning rate falls. Otherwise train with more steps "
            "(--steps) or a random start (--set attack.start=uniform)."
        ),
        "own attack": (
            "robust to its own attack only: of {images} validation images {trained} withstand the "
            "run's own attack, {judged} PGD of {long_steps} steps (step {step}). The attack is too "
            "weak to train against, or the network learns to mislead it (catastrophic overfitting) "
            "and its training accuracy does not show it. Train against a stronger attack, or PGD "
            "(--attack pgd)."
        ),
        "precision": (
            "bf16 and single precision differ: of {images} validation images {trained} withstand "
            "the run's own attack in bf16, {judged} in single precision (step {step}). Train in "
            "single precision (--precision fp32)."
        ),
        "average": (
            "averaged weights lag behind: of {images} validation images {trained} withstand the "
            "run's own attack with the current weights, {judged} with the averaged weights, which "
            "are evaluated (step {step}). Average over fewer updates (--set average=0.9) or not at "
            "all (--set average=0)."
        ),
        "together": (
            "training and evaluation differ: of the latest batch {trained} are right in training, "
            "of {images} validation images {judged} in evaluation (step {step}). Several small "
            "differences add up. The rows of metrics.jsonl with a clean_accuracy list them."
        ),
    }
)
"""The notice for each kind of gap between training and evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationResult:
    """Accuracy of the averaged weights on images of the validation set."""

    step: int
    """Updates that the weights have seen."""
    natural_accuracy: float
    """Share of clean images classified correctly."""
    robust_accuracy: float
    """Share classified correctly also under the PGD attack."""
    validation_images: int
    """Number of images."""
    certified_accuracy: float | None = None
    """Share proved robust by intervals, for the objective "certified"."""


class ValidationSlice:
    """A `sample` of the validation set, attacked in the same way each time."""

    def __init__(self, config: TrainConfig, dataset: Dataset, device: torch.device) -> None:
        images, labels = sample(dataset.validation, config.validation.images)
        self._images, self._labels = images.to(device), labels.to(device)
        self._attack = PGD(threat=config.threat, steps=config.validation.steps)
        self._config = config

    def validate(self, trainer: Trainer) -> ValidationResult:
        """Measure the averaged weights.

        Cost: `validation.steps` + 1 passes over the images; a dozen more for a certificate.
        """
        is_certified = isinstance(self._config.objective, Certified)
        # A certificate is of the network in single precision, and so is all that it is beside.
        precision = "fp32" if is_certified else trainer.precision
        network = working_copy(trainer.average.network, precision)
        natural, robust = slice_accuracy(
            network.attacked, self._images, self._labels, self._attack, seed=self._config.seed
        )
        return ValidationResult(
            step=trainer.version,
            natural_accuracy=natural.share,
            robust_accuracy=robust.share,
            validation_images=len(self._labels),
            certified_accuracy=self._certified(trainer.average.network) if is_certified else None,
        )

    def _certified(self, network: nn.Module) -> float:
        threat, some = self._config.threat, (self._images, self._labels)
        return certificate(network, *some, threat, passes=0).proved.float().mean().item()

    def natural_accuracy(self, trainer: Trainer) -> float:
        """Of the current weights, in evaluation or in training mode, whichever is higher.

        Cost: two passes over the images.
        """
        judged = correct(trainer.copy.attacked, self._images, self._labels).float().mean().item()
        return max(judged, clean_accuracy_in_training(trainer, self._images, self._labels) or 0.0)


class DeadStart:
    """Detects training that is stuck at guessing: a loss of ln(classes), on clean images too.

    It occurs for some seeds with a full-sized ε and too large a learning rate. A network that is
    right only on clean images may have the same loss for hundreds of updates, as with the preset
    `paper`, and is not stuck. A slow start may last one window.
    """

    def __init__(self, num_classes: int, config: TrainConfig | None = None) -> None:
        self._guessing = math.log(num_classes)
        chance = 1 / num_classes
        self._learned = min(2 * chance, (1 + chance) / 2)
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._guessed = 0
        self._said = self._recovered = False
        self._advice = _advice(config)

    def notice(
        self, step: Step, natural_accuracy: Callable[[], float], *, last: bool = False
    ) -> str | None:
        """A notice of a dead start, and one if training recovers; `None` otherwise.

        A dead start takes two windows of guessing in a row, or the end of the run.
        `natural_accuracy` is called at the end of each window.
        """
        self._losses.append(step.loss)
        ended = len(self._losses) == WINDOW or (last and self._guessed > 0)
        if not ended or self._recovered:
            return None
        if self._said:
            return self._recovery(step, natural_accuracy)
        if not self._looks_like_guessing():
            if len(self._losses) == WINDOW:
                self._guessed = 0
            return None
        self._guessed += len(self._losses)
        self._losses.clear()
        known = natural_accuracy()
        learning = known > self._learned
        if learning or not (last or self._guessed > WINDOW):
            self._guessed = 0 if learning else self._guessed
            return None
        self._said = True
        return (
            f"dead start: the loss has been {self._guessing:.2f} = ln(classes), that of guessing, "
            f"for {self._guessed} updates, and natural accuracy is {known:.0%} (step {step.step})"
            f". {self._advice}"
        )

    def _recovery(self, step: Step, natural_accuracy: Callable[[], float]) -> str | None:
        """The notice that training recovered, once the network is right on clean images."""
        guesses = self._looks_like_guessing()
        self._losses.clear()
        if guesses or (known := natural_accuracy()) <= self._learned:
            return None
        self._recovered = True
        return f"no longer so: dead start; natural accuracy is {known:.0%} (step {step.step})."

    def _looks_like_guessing(self) -> bool:
        if max(self._losses) > 2 * self._guessing:
            return False
        return abs(sum(self._losses) / len(self._losses) - self._guessing) <= MARGIN


def _advice(config: TrainConfig | None) -> str:
    """The remedy; a warm-up of ε that exists is lengthened."""
    warm = config is not None and isinstance(config.eps_schedule, WarmUp)
    warming = (
        "lengthen the warm-up of ε (--set eps_schedule.share=...)"
        if warm
        else "warm up ε (--set eps_schedule.kind=WarmUp)"
    )
    return (
        f"If validation accuracy stays there, stop and {warming}, lower the learning "
        "rate (--set optimizer.learning_rate=...) or take another seed (--seed)."
    )


@dataclass(slots=True)
class _Sighting:
    """A gap in the latest comparison."""

    since: int
    """Update of the first comparison in a row with it."""
    times: int = 0
    """Comparisons in a row."""
    said: bool = False
    """Whether there was a notice."""


class OverfittingAlarm:
    """Compares training and evaluation at intervals; a notice says if a gap lasts or has ended."""

    def __init__(self, config: TrainConfig, dataset: Dataset, device: torch.device) -> None:
        self._comparer = Comparer(config, dataset, device)
        self._updates, self._every = config.updates, config.validation.alarm_every
        self._seen: dict[str, _Sighting] = {}
        self._again = 0

    def due(self, version: int) -> bool:
        """Whether to compare after this update: at intervals, soon after a new gap, at the end.

        A run that is shorter than the interval is not compared.
        """
        if not self._every or version < self._every:
            return False
        return version % self._every == 0 or version in (self._again, self._updates)

    def compare(self, trainer: Trainer, batch: AttackedBatch | None = None) -> Comparison:
        """See `Comparer.compare`."""
        return self._comparer.compare(trainer, batch)

    def notices(self, found: Comparison) -> tuple[str, ...]:
        """Notices of gaps that lasted or exist at the end, and of gaps that have ended."""
        step, gaps = found.step, {gap.way: gap for gap in found.gaps}
        ended = [way for way, seen in self._seen.items() if seen.said and way not in gaps]
        texts = [_ended(way, step) for way in ended]
        self._seen = {way: self._seen.get(way, _Sighting(since=step)) for way in gaps}
        for way, seen in self._seen.items():
            seen.times += 1
            lasted = seen.times >= SIGHTINGS and step - seen.since >= LASTING
            if not seen.said and (lasted or step >= self._updates):
                seen.said = True
                texts.append(self._said(gaps[way], found))
        if not all(seen.said for seen in self._seen.values()):
            self._again = step + SOONER
        return tuple(texts)

    def _said(self, gap: AccuracyGap, found: Comparison) -> str:
        return WAYS[gap.way].format(
            trained=f"{gap.trained:.0%}",
            judged=f"{gap.judged:.0%}",
            images=len(self._comparer.labels),
            own_steps=counted(found.own_steps or 0, "step"),
            long_steps=found.long_steps,
            step=found.step,
        )


def _ended(way: str, step: int) -> str:
    return f"no longer so: {WAYS[way].partition(':')[0]} (step {step})."
