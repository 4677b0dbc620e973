"""What a run sees of itself while it goes on.

Units: accuracies are shares in [0, 1].
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from sparring.attacks import PGD
from sparring.data import Dataset
from sparring.evaluation.accuracy import correct, slice_accuracy
from sparring.models import working_copy
from sparring.records import Environment, RunDirectory
from sparring.training.comparison import clean_accuracy_in_training
from sparring.training.config import TrainConfig
from sparring.training.schedules import WarmUp
from sparring.training.trainer import Step, Trainer

WINDOW = 100
"""Updates that must all look alike before a start is called dead: chance alone is ruled out."""
MARGIN = 0.02
"""A mean loss this close to ln(classes) says that the network tells nothing apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Accuracy on the slice of the validation set, with the averaged weights."""

    step: int
    """Updates that the weights have seen."""
    natural_accuracy: float
    """Share of clean images classified correctly."""
    robust_accuracy: float
    """Share classified correctly also under the PGD attack."""
    validation_images: int
    """Size of the slice."""


@runtime_checkable
class Observer(Protocol):
    """Someone who watches a run: a progress display, a notebook, a test."""

    def started(self, config: TrainConfig, run: RunDirectory, where: Environment) -> None:
        """The run begins, or goes on."""
        ...

    def stepped(self, step: Step) -> None:
        """An update is done."""
        ...

    def validated(self, look: Look) -> None:
        """The run looked at the validation slice."""
        ...

    def noticed(self, notice: str) -> None:
        """Something that a person should know."""
        ...


class Silent:
    """Watches and says nothing."""

    def started(self, config: TrainConfig, run: RunDirectory, where: Environment) -> None:
        """Ignored."""

    def stepped(self, step: Step) -> None:
        """Ignored."""

    def validated(self, look: Look) -> None:
        """Ignored."""

    def noticed(self, notice: str) -> None:
        """Ignored."""


class ValidationSlice:
    """The first images of the validation set, attacked the same way at every look."""

    def __init__(self, config: TrainConfig, dataset: Dataset, device: torch.device) -> None:
        count = min(config.validation.images, len(dataset.validation))
        images, labels = dataset.validation.batch(torch.arange(count))
        self._images, self._labels = images.to(device), labels.to(device)
        self._attack = PGD(threat=config.threat, steps=config.validation.steps)
        self._config = config

    def look(self, trainer: Trainer) -> Look:
        """Judge the averaged weights. Cost: one pass and `validation.steps` more over the slice."""
        network = working_copy(trainer.average.network, trainer.precision)
        natural, robust = slice_accuracy(
            network.attacked, self._images, self._labels, self._attack, seed=self._config.seed
        )
        return Look(
            step=trainer.version,
            natural_accuracy=natural.share,
            robust_accuracy=robust.share,
            validation_images=len(self._labels),
        )

    def natural_accuracy(self, trainer: Trainer) -> float:
        """Of the current weights, in evaluation or in training mode, whichever is higher.

        Cost: two passes over the images.
        """
        judged = correct(trainer.copy.attacked, self._images, self._labels).float().mean().item()
        return max(judged, clean_accuracy_in_training(trainer, self._images, self._labels) or 0.0)


class DeadStart:
    """Says once that training is stuck at guessing: a loss of ln(classes), on clean images too.

    Adversarial training with a full-sized ε and too large a step does so for some seeds. A network
    that is right on clean images and cannot yet withstand an attack may have the same loss for
    hundreds of updates, as with the preset `paper`, and is not stuck. A slow start has it for one
    window, so that it takes a second one, or the end of the run, to say so.
    """

    def __init__(self, num_classes: int, config: TrainConfig | None = None) -> None:
        self._guessing = math.log(num_classes)
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._guessed = 0
        self._said = False
        self._advice = _advice(config)

    def notice(
        self, step: Step, natural_accuracy: Callable[[], float], *, last: bool = False
    ) -> str | None:
        """The words for the user, when two windows of updates in a row were spent guessing.

        `natural_accuracy` is asked for at the end of each, and at the end of the run.
        """
        self._losses.append(step.loss)
        ended = len(self._losses) == WINDOW or (last and self._guessed > 0)
        if self._said or not ended:
            return None
        if not self._looks_like_guessing():
            if len(self._losses) == WINDOW:
                self._guessed = 0
            return None
        self._guessed += len(self._losses)
        self._losses.clear()
        known = natural_accuracy()
        learning = known > 2 * math.exp(-self._guessing)
        if learning or not (last or self._guessed > WINDOW):
            self._guessed = 0 if learning else self._guessed
            return None
        self._said = True
        return (
            f"dead start: the loss has been {self._guessing:.2f} = ln(classes), that of guessing, "
            f"for {self._guessed} updates, and natural accuracy is {known:.0%} (step {step.step})"
            f". {self._advice}"
        )

    def _looks_like_guessing(self) -> bool:
        if max(self._losses) > 2 * self._guessing:
            return False
        return abs(sum(self._losses) / len(self._losses) - self._guessing) <= MARGIN


def _advice(config: TrainConfig | None) -> str:
    """What to do, without what the settings do already."""
    warm = config is not None and isinstance(config.eps_schedule, WarmUp)
    warming = (
        "lengthen the warm-up of ε (--set eps_schedule.share=...)"
        if warm
        else "warm up ε (--set eps_schedule.kind=WarmUp)"
    )
    return (
        f"If the looks at validation images stay there, stop and {warming}, lower the learning "
        "rate (--set optimizer.learning_rate=...) or take another seed (--seed)."
    )
