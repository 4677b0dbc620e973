"""Jobs and a study that processes of their own can load."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from sparring.errors import ConfigError
from sparring.records import Claim, Figure, Provenance, Row, RunDirectory
from sparring.studies import Measurement, Measurements, Runs, Scale, Study
from sparring.studies.networks import weights_digest
from sparring.studies.processes import ReportShare
from sparring.training import TrainConfig
from training.small_runs import small


@dataclass(frozen=True)
class Doubling:
    number: int
    name: str = "doubling"

    def work(self, report: ReportShare) -> int:
        report(0.5)
        return 2 * self.number


@dataclass(frozen=True)
class Failing:
    error: Exception
    name: str = "failing"

    def work(self, report: ReportShare) -> None:
        raise self.error


@dataclass(frozen=True)
class Dying:
    name: str = "dying"

    def work(self, report: ReportShare) -> None:
        os.kill(os.getpid(), 9)


@dataclass(frozen=True)
class Waiting:
    """Leaves its process's number in a file, and waits for ever."""

    file: Path
    name: str = "waiting"

    def work(self, report: ReportShare) -> None:
        self.file.write_text(str(os.getpid()))
        while True:
            report(0.5)
            time.sleep(0.05)


REFUSED = ConfigError("it must not be so.")


@dataclass(frozen=True)
class Weighing:
    """Counts a network's snapshots; fails while a file is there."""

    network: str
    run: RunDirectory
    obstacle: Path | None = None

    @property
    def name(self) -> str:
        return f"weighing {self.network}@{max(self.run.snapshots())}"

    @property
    def subject(self) -> str:
        return weights_digest(self.run)

    def __call__(self) -> Sequence[Row]:
        if self.obstacle is not None and self.obstacle.exists():
            raise REFUSED
        return [{"network": self.network, "version": v} for v in self.run.snapshots()]


@dataclass(frozen=True)
class TinyStudy(Study):
    """Two networks of eight updates."""

    name: str = "tiny"
    title: str = "Does it run?"
    covers: str = "nothing"
    obstacle: Path | None = None
    seed: int = 0

    @override
    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        config = small(snapshot_every=2, checkpoint_every=2, seed=self.seed)
        return {"one": config, "other": small(snapshot_every=4, seed=self.seed)}

    @override
    def enough(self, scale: Scale, network: str) -> int | None:
        return None

    @override
    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        return [Weighing(name, run, self.obstacle) for name, run in runs.items()]

    @override
    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        return [Claim(paper="", found=str(len(found.rows)), holds=None)]

    @override
    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        return []
