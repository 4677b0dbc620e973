"""The paper's Table 1 for the networks of a study, as far as they have come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sparring.attacks import Threat
from sparring.data.of_run import dataset_of
from sparring.evaluation import transfer
from sparring.models import trained_network
from sparring.records import Row, RunDirectory
from sparring.studies.snapshots import reached, weights_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferTable:
    """Every network on every network's adversarial examples of one number of steps."""

    runs: Mapping[str, RunDirectory]
    """The networks' runs, at least two."""
    steps: int
    """Gradient steps of the attack."""
    images: int
    """The first so many test images."""

    @property
    def name(self) -> str:
        """The networks, as far as they have come, and the attack."""
        who = " ".join(f"{name}@{reached(run)}" for name, run in self.runs.items())
        return f"transfer of {self.steps} steps among {who}, {self.images} test images"

    @property
    def subject(self) -> str:
        """The weights that the networks have come to."""
        return " ".join(map(weights_digest, self.runs.values()))

    def __call__(self) -> Sequence[Row]:
        """A row for each source and target: how many of the source's examples it gets right."""
        some = next(iter(self.runs.values()))
        test = dataset_of(some).test
        networks = {
            name: trained_network(run, version=reached(run)) for name, run in self.runs.items()
        }
        images, labels = test.batch(torch.arange(self.images))
        threat = some.section("threat", Threat)
        found = transfer(networks, images, labels, threat, steps=[self.steps])
        return [
            {
                "source": source,
                "target": target,
                "steps": self.steps,
                "images": self.images,
                "right": cell.right,
                "only_transferred": cell.only_transferred,
                "only_white_box": cell.only_white_box,
            }
            for source, row in zip(found.networks, found.cells[0], strict=True)
            for target, cell in zip(found.networks, row, strict=True)
        ]
