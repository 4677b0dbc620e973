"""Accuracies between training and evaluation, and the gaps between them.

Each accuracy differs from the one before it in one thing: fresh examples instead of stale ones,
validation images instead of training images, evaluation mode instead of training mode, clean
images, a longer attack, single precision, averaged weights. Where there is a gap between two of
them, that thing is its cause.

Shapes: B batch, C H W image, K classes.  Units: accuracies are shares in [0, 1].
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparring.attacks import PGD, AttackedBatch, BatchAttack, StepwiseAttack, Threat
from sparring.attacks.batch_attack import BUILT_IN, attacked_images
from sparring.attacks.own import threat_of
from sparring.data import Dataset, sample
from sparring.evaluation.judge import correct, slice_accuracy, slice_examples
from sparring.models import drawing_from, evaluation_mode, working_copy
from sparring.models.arithmetic import DirectCopy
from sparring.seeds import derive_seed
from sparring.training.config import TrainConfig
from sparring.training.trainer import Trainer

LONG = 10
"""Steps of the longer attack, which is PGD, or twice the run's own if that is more."""
HALF = 0.5
"""An accuracy above this is learned. There is a gap where another is less than this share of it."""
FIFTH = 0.2
"""With many classes an accuracy above this is learned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyGap:
    """Two accuracies that should be alike and are not."""

    way: str
    """Its kind, a name in `monitor.WAYS`."""
    trained: float
    """The accuracy nearer to training."""
    judged: float
    """The accuracy nearer to evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Accuracies between training and evaluation; a row of metrics.jsonl. `None`: not measured."""

    step: int
    """Updates that the weights have seen."""
    own_steps: int | None
    """Steps of the run's own attack on the next batch; 0 in natural training, `None` for an attack
    that does not tell."""
    long_steps: int
    """Steps of the longer one."""
    own_accuracy: float | None
    """Share right in evaluation mode both clean and under the run's own attack."""
    long_accuracy: float | None
    """Share right both clean and under the longer attack at the same ε."""
    classes: int = 10
    """Classes of the data: guessing is right once in so many."""
    batch_accuracy: float | None = None
    """Share of the latest batch right in training mode, under the attack that it came with."""
    fresh_accuracy: float | None = None
    """The same, attacked afresh; only where the batch was stale."""
    trained_accuracy: float | None = None
    """Share of validation images right in training mode under the run's own attack."""
    attacked_accuracy: float | None = None
    """The same attacked images in evaluation mode, whether right or wrong when clean."""
    clean_trained_accuracy: float | None = None
    """Clean validation images in training mode."""
    clean_accuracy: float | None = None
    """Clean validation images in evaluation mode."""
    exact_accuracy: float | None = None
    """As `own_accuracy`, the same attacked images in single precision; only where that differs."""
    average_accuracy: float | None = None
    """As `own_accuracy`, of the averaged weights; only where weights are averaged."""

    @property
    def gaps(self) -> tuple[AccuracyGap, ...]:
        """The gaps, in the order of the accuracies.

        If there is none between neighbours, the first accuracy is compared with the last.
        """
        fresh = self.batch_accuracy if self.fresh_accuracy is None else self.fresh_accuracy
        own = self.clean_accuracy if self.own_accuracy is None else self.own_accuracy
        weak = "attack" if self.own_steps else "own attack"
        pairs = (
            ("examples", self.batch_accuracy, self.fresh_accuracy),
            ("memory", fresh, self.trained_accuracy),
            ("mode", self.trained_accuracy, self.attacked_accuracy),
            ("mode", self.clean_trained_accuracy, self.clean_accuracy),
            ("clean", self.attacked_accuracy, self.clean_accuracy),
            (weak, self.own_accuracy, self.long_accuracy),
            ("precision", own, self.exact_accuracy),
            ("average", own, self.average_accuracy),
        )
        found = {
            way: AccuracyGap(way=way, trained=one, judged=other)
            for way, one, other in reversed(pairs)
            if one is not None and other is not None and self._apart(one, other)
        }
        if found:
            return tuple(reversed(found.values()))
        ends = (self.long_accuracy, self.exact_accuracy, self.average_accuracy)
        last = min((end for end in ends if end is not None), default=self.clean_accuracy)
        seen = self.batch_accuracy
        if seen is None or last is None or not self._apart(seen, last):
            return ()
        return (AccuracyGap(way="together", trained=seen, judged=last),)

    @property
    def alarming(self) -> bool:
        """Whether there is a gap."""
        return bool(self.gaps)

    def _apart(self, trained: float, judged: float) -> bool:
        """Whether `trained` is learned, and `judged` below half of it or little above guessing."""
        chance = 1 / self.classes
        learned = max(min(HALF, max(FIFTH, 5 * chance)), 1.5 * chance)
        little = chance + (trained - chance) / 4
        return trained > learned and judged < max(HALF * trained, little)


