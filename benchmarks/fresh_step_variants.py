"""Cheaper ways to keep stale attacks strong than whole fresh steps: what they cost and bring.

The recipe is that of the study beyond-staleness at short, s = 64, κ = 8, and so are its networks
without and with whole fresh steps. Judged on validation images, under PGD of 40 steps.

    python benchmarks/fresh_step_variants.py [VARIANT …] [--updates N] [--images N] [--seed S]

Passes an update: forward and backward passes over a batch that the trainer makes for each update,
its own included; a forward pass alone counts a third. Workers take the other steps.
"""

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean

import torch

from sparring.attacks import PGD, AttackedBatch, Linf
from sparring.data import load_dataset
from sparring.evaluation import evaluate
from sparring.studies.beyond_staleness import settings_of
from sparring.studies.networks import ATTACK, EPS
from sparring.training import Reused, TrainConfig, Trainer

LAG = 64
FORWARD = 1 / 3
"""Cost of a forward pass, of a forward and a backward one."""


@dataclass(slots=True)
class Run:
    """A training, and the trainer's passes so far."""

    trainer: Trainer
    passes: float = 0.0
    attack: PGD = field(default_factory=lambda: PGD(Linf(EPS), steps=ATTACK, start="uniform"))

    def stepped(self, batch: AttackedBatch, steps: int = 1) -> AttackedBatch:
        """The batch after some steps with the current weights."""
        if not steps:
            return batch
        adversarial = (
            self.attack.at(batch.eps)
            .only(steps)
            .search_from(batch.adversarial, self.trainer.copy.attacked, batch.images, batch.labels)
        )
        self.passes += steps
        return replace(batch, adversarial=adversarial)

    def accuracy(self, batch: AttackedBatch) -> torch.Tensor:
        """Which images are still classified correctly; the caller counts the pass."""
        with torch.no_grad():
            return self.trainer.copy.attacked(batch.adversarial).argmax(1) == batch.labels

    def update(self, batch: AttackedBatch) -> float:
        """Update the weights; return the accuracy on the batch."""
        self.passes += 1
        return self.trainer.update(batch).training_accuracy


Variant = Callable[[Run], Iterator[None]]


def whole(steps: int) -> Variant:
    """F whole fresh steps: what `fresh_steps` does."""

    def training(run: Run) -> Iterator[None]:
        for batch in run.trainer.loader:
            run.update(run.stepped(batch, steps))
            yield

    return training


def unfooled(run: Run) -> Iterator[None]:
    """A fresh step only for images that the stale example no longer fools."""
    for batch in run.trainer.loader:
        right = run.accuracy(batch)
        run.passes += FORWARD
        if right.any():
            some = replace(
                batch,
                images=batch.images[right],
                adversarial=batch.adversarial[right],
                labels=batch.labels[right],
            )
            before = run.passes
            adversarial = batch.adversarial.clone()
            adversarial[right] = run.stepped(some).adversarial
            run.passes = before + float(right.float().mean())
            batch = replace(batch, adversarial=adversarial)
        run.update(batch)
        yield


def joint(run: Run) -> Iterator[None]:
    """One pass gives the update and the step: each batch trains twice, once before the step.

    As in "free" adversarial training (Shafahi et al. 2019) with two replays.
    """
    for batch in run.trainer.loader:
        before = run.passes
        after = run.stepped(batch)  # the same gradient that the next update computes
        run.passes = before
        run.update(batch)
        yield
        run.update(after)
        yield


def by_need(run: Run) -> Iterator[None]:
    """As many fresh steps, 0 to 4, as the accuracy that they took away recently asks for."""
    steps, drops = 2, deque[float](maxlen=25)
    for batch in run.trainer.loader:
        before = float(run.accuracy(batch).float().mean())  # the first step's pass has it
        after = run.update(run.stepped(batch, steps))
        drops.append(before - after)
        if len(drops) == drops.maxlen:
            if fmean(drops) > 0.05 and steps < 4:
                steps += 1
                drops.clear()
            elif fmean(drops) < 0.01 and steps > 0:
                steps -= 1
                drops.clear()
        yield


def plain(run: Run) -> Iterator[None]:
    """The source's own batches; whole attacks in the first epoch."""
    recipe, images = run.trainer.loader.recipe, len(run.trainer.images)
    for batch in run.trainer.loader:
        is_first = batch.number * recipe.batch_size < images
        run.passes += ATTACK if is_first else recipe.fresh_steps
        run.update(batch)
        yield


def stale_first(steps: int, **changes: int) -> TrainConfig:
    """Batches with all but the last `steps` of the attack."""
    config = settings_of("short", changes.pop("lag", LAG))
    attack = PGD(Linf(EPS), steps=ATTACK, start="uniform").only(ATTACK - steps)
    return replace(config, attack=attack, **changes)


VARIANTS: Mapping[str, tuple[Callable[[], TrainConfig], Variant]] = {
    "none": (lambda: stale_first(0), whole(0)),
    "whole-1": (lambda: stale_first(1), whole(1)),
    "whole-2": (lambda: stale_first(2), whole(2)),
    "unfooled": (lambda: stale_first(1), unfooled),
    "joint": (lambda: stale_first(1, lag=LAG // 2, updates=2048), joint),
    "by-need": (lambda: stale_first(2), by_need),
    "kept-1": (lambda: replace(settings_of("short", 0), source=Reused(fresh_steps=1)), plain),
    "kept-2": (lambda: replace(settings_of("short", 0), source=Reused(fresh_steps=2)), plain),
}


def main() -> None:
    """Train and judge the variants that are named, by default all, a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--updates", type=int, default=1274)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset("mnist")
    for name in asked.variants:
        config, training = VARIANTS[name][0](), VARIANTS[name][1]
        config = replace(config, seed=asked.seed)
        run = Run(Trainer(config, data, torch.device("cpu")))
        began = time.process_time()
        for _ in training(run):
            if run.trainer.version == asked.updates:
                break
        seconds = time.process_time() - began
        images, labels = data.validation.batch(torch.arange(asked.images))
        attacks = [PGD(Linf(EPS), steps=40, start="uniform")]
        found = evaluate(
            run.trainer.network, images, labels, Linf(EPS), suite=attacks, checks=False
        )
        row = {
            "variant": name,
            "seed": asked.seed,
            "updates": run.trainer.version,
            "passes an update": round(run.passes / run.trainer.version, 2),
            "natural": found.natural.successes,
            "robust": found.robust.successes,
            "images": asked.images,
            "cpu seconds": round(seconds),
        }
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
