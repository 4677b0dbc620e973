"""Recipes for a robust network, from mnist_challenge's to the preset fast, and their times.

The baseline is the paper's network in plain PyTorch: single precision, layer by layer, ReLU before
pooling, contiguous tensors.

Units: wall-clock seconds on all cores of an otherwise idle machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from sparring.attacks import PGD
from sparring.capacity import Costs, simulate_speed_up
from sparring.evaluation import evaluate_run
from sparring.models import PaperCNN, PaperNetwork
from sparring.records import MetricsLog, Row, RunDirectory
from sparring.records.files import temporary_folder
from sparring.studies.networks import (
    ATTACK,
    SNAPSHOTS,
    pace,
    reached,
    weights_digest,
    with_short_validation,
)
from sparring.studies.study import Demanding, Measurement, Scale
from sparring.training import Asynchronous, TrainConfig, train
from sparring.training.checkpoint import settings_digest
from sparring.training.presets import fast, madry, paper, paper_async


class PlainCNN(PaperCNN):
    """The paper's network without faster passes: `working_copy` has none for a subclass."""

    def forward(self, images: Float[Tensor, " B 1 28 28"]) -> Float[Tensor, " B 10"]:
        """Logits, without softmax."""
        hidden = functional.max_pool2d(self.conv1(images).relu(), 2)
        hidden = functional.max_pool2d(self.conv2(hidden).relu(), 2)
        features = hidden.permute(0, 2, 3, 1).flatten(1)
        return self.fc2(self.fc1(features).relu())


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainNetwork(PaperNetwork):
    """Builds `PlainCNN`; train it in precision fp32."""

    def build(self, seed: int) -> PlainCNN:
        """A network with the initial weights of `PaperNetwork`."""
        return PlainCNN(self.initialisation, generator=torch.Generator().manual_seed(seed))


PLAIN, BASELINE, FEWER_STEPS = "madry-plain", "madry", "madry-k8"
"""mnist_challenge's recipe in plain PyTorch, in this library's arithmetic, and so with κ = 8."""
PAPER, PAPER_ASYNC = "paper", "paper-async"
"""The paper's recipe of κ = 8, synchronous and with its engine."""
FAST, FAST_ASYNC = "fast", "fast-async"
"""The preset fast, synchronous and with this library's engine."""


def recipes(scale: Scale) -> Mapping[str, TrainConfig]:
    """All of them by name, the slowest first; at smoke with tiny batches, on one thread."""
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
    if scale == "smoke":
        config = replace(with_short_validation(config), batch_size=8, updates=8, threads=1)
    return replace(config, snapshot_every=min(config.updates, SNAPSHOTS["paper"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeTrial(Demanding):
    """The time of an update of a recipe."""

    recipe: str
    """Its name."""
    config: TrainConfig
    """Its settings."""
    updates: int
    """Updates to make; the second half is timed."""

    @property
    @override
    def name(self) -> str:
        return f"{self.updates} updates of {self.recipe}, timed"

    @property
    @override
    def alone(self) -> bool:
        return True

    @property
    @override
    def subject(self) -> str:
        return settings_digest(self.config)

    @override
    def __call__(self) -> Sequence[Row]:
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
class Clock(Measurement):
    """The duration of a network's training so far, validation and checkpoints included."""

    network: str
    """The recipe's name."""
    run: RunDirectory

    @property
    @override
    def name(self) -> str:
        return f"time of {self.network}@{reached(self.run)}"

    @property
    @override
    def subject(self) -> str:
        return weights_digest(self.run)

    @override
    def __call__(self) -> Sequence[Row]:
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
class Judgement(Measurement):
    """Natural and robust accuracy of a network; the evaluation is also saved in its run."""

    network: str
    """The recipe's name."""
    run: RunDirectory
    """Its run."""
    suite: str
    images: int
    """Test images, the first ones."""
    checks: bool = True
    """Whether to look for signs of gradient masking."""

    @property
    @override
    def name(self) -> str:
        return f"{self.network}@{reached(self.run)} under {self.suite}, {self.images} test images"

    @property
    @override
    def subject(self) -> str:
        return weights_digest(self.run)

    @override
    def __call__(self) -> Sequence[Row]:
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
class SimulatedDevices(Measurement):
    """Speed-up of a number of devices at κ = 8, on the virtual clock."""

    devices: int
    """Devices, the trainer's included."""

    @property
    @override
    def name(self) -> str:
        return f"{self.devices} simulated devices"

    @property
    @override
    def subject(self) -> str:
        return ""

    @override
    def __call__(self) -> Sequence[Row]:
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