class Comparer:
    """Makes comparisons on a `sample` of the validation set and on the latest batch."""

    def __init__(self, config: TrainConfig, dataset: Dataset, device: torch.device) -> None:
        images, labels = sample(dataset.validation, config.validation.alarm_images)
        self.images, self.labels = images.to(device), labels.to(device)
        self._config, self._classes = config, dataset.num_classes

    def compare(self, trainer: Trainer, batch: AttackedBatch | None = None) -> Comparison:
        """Compare the current weights. They, all statistics and all random states are kept.

        Cost: at most eleven passes over the images, and a forward and a backward pass for every
        step of the longer attack and two or three times every step of the run's own.
        """
        config = self._config
        number = min(trainer.version, config.updates - 1)
        own = _own_attack(trainer, number)
        longer = _longer(own, config.threat)
        judged = trainer.copy.attacked
        attacked = self._examples(judged, own) if own else self.images
        clean, withstood = self._right(judged, self.images), self._right(judged, attacked)
        found = Comparison(
            step=trainer.version,
            classes=self._classes,
            own_steps=_steps(own),
            long_steps=longer.steps,
            own_accuracy=_share(clean & withstood) if own else None,
            long_accuracy=self._under(judged, longer) if own else None,
            attacked_accuracy=_share(withstood) if own else None,
            clean_accuracy=_share(clean),
            exact_accuracy=self._exact(trainer, attacked),
            average_accuracy=self._averaged(trainer, own),
        )
        if not _may_pass_in_training_mode(trainer, len(self.labels)):
            return found
        with _in_training_mode(trainer) as trained:
            found = replace(
                found,
                clean_trained_accuracy=_in_batches(trainer, trained, self.images, self.labels),
                trained_accuracy=_in_batches(trainer, trained, attacked, self.labels),
            )
            return found if batch is None else self._with_batch(found, trainer, trained, batch)

    def _with_batch(
        self,
        found: Comparison,
        trainer: Trainer,
        trained: Callable[[Tensor], Tensor],
        batch: AttackedBatch,
    ) -> Comparison:
        count = min(max(2, len(self.labels)), len(batch.labels))
        images, labels = batch.images[:count], batch.labels[:count]
        fresh = None
        attack = _own_attack(trainer, batch.number)
        if trainer.version - batch.version > 1 and attack:
            generator = torch.Generator().manual_seed(derive_seed(self._config.seed, "alarm"))
            judged = trainer.copy.attacked
            renewed = attacked_images(attack, judged, images, labels, generator=generator)
            fresh = _in_batches(trainer, trained, renewed, labels)
        return replace(
            found,
            batch_accuracy=_in_batches(trainer, trained, batch.adversarial[:count], labels),
            fresh_accuracy=fresh,
        )

    def _examples(self, logits_of: Callable[[Tensor], Tensor], attack: BatchAttack) -> Tensor:
        return slice_examples(logits_of, self.images, self.labels, attack, seed=self._config.seed)

    def _right(self, logits_of: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return correct(logits_of, images, self.labels)

    def _under(self, logits_of: Callable[[Tensor], Tensor], attack: BatchAttack) -> float:
        """Share right both clean and under an attack, from the same starts each time."""
        some = (self.images, self.labels)
        return slice_accuracy(logits_of, *some, attack, seed=self._config.seed)[1].share

    def _exact(self, trainer: Trainer, attacked: Tensor) -> float | None:
        if isinstance(trainer.copy, DirectCopy) or trainer.copy.name.startswith("fp32"):
            return None
        with evaluation_mode(trainer.network):
            clean = self._right(trainer.network, self.images)
            return _share(clean & self._right(trainer.network, attacked))

    def _averaged(self, trainer: Trainer, own: BatchAttack | None) -> float | None:
        if not self._config.average:
            return None
        network = working_copy(trainer.average.network, trainer.precision).attacked
        if own is None:
            return _share(self._right(network, self.images))
        return self._under(network, own)


def _share(right: Tensor) -> float:
    return right.float().mean().item()


def clean_accuracy_in_training(trainer: Trainer, images: Tensor, labels: Tensor) -> float | None:
    """Share of clean images that are right in training mode; `None` where it cannot be measured.

    Weights, statistics and random states stay as they are. Cost: one pass over the images.
    """
    if not _may_pass_in_training_mode(trainer, len(labels)):
        return None
    with _in_training_mode(trainer) as trained:
        return _in_batches(trainer, trained, images, labels)


def _in_batches(
    trainer: Trainer, logits_of: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
) -> float:
    """Accuracy in batches of at least the run's size, because statistics are those of a batch.

    Gradients are on, as in an update, for networks that use them in a pass.
    """
    number = max(1, len(labels) // _batch_of_one(trainer))
    pairs = zip(images.tensor_split(number), labels.tensor_split(number), strict=True)
    return _share(torch.cat([logits_of(some).detach().argmax(1) == right for some, right in pairs]))


def _batch_of_one(trainer: Trainer) -> int:
    """Images that one trainer has of a batch."""
    return trainer.config.batch_size // trainer.config.trainers


def _may_pass_in_training_mode(trainer: Trainer, images: int) -> bool:
    """Whether a pass needs neither more images nor the other trainers, which do not compare."""
    layers = trainer.network.modules()
    alone = trainer.team.size == 1 or not any(isinstance(one, nn.SyncBatchNorm) for one in layers)
    return alone and images >= min(2, _batch_of_one(trainer))


@contextmanager
def _in_training_mode(trainer: Trainer) -> Iterator[Callable[[Tensor], Tensor]]:
    """The passes of an update, after which buffers and random states are what they were."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in trainer.network.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        with drawing_from(derive_seed(trainer.config.seed, "alarm", trainer.version)):
            yield trainer.copy.trained
    finally:
        with torch.no_grad():
            for module, name, buffer, value in kept:
                setattr(module, name, buffer)
                buffer.copy_(value)


def _own_attack(trainer: Trainer, number: int) -> BatchAttack | None:
    """The run's attack on the ticket of this number; `None` if it takes no steps.

    An attack of your own is copied, where it can be, so that what it remembers stays as it is.
    """
    attack = trainer.loader.recipe.plan(number).attack
    if _steps(attack) == 0:
        return None
    if type(attack) not in BUILT_IN:
        with suppress(Exception):  # of code that is not sparring's
            return copy.deepcopy(attack)
    return attack


def _steps(attack: BatchAttack | None) -> int | None:
    """Steps of an attack, if it tells; 0 of none."""
    if attack is None:
        return 0
    return attack.steps if isinstance(attack, StepwiseAttack) else None


def _longer(attack: BatchAttack | None, threat: Threat) -> PGD:
    """A longer attack within the same threat, or within `threat`; without a step beside none."""
    if attack is None:
        return PGD(threat=threat, steps=0)
    return PGD(threat=threat_of(attack) or threat, steps=max(LONG, 2 * (_steps(attack) or 0)))
