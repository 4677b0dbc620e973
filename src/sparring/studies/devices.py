"""Devices that attack for a trainer: emulated, simulated, and this machine's cores.

Emulated devices are processes that sleep, simulated ones exist on a virtual clock, and only cores
attack and train. Units: seconds; staleness in updates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from typing_extensions import override

from sparring.capacity import Costs, EngineStats, measure_speed_up, simulate_far
from sparring.records import MetricsLog, Row, RunDirectory
from sparring.records.text import counted
from sparring.studies.networks import ATTACK, pace, reached, weights_digest
from sparring.studies.study import Demanding, Measurement

Trainer = Literal["waits", "helps"]
"""What a trainer does until the next batch is ready: it waits, or it attacks as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmulatedDevices(Demanding):
    """Speed-up over a number of devices: emulated, simulated, by the formula."""

    devices: int
    """Devices, the trainer's included."""
    trainer: Trainer
    step: float
    """Seconds of sleep for an attack step, and for an update."""
    lasting: float
    """Seconds of the measurement, once all workers have started."""

    @property
    @override
    def name(self) -> str:
        asleep = f"{counted(self.devices, 'emulated device')}, {1000 * self.step:g} ms a step"
        return f"{asleep}, trainer {self.trainer}"

    @property
    @override
    def alone(self) -> bool:
        return True

    @property
    @override
    def subject(self) -> str:
        return ""

    @override
    def __call__(self) -> Sequence[Row]:
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
class FarDevices(Measurement):
    """Speed-up of a number of workers on the virtual clock: even, uneven and failing ones."""

    steps: int
    """Steps of their attack, each as long as an update."""
    workers: int
    """Workers, beside a trainer that helps."""

    @property
    @override
    def name(self) -> str:
        return f"{self.workers} simulated workers, {self.steps} steps"

    @property
    @override
    def subject(self) -> str:
        return ""

    @override
    def __call__(self) -> Sequence[Row]:
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
class RealCores(Measurement):
    """The speed and staleness that a network's log shows."""

    network: str
    """Its name in the study."""
    run: RunDirectory
    """Its run; a trainer with workers helps."""

    @property
    @override
    def name(self) -> str:
        return f"speed and staleness of {self.network}@{reached(self.run)}"

    @property
    @override
    def subject(self) -> str:
        return weights_digest(self.run)

    @override
    def __call__(self) -> Sequence[Row]:
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
