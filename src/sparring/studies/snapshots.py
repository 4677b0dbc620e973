"""Networks at moments of their training, and what attacks of some lengths do to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sparring.attacks import PGD, Threat, cross_entropy
from sparring.capacity import EngineStats
from sparring.data import derive_seed
from sparring.data.of_run import dataset_of
from sparring.evaluation.accuracy import parts
from sparring.models import chosen_batch_size, trained_network, working_copy
from sparring.records import MetricsLog, Row, RunDirectory
from sparring.records.files import file_digest

Images = Literal["training", "test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotUnderAttack:
    """A snapshot of a network under attacks of some lengths, on the first images of a set."""

    network: str
    """What the study calls it."""
    run: RunDirectory
    """Its run."""
    version: int
    """Updates that the snapshot had seen."""
    steps: tuple[int, ...]
    """Lengths of the attacks, of 2.5 ε / steps each, from a random start; 0 for clean images."""
    images: int
    """How many images."""
    of: Images
    """Of which set."""

    @property
    def name(self) -> str:
        """The network, the snapshot, the attacks and the images."""
        steps = " ".join(map(str, self.steps))
        return f"{self.network}@{self.version} under {steps} steps, {self.images} {self.of} images"

    @property
    def subject(self) -> str:
        """The snapshot's weights."""
        return weights_digest(self.run, self.version)

    def __call__(self) -> Sequence[Row]:
        """A row for each attack: mean loss, and how many of the adversarial examples are right."""
        dataset = dataset_of(self.run)
        threat = self.run.section("threat", Threat)
        chosen = dataset.test if self.of == "test" else dataset.train
        images, labels = chosen.batch(torch.arange(self.images))
        network = trained_network(self.run, version=self.version)
        about: Row = {"network": self.network, "version": self.version, "of": self.of}
        rows: list[Row] = []
        for steps in self.steps:
            start = "uniform" if steps else "none"
            found = under_attack(
                network, images, labels, PGD(threat=threat, steps=steps, start=start)
            )
            rows.append({**about, "steps": steps, "images": self.images, **found._asdict()})
        return rows


class Outcome(NamedTuple):
    """What an attack came to."""

    loss: float
    """Mean cross-entropy of the adversarial examples."""
    right: int
    """How many of them are classified correctly."""


def under_attack(network: nn.Module, images: Tensor, labels: Tensor, attack: PGD) -> Outcome:
    """Attack in the arithmetic that training takes here; judge in single precision.

    Each batch draws its starts from a seed of its own. Cost: `attack.steps` passes there and back.
    """
    attacked = working_copy(network.requires_grad_(requires_grad=False), "auto").attacked
    loss, right, size = 0.0, 0, chosen_batch_size(None, images.device)
    for number, part in enumerate(parts(len(labels), size)):
        generator = torch.Generator().manual_seed(derive_seed(0, "snapshot", number))
        examples = attack(attacked, images[part], labels[part], generator=generator)
        with torch.no_grad():
            logits = network(examples)
        loss += float(cross_entropy(logits, labels[part]).sum())
        right += int((logits.argmax(1) == labels[part]).sum())
    return Outcome(loss=loss / len(labels), right=right)


def pace(run: RunDirectory) -> EngineStats:
    """Where time goes in the second half of a run's updates: its workers are up by then."""
    rows = [row for row in MetricsLog(run.metrics).rows() if "loss" in row]
    return EngineStats(rows=rows[len(rows) // 2 :], ledger={}, helps=True)


def weights_digest(run: RunDirectory, version: int | None = None) -> str:
    """What tells a snapshot's weights from others, or those of the last one.

    Raises `RunError` if it cannot be read.
    """
    return file_digest(run.snapshot(reached(run) if version is None else version))


def reached(run: RunDirectory) -> int:
    """Updates of the last snapshot of a run; 0 if it has none."""
    return max(run.snapshots(), default=0)
