"""Recipes for a robust network, from mnist_challenge's to the preset fast, and their times.

The baseline is the paper's network in plain PyTorch: single precision, layer by layer, ReLU before
pooling, contiguous tensors.

Units: seconds are wall-clock, on all cores of this machine with nothing beside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sparring.attacks import PGD
from sparring.capacity import Costs, simulate_speed_up
from sparring.evaluation import evaluate_run
from sparring.models import PaperCNN, PaperNetwork
from sparring.records import MetricsLog, Row, RunDirectory
from sparring.records.files import temporary_folder
from sparring.studies.networks import (
    ATTACK,
    SNAPSHOTS,
    hardly_watched,
    pace,
    reached,
    weights_digest,
)
from sparring.studies.study import Scale
from sparring.training import Asynchronous, TrainConfig, train
from sparring.training.checkpoint import settings_digest
from sparring.training.presets import fast, madry, paper, paper_async


class PlainCNN(PaperCNN):
    """The same function of the same weights; its passes are PyTorch's.

    `working_copy` finds faster passes for the paper's network alone, not for what derives from it.
    """

    def forward(self, images: Float[Tensor, " B 1 28 28"]) -> Float[Tensor, " B 10"]:
        """Logits, without softmax."""
        hidden = functional.max_pool2d(self.conv1(images).relu(), 2)
        hidden = functional.max_pool2d(self.conv2(hidden).relu(), 2)
        features = hidden.permute(0, 2, 3, 1).flatten(1)
        return self.fc2(self.fc1(features).relu())


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainNetwork(PaperNetwork):
    """Builds it; to be trained in precision fp32."""

    def build(self, seed: int) -> PlainCNN:
        """A freshly initialised network, of the weights that `PaperNetwork` draws."""
        return PlainCNN(self.initialisation, generator=torch.Generator().manual_seed(seed))


PLAIN, BASELINE, FEWER_STEPS = "madry-plain", "madry", "madry-k8"
"""mnist_challenge's recipe: in plain PyTorch, in this library's arithmetic, there with κ = 8."""
PAPER, PAPER_ASYNC = "paper", "paper-async"
"""The paper's recipe of κ = 8, synchronous and with its engine."""
FAST, FAST_ASYNC = "fast", "fast-async"
"""The preset fast, synchronous and with this library's engine."""


def recipes(scale: Scale) -> Mapping[str, TrainConfig]:
    """All of them by name, the slowest first; at smoke of tiny batches, on one thread."""
    baseline, short = madry(), fast()
    steps = PGD(threat=baseline.pgd.threat, steps=ATTACK, start="uniform")
    found = {
        PLAIN: replace(baseline, model=PlainNetwork(), precision="fp32"),
        BASELINE: baseline,
        FEWER_STEPS: replace(baseline, attack=steps),
        PAPER: paper(),
        PAPER_ASYNC: paper_async(),
        FAST: short,
        FAST_ASYNC: replace(short, source=Asynchronous()),
    }
    return {name: _timed(scale, config) for name, config in found.items()}


def _timed(scale: Scale, config: TrainConfig) -> TrainConfig:
    """As it is, but for snapshots that say how far it has come; they hardly take time."""
    if scale == "smoke":
        config = replace(hardly_watched(config), batch_size=8, updates=8, threads=1)
    return replace(config, snapshot_every=min(config.updates, SNAPSHOTS["paper"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeTrial:
    """The pace of a recipe, from a few of its updates."""

    recipe: str
    """Its name."""
    config: TrainConfig
    """Its settings."""
    updates: int
    """Updates that are made; the second half is timed."""

    @property
    def name(self) -> str:
        """The recipe, and how many updates."""
        return f"{self.updates} updates of {self.recipe}, timed"

    @property
    def alone(self) -> bool:
        """Timed work needs the whole machine."""
        return True

    @property
    def subject(self) -> str:
        """The recipe's settings."""
        return settings_digest(self.config)

    def __call__(self) -> Sequence[Row]:
        """One row: updates that were timed, and what they took."""
        with temporary_folder() as folder:
            trained = train(self.config, folder / "run", until=self.updates)
            timed = pace(trained.run)
        return [
            {
                "of": "time",
                "recipe": self.recipe,
                "trained": len(timed.rows),
                "planned": self.config.updates,
                "spent": len(timed.rows) * timed.seconds_per_update,
            }
        ]


@dataclass(frozen=True, slots=True)
class Clock:
    """The duration of a network's training so far, validation and checkpoints included."""

    network: str
    """The recipe's name."""
    run: RunDirectory
    """Its run."""

    @property
    def name(self) -> str:
        """The network, as far as it has come."""
        return f"time of {self.network}@{reached(self.run)}"

    @property
    def subject(self) -> str:
        """The weights that it has come to."""
        return weights_digest(self.run)

    def __call__(self) -> Sequence[Row]:
        """One row, of the form of a time trial's."""
        last = [row for row in MetricsLog(self.run.metrics).rows() if "loss" in row][-1]
        return [
            {
                "of": "time",
                "recipe": self.network,
                "trained": last["step"],
                "planned": self.run.section("updates", int),
                "spent": last["seconds"],
            }
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """Natural and robust accuracy of a network, left in its run as well."""

    network: str
    """The recipe's name."""
    run: RunDirectory
    """Its run, which is complete."""
    suite: str
    """By which suite."""
    images: int
    """On the first so many test images."""
    checks: bool = True
    """Whether signs of gradient masking are looked for."""

    @property
    def name(self) -> str:
        """The network, the suite and the images."""
        return f"{self.network}@{reached(self.run)} under {self.suite}, {self.images} test images"

    @property
    def subject(self) -> str:
        """The weights that are judged."""
        return weights_digest(self.run)

    def __call__(self) -> Sequence[Row]:
        """One row of counts. Cost: that of the suite."""
        found = evaluate_run(self.run, suite=self.suite, num_images=self.images, checks=self.checks)
        return [
            {
                "of": "robustness",
                "recipe": self.network,
                "suite": self.suite,
                "images": found.num_images,
                "natural": found.natural.successes,
                "robust": found.robust.successes,
                "flags": len(found.flags) if self.checks else None,
            }
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedDevices:
    """Speed-up of so many devices at κ = 8, on the virtual clock."""

    devices: int
    """How many, the trainer's included."""

    @property
    def name(self) -> str:
        """The devices."""
        return f"{self.devices} simulated devices"

    @property
    def subject(self) -> str:
        """Nothing that is trained."""
        return ""

    def __call__(self) -> Sequence[Row]:
        """A row for a trainer that waits, and one for a trainer that helps."""
        costs = Costs(attack=float(ATTACK), update=1.0)
        return [
            {
                "of": "simulated",
                "devices": self.devices,
                "trainer": trainer,
                "speed_up": simulate_speed_up(costs, self.devices - 1, helps=trainer == "helps"),
            }
            for trainer in ("waits", "helps")
        ]
