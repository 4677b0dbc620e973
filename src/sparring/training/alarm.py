"""The alarm: says when the network that is trained and the network that is judged part.

Units: accuracies are shares in [0, 1].
Source: Wong, Rice & Kolter 2020, "Fast is better than free", section 5: training against one step
loses all robustness within a few hundred updates, and its own loss does not show it.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from sparring.attacks import AttackedBatch
from sparring.data import Dataset
from sparring.training.comparison import Comparer, Comparison, Parting
from sparring.training.config import TrainConfig
from sparring.training.trainer import Trainer

SIGHTINGS = 3
"""Comparisons in a row that must show the same before it is said: a slow start recovers."""
SOONER = 4
"""The second and third come after this part of the usual interval."""

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
"""What is said of each way in which they part."""


class OverfittingAlarm:
    """Compares at intervals, and says when a parting lasts, and when it has ended."""

    def __init__(self, config: TrainConfig, dataset: Dataset, device: torch.device) -> None:
        self._comparer = Comparer(config, dataset, device)
        self._updates, self._every = config.updates, config.validation.alarm_every
        self._seen: dict[str, int] = {}
        self._again = 0

    def due(self, version: int) -> bool:
        """Whether to compare after this update: at intervals, sooner in doubt, and at the end."""
        if not self._every or version < self._every:
            return False
        return version % self._every == 0 or version in (self._again, self._updates)

    def compare(self, trainer: Trainer, batch: AttackedBatch | None = None) -> Comparison:
        """What `Comparer.compare` finds."""
        return self._comparer.compare(trainer, batch)

    def notices(self, found: Comparison) -> tuple[str, ...]:
        """What is new: partings seen often enough or at the end, and those that have ended."""
        partings = {parting.way: parting for parting in found.partings}
        ended = [way for way, times in self._seen.items() if times >= SIGHTINGS]
        texts = [_ended(way, found.step) for way in ended if way not in partings]
        last = found.step >= self._updates
        seen = {way: self._seen.get(way, 0) + 1 for way in partings}
        for way, times in seen.items():
            if times == SIGHTINGS or (last and times < SIGHTINGS):
                texts.append(self._said(partings[way], found))
        self._seen = seen
        if any(times < SIGHTINGS for times in seen.values()):
            self._again = found.step + max(1, self._every // SOONER)
        return tuple(texts)

    def _said(self, parting: Parting, found: Comparison) -> str:
        return WAYS[parting.way].format(
            trained=f"{parting.trained:.0%}",
            judged=f"{parting.judged:.0%}",
            images=len(self._comparer.labels),
            own_steps=_steps(found.own_steps),
            long_steps=found.long_steps,
            step=found.step,
        )


def _ended(way: str, step: int) -> str:
    return f"no longer so: {WAYS[way].partition(':')[0]} (step {step})."


def _steps(count: int) -> str:
    return f"{count} step{'' if count == 1 else 's'}"
