"""Devices that attack for a trainer: emulated, simulated, and this machine's cores.

Three kinds, never mixed up: emulated devices are real processes that sleep, simulated ones exist on
a virtual clock, and only cores attack and train. Units: seconds; staleness in updates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sparring.capacity import Costs, EngineStats, measure_speed_up, simulate_far
from sparring.records import MetricsLog, Row, RunDirectory
from sparring.studies.networks import ATTACK, pace, reached, weights_digest

Trainer = Literal["waits", "helps"]
"""What a trainer does while the next batch is not ready."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmulatedDevices:
    """Speed-up over so many devices: emulated, simulated, by the formula."""

    devices: int
    """How many, the trainer's included."""
    trainer: Trainer
    """What it does while it has no batch."""
    step: float
    """Seconds of sleep for an attack step, and for an update."""
    lasting: float
    """Seconds for which it is measured, once all workers are up."""

    @property
    def name(self) -> str:
        """The devices, how long they sleep and what the trainer does meanwhile."""
        asleep = f"{self.devices} emulated devices, {1000 * self.step:g} ms a step"
        return f"{asleep}, trainer {self.trainer}"

    @property
    def alone(self) -> bool:
        """Sleeping workers must wake up in time."""
        return True

    @property
    def subject(self) -> str:
        """Nothing that is trained."""
        return ""

    def __call__(self) -> Sequence[Row]:
        """One row. Cost: as long as it lasts, and some seconds for each worker's start."""
        point = measure_speed_up(
            Costs(attack=ATTACK * self.step, update=self.step),
            self.devices - 1,
            helps=self.trainer == "helps",
            seconds=self.lasting,
        )
        return [
            {
                "of": "devices",
                "trainer": self.trainer,
                "devices": self.devices,
                "emulated": point.emulated,
                "simulated": point.simulated,
                "formula": point.formula,
            }
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class FarDevices:
    """Speed-up of so many workers on the virtual clock: even, uneven and failing ones."""

    steps: int
    """Steps of their attack, each as long as an update."""
    workers: int
    """How many, beside a trainer that helps."""

    @property
    def name(self) -> str:
        """The workers and their attack."""
        return f"{self.workers} simulated workers, {self.steps} steps"

    @property
    def subject(self) -> str:
        """Nothing that is trained."""
        return ""

    def __call__(self) -> Sequence[Row]:
        """One row. Cost: a second or a few."""
        found = simulate_far(self.steps, self.workers)
        return [
            {
                "of": "far",
                "steps": self.steps,
                "devices": self.workers + 1,
                "formula": found.formula,
                "even": found.even,
                "slow": found.slow,
                "failing": found.failing,
                "staleness_mean": found.staleness_mean,
            }
        ]


@dataclass(frozen=True, slots=True)
class RealCores:
    """What a network's own log says of its speed, and of how old its attacks' weights were."""

    network: str
    """What the study calls it."""
    run: RunDirectory
    """Its run; where it has workers, its trainer helps."""

    @property
    def name(self) -> str:
        """The network, as far as it has come."""
        return f"speed and staleness of {self.network}@{reached(self.run)}"

    @property
    def subject(self) -> str:
        """The weights that it has come to."""
        return weights_digest(self.run)

    def __call__(self) -> Sequence[Row]:
        """A row of its speed once workers are up, and one for each staleness, over all updates."""
        rows = [row for row in MetricsLog(self.run.metrics).rows() if "loss" in row]
        late = pace(self.run)
        about: Row = {"network": self.network, "version": reached(self.run)}
        speed: Row = {
            "of": "cores",
            "update_seconds": late.seconds_per_update,
            "updates": len(late.rows),
            "workers": late.workers,
            "formula": late.predicted_speed_up,
        }
        ages = EngineStats(rows=rows, ledger={}, helps=True).staleness
        return [
            about | speed,
            *(
                about | {"of": "staleness", "staleness": age, "updates": count}
                for age, count in sorted(ages.items())
            ),
        ]
