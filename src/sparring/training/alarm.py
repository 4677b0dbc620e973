"""The alarm: says when the network that is trained and the network that is judged part.

Units: accuracies are shares in [0, 1].
Source: Wong, Rice & Kolter 2020, "Fast is better than free", section 5: training against one step
loses all robustness within a few hundred updates, and its own loss does not show it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from sparring.attacks import AttackedBatch
from sparring.data import Dataset
from sparring.training.comparison import Comparer, Comparison, Parting
from sparring.training.config import TrainConfig
from sparring.training.trainer import Trainer

SIGHTINGS = 3
"""Comparisons in a row that must show the same before it is said."""
LASTING = 50
"""Updates that it must have lasted: running statistics and averages lag behind a slow start."""
SOONER = 25
"""Updates after which a doubtful comparison is made again."""

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


@dataclass(slots=True)
class _Sighting:
    """A parting that the latest comparison shows."""

    since: int
    """Update of the first comparison in a row that shows it."""
    times: int = 0
    """Comparisons in a row."""
    said: bool = False
    """Whether the user knows."""


class OverfittingAlarm:
    """Compares at intervals, and says when a parting lasts, and when it has ended."""

    def __init__(self, config: TrainConfig, dataset: Dataset, device: torch.device) -> None:
        self._comparer = Comparer(config, dataset, device)
        self._updates, self._every = config.updates, config.validation.alarm_every
        self._seen: dict[str, _Sighting] = {}
        self._again = 0

    def due(self, version: int) -> bool:
        """Whether to compare after this update: at intervals, sooner in doubt, and at the end.

        A run that is shorter than the interval is not compared.
        """
        if not self._every or version < self._every:
            return False
        return version % self._every == 0 or version in (self._again, self._updates)

    def compare(self, trainer: Trainer, batch: AttackedBatch | None = None) -> Comparison:
        """What `Comparer.compare` finds."""
        return self._comparer.compare(trainer, batch)

    def notices(self, found: Comparison) -> tuple[str, ...]:
        """What is new: partings that lasted or stand at the end, and those that have ended."""
        step, partings = found.step, {parting.way: parting for parting in found.partings}
        ended = [way for way, seen in self._seen.items() if seen.said and way not in partings]
        texts = [_ended(way, step) for way in ended]
        self._seen = {way: self._seen.get(way, _Sighting(since=step)) for way in partings}
        for way, seen in self._seen.items():
            seen.times += 1
            lasted = seen.times >= SIGHTINGS and step - seen.since >= LASTING
            if not seen.said and (lasted or step >= self._updates):
                seen.said = True
                texts.append(self._said(partings[way], found))
        if not all(seen.said for seen in self._seen.values()):
            self._again = step + SOONER
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
