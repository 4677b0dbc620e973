"""The alarm for catastrophic overfitting: a network that learns to mislead the attack of its run.

Units: accuracies are shares in [0, 1].
Source: Wong, Rice & Kolter 2020, "Fast is better than free", section 5: training against one step
loses all robustness within a few hundred updates, and its own loss does not show it.
"""

from dataclasses import dataclass, replace

import torch

from sparring.attacks import PGD
from sparring.data import Dataset
from sparring.evaluation.accuracy import slice_accuracy
from sparring.training.config import TrainConfig
from sparring.training.trainer import Trainer

LONG = 10
"""Steps of the longer attack, or twice the run's own if that is more."""
HALF = 0.5
"""The run's own attack must leave more than this, and the longer one less than this of those."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The run's own attack beside a longer one; a row of metrics.jsonl."""

    step: int
    """Updates that the weights have seen."""
    own_steps: int
    """Steps of the run's own attack on the next batch."""
    long_steps: int
    """Steps of the longer one."""
    own_accuracy: float
    """Share that the run's own attack leaves right."""
    long_accuracy: float
    """Share that the longer attack at the same ε leaves right."""

    @property
    def alarming(self) -> bool:
        """Whether the network withstands hardly anything but its own attack."""
        return self.own_accuracy > HALF and self.long_accuracy < HALF * self.own_accuracy


class OverfittingAlarm:
    """Compares the two attacks on the first images of the validation set, and tells once."""

    def __init__(self, config: TrainConfig, dataset: Dataset, device: torch.device) -> None:
        count = min(config.validation.alarm_images, len(dataset.validation))
        images, labels = dataset.validation.batch(torch.arange(count))
        self._images, self._labels = images.to(device), labels.to(device)
        self._config = config
        self._said = False

    def compare(self, trainer: Trainer) -> Comparison:
        """With the current weights, not the averaged ones.

        Cost: four passes over the images, and there and back for every step of both attacks.
        """
        config = self._config
        number = min(trainer.version, config.updates - 1)
        eps, steps = config.eps_of(number), config.steps_of(number)
        longer = PGD(threat=replace(config.attack.threat, eps=eps), steps=max(LONG, 2 * steps))
        own, long = (
            slice_accuracy(
                trainer.copy.attacked, self._images, self._labels, attack, seed=config.seed
            )[1]
            for attack in (config.attack.at(eps, steps), longer)
        )
        return Comparison(
            step=trainer.version,
            own_steps=steps,
            long_steps=longer.steps,
            own_accuracy=own.share,
            long_accuracy=long.share,
        )

    def notice(self, found: Comparison) -> str | None:
        """The words for the person, the first time that a comparison is alarming."""
        if self._said or not found.alarming:
            return None
        self._said = True
        return (
            f"catastrophic overfitting: of {len(self._labels)} validation images "
            f"{found.own_accuracy:.0%} withstand the run's own attack of {found.own_steps} "
            f"step{'' if found.own_steps == 1 else 's'}, {found.long_accuracy:.0%} one of "
            f"{found.long_steps} (step {found.step}). The network learns to mislead its attack and "
            "not to be robust, and its training accuracy does not show it. Some recover as the "
            "learning rate falls; if the looks at validation images do not, train with more steps "
            "(--steps) or a random start (--set attack.start=uniform)."
        )
