"""Measurements of what fresh steps do: to examples along training, and to networks in the end."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from typing_extensions import override

from sparring.attacks import PGD, Linf, cross_entropy
from sparring.data.run_data import dataset_of
from sparring.evaluation import evaluate
from sparring.evaluation.judge import parts
from sparring.models import chosen_batch_size, trained_network, working_copy
from sparring.records import Row, RunDirectory
from sparring.seeds import derive_seed
from sparring.studies.networks import ATTACK, EPS, weights_digest
from sparring.studies.study import Measurement


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotUnderSuite(Measurement):
    """A snapshot of a network under a suite, on the first test images."""

    network: str
    """Its name in the study."""
    run: RunDirectory
    version: int
    """Updates that the snapshot has seen."""
    suite: str
    """The suite's name."""
    images: int
    """How many test images."""

    @property
    @override
    def name(self) -> str:
        return f"{self.network}@{self.version} under {self.suite}, {self.images} test images"

    @property
    @override
    def subject(self) -> str:
        return weights_digest(self.run, self.version)

    @override
    def __call__(self) -> Sequence[Row]:
        images, labels = dataset_of(self.run).test.batch(torch.arange(self.images))
        network = trained_network(self.run, version=self.version)
        found = evaluate(network, images, labels, Linf(EPS), suite=self.suite, checks=False)
        return [
            {
                "network": self.network,
                "version": self.version,
                "suite": self.suite,
                "images": self.images,
                "natural": found.natural.successes,
                "robust": found.robust.successes,
            }
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Freshening(Measurement):
    """How far stale examples are from fresh ones, before and after some fresh steps.

    The stale steps attack an older snapshot. The fresh example has the same start and attacks the
    younger snapshot throughout.
    """

    network: str
    """Its name in the study."""
    run: RunDirectory
    version: int
    """Updates that the younger snapshot has seen."""
    age: int
    """Updates between the two snapshots."""
    fresh_steps: tuple[int, ...]
    """Numbers of fresh steps that are tried."""
    images: int
    """How many training images."""

    @property
    @override
    def name(self) -> str:
        steps = " ".join(map(str, self.fresh_steps))
        about = f"{self.images} training images, {steps} fresh steps"
        return f"{self.network}@{self.version} against its {self.age} updates older self, {about}"

    @property
    @override
    def subject(self) -> str:
        return weights_digest(self.run, self.version)

    @override
    def __call__(self) -> Sequence[Row]:
        images, labels = dataset_of(self.run).train.batch(torch.arange(self.images))
        old, young = (
            trained_network(self.run, version=version).requires_grad_(requires_grad=False)
            for version in (self.version - self.age, self.version)
        )
        attack = PGD(threat=Linf(EPS), steps=ATTACK, start="uniform")
        before, now = (working_copy(each, "auto").attacked for each in (old, young))
        sums = {fresh: Counter[str]() for fresh in self.fresh_steps}
        for number, part in enumerate(parts(self.images, chosen_batch_size(None, labels.device))):
            clean, target = images[part], labels[part]
            seed = derive_seed(0, "snapshot", number)
            wanted = attack(now, clean, target, generator=Generator().manual_seed(seed))
            for fresh, found in sums.items():
                x = attack.only(ATTACK - fresh)(
                    before, clean, target, generator=Generator().manual_seed(seed)
                )
                if fresh:
                    x = attack.only(fresh).search_from(x, now, clean, target)
                with torch.no_grad():
                    logits = young(x)
                values = {
                    "loss": cross_entropy(logits, target),
                    "right": logits.argmax(1) == target,
                    "agreement": _agreement(x - clean, wanted - clean),
                    "distance": (x - wanted).abs().flatten(1).mean(1) / EPS,
                }
                found.update({what: float(each.sum()) for what, each in values.items()})
        about: Row = {"network": self.network, "version": self.version, "age": self.age}
        rows: list[Row] = []
        for fresh, found in sums.items():
            right = int(found.pop("right"))
            means = {what: total / self.images for what, total in found.items()}
            counts: Row = {"fresh_steps": fresh, "images": self.images, "right": right}
            rows.append({**about, **counts, **means})
        return rows


def _agreement(one: Tensor, other: Tensor) -> Tensor:
    """Share of pixels, among those that both perturb, that are perturbed in the same direction."""
    both = ((one != 0) & (other != 0)).flatten(1)
    same = (one.sign() == other.sign()).flatten(1) & both
    return same.sum(1) / both.sum(1).clamp_min(1)
