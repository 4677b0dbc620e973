"""Runs a study: trains missing networks, makes missing measurements, and judges the claims.

    INTO/SCALE/networks/NAME      the networks, run directories that studies share
    INTO/SCALE/STUDY/table.jsonl  its one tidy table
    INTO/SCALE/STUDY/study.json   claims, findings and figures as data

A stopped study is resumed when it is run again.
"""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from typing_extensions import override

from sparring.errors import ConfigError, Interrupted, RunError, cause
from sparring.models import working_copy
from sparring.records import (
    Claim,
    Environment,
    Figure,
    Provenance,
    Row,
    RunDirectory,
    StudyResult,
    Trained,
    describe,
    from_json,
    read_json,
    run_errors,
)
from sparring.records.environment import available_cores
from sparring.records.files import exclusive_lock, temporary_folder
from sparring.records.metrics import number
from sparring.studies.networks import pace, reached, with_short_validation
from sparring.studies.processes import Job, JobProcesses, ReportShare
from sparring.studies.study import (
    Demanding,
    Measurement,
    Measurements,
    Runs,
    Scale,
    Study,
    command_words,
    planned,
)
from sparring.studies.table import StudyTable
from sparring.training import Asynchronous, Fresh, RowKind, Sink, TrainConfig, resume, train

TABLE, RESULT, NETWORKS = "table.jsonl", "study.json", "networks"


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """A network to train or resume."""

    name: str
    """Its name in the study."""
    config: TrainConfig
    """Its settings."""
    folder: Path
    """Its run directory, which may exist."""
    until: int
    """Updates to stop after."""

    @property
    def done(self) -> int:
        """Updates that it has seen."""
        return RunDirectory(self.folder).saved_updates

    @property
    def pass_cost(self) -> float:
        """Images that pass through the network in an update, roughly."""
        return self.config.batch_size * (self.config.pgd.steps + 2.0)

    @property
    def cost(self) -> float:
        """The same for all updates that are left."""
        return max(0, self.until - self.done) * self.pass_cost

    @property
    def alone(self) -> bool:
        """Whether it uses more than one core: it has workers, or more than one thread."""
        return isinstance(self.config.source, Asynchronous) or self.config.threads != 1

    def work(self, report: ReportShare) -> None:
        """Train it. Raises what `train` and `resume` raise."""
        progress = _Progress(report, self.until)
        if (self.folder / "config.json").exists():
            resume(self.folder, sinks=[progress], until=self.until)
        else:
            train(self.config, self.folder, sinks=[progress], until=self.until)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measuring(Job):
    """A measurement to make."""

    measurement: Measurement

    @property
    @override
    def name(self) -> str:
        return self.measurement.name

    @property
    def alone(self) -> bool:
        """Whether nothing else may run at the same time."""
        return isinstance(self.measurement, Demanding) and self.measurement.alone

    @override
    def work(self, report: ReportShare) -> tuple[Sequence[Row], float]:
        """Its rows and its duration in seconds."""
        begun = time.perf_counter()
        return self.measurement(), time.perf_counter() - begun


class _Progress(Sink):
    """Reports the share of a training that is done."""

    def __init__(self, report: ReportShare, until: int) -> None:
        self._report, self._until = report, until

    @override
    def write(self, kind: RowKind, row: Row) -> None:
        if kind == "update":
            # The checkpoint comes after the last update.
            self._report(number(row, "step") / (self._until + 1))


ReportJob = Callable[[Job, float], None]
"""Takes a job and the share of it that is done."""
TRIED = 4
"""Updates from which the duration of a study is estimated; the second half is timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """The training that is left for a study."""

    networks: int
    """Networks to train."""
    updates: int
    """Updates in all."""
    seconds: float | None
    """Estimated wall-clock time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRun:
    """A study at one scale, and how it is run."""

    study: Study
    scale: Scale
    """The size of its networks and measurements."""
    into: Path
    """Folder of all studies."""
    only: tuple[str, ...] = ()
    """Networks to train and measure; empty for all."""
    until: int | None = None
    """Updates of each network to stop after; `None` for all."""
    jobs: int = 1
    """Processes in parallel, with one thread each; a job that needs all cores runs alone."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for networks that the study does not have."""
        known = self.study.networks(self.scale)
        if unknown := [name for name in self.only if name not in known]:
            raise ConfigError.expected(
                f"networks of the study {self.study.name} must be among {', '.join(known)}",
                ", ".join(unknown),
                "Leave the others out.",
            )

    @property
    def folder(self) -> Path:
        """The folder of its table and result."""
        return self.into / self.scale / self.study.name

    @property
    def networks(self) -> Mapping[str, TrainConfig]:
        """The networks that it trains."""
        known = self.study.networks(self.scale)
        return {name: known[name] for name in self.only or known}

    def network_folder(self, name: str) -> Path:
        """The run directory of a network; it may be missing."""
        return self.into / self.scale / NETWORKS / name

    def until_for(self, name: str, config: TrainConfig) -> int:
        """Updates of a network to stop after."""
        return min(config.updates, self.until or planned(self.study, self.scale, name, config))

    def forecast(self) -> Forecast | None:
        """The training that is left, with its estimated time; `None` if there is none.

        Cost: `TRIED` updates of one network; times of the others are in proportion to their passes.
        At the scale smoke no time is estimated.
        """
        trainings = self._trainings()
        if not trainings:
            return None
        updates = sum(each.until - each.done for each in trainings)
        if self.scale == "smoke":
            return Forecast(networks=len(trainings), updates=updates, seconds=None)
        tried = min(trainings, key=lambda training: training.pass_cost)
        config = replace(
            with_short_validation(tried.config), source=Fresh(), threads=1, snapshot_every=0
        )
        try:
            with temporary_folder() as folder:
                timed = pace(train(config, folder / "run", until=TRIED).run)
        except Interrupted as stopped:  # of a run that is gone: the study has not begun
            stopped.again()
            raise
        of_pass = timed.seconds_per_update / tried.pass_cost
        beside = sum(each.cost for each in trainings if not each.alone) / self.jobs
        longest = max((each.cost for each in trainings if not each.alone), default=0.0)
        alone = sum(each.cost for each in trainings if each.alone)
        seconds = of_pass * (max(beside, longest) + alone)
        return Forecast(networks=len(trainings), updates=updates, seconds=seconds)

    def run(self, report: ReportJob, begins: Callable[[Sequence[Job]], None]) -> StudyResult:
        """Train, measure and judge the claims. `begins` is called with the jobs of each round.

        Raises `ConfigError` if a network's folder holds another network, `RunError` for a folder
        that cannot be written or is in use, and the errors of training. Finished work is kept.
        """
        with run_errors("create the folder of the study", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.folder, "run a study"), JobProcesses(report=report) as workers:
            trainings = self._trainings()
            begins(trainings)
            for job, _ in self._done(workers, trainings):
                report(job, 1.0)
            missing = self.table.missing(self._wanted())
            self.table.clear(missing)
            measuring = {each.name: Measuring(measurement=each) for each in missing}
            begins(list(measuring.values()))
            where = self._environment()
            for job, (rows, seconds) in self._done(workers, list(measuring.values())):
                self.table.add(measuring[job.name].measurement, rows, seconds, where)
                report(job, 1.0)
        return self.result()

    def _done(
        self, workers: JobProcesses, jobs: Sequence[Training | Measuring]
    ) -> Iterator[tuple[Job, Any]]:
        """Each job with its result; those that need the whole machine run last, one at a time."""
        beside = [job for job in jobs if not job.alone]
        yield from workers.results(beside, at_once=self.jobs)
        alone = [job for job in jobs if job.alone]
        yield from workers.results(alone, at_once=1, threads=available_cores())

    def result(self) -> StudyResult:
        """The result for the networks as they are, also written to study.json.

        Rows of other networks, and of earlier stops, stay in the table.
        """
        wanted = self._wanted()
        found = self.table.found(wanted)
        networks = tuple(self._trained(name, run) for name, run in self._runs().items())
        where, *others = self.table.environments(wanted) or (self._environment(),)
        provenance = Provenance(
            command=self.command,
            seeds=tuple(sorted({network.seed for network in networks})),
            environment=where,
            others=tuple(others),
        )
        claims, figures = judged_study(
            self.study, self.scale, found, provenance, str(self.table.path)
        )
        result = StudyResult(
            study=self.study.name,
            title=self.study.title,
            scale=self.scale,
            claims=claims,
            figures=figures,
            networks=networks,
            provenance=provenance,
            seconds=self.table.seconds(wanted),
        )
        result.save(self.folder / RESULT)
        return result

    @property
    def table(self) -> StudyTable:
        """The measurements so far."""
        return StudyTable(self.folder / TABLE)

    @property
    def command(self) -> str:
        """The command that runs it again."""
        words = command_words([self.study.name], self.scale, only=self.only, until=self.until)
        return shlex.join(words)

    def _trainings(self) -> list[Training]:
        """Networks with too few updates, the longest training first."""
        found = []
        for name, config in self.networks.items():
            folder = self.network_folder(name)
            until = self.until_for(name, config)
            _check_same(folder, config)
            if reached(RunDirectory(folder)) < until:
                found.append(Training(name=name, config=config, folder=folder, until=until))
        return sorted(found, key=lambda training: training.cost, reverse=True)

    def _trained(self, name: str, run: RunDirectory) -> Trained:
        config = self.networks[name]
        enough = planned(self.study, self.scale, name, config)
        return Trained(name=name, updates=reached(run), planned=enough, seed=config.seed)

    def _wanted(self) -> Sequence[Measurement]:
        """The measurements of the networks as they are."""
        return self.study.measurements(self.scale, self._runs())

    def _environment(self) -> Environment:
        """The environment of its measurements, with the most threads that a network has."""
        known = self.study.networks(self.scale)
        return describe(threads=_threads(known), device="cpu", precision=_arithmetic(known))

    def _runs(self) -> Runs:
        """Networks that have a snapshot, in the study's order."""
        runs = {name: RunDirectory(self.network_folder(name)) for name in self.networks}
        return {name: run for name, run in runs.items() if reached(run)}


def judged_study(
    study: Study, scale: Scale, found: Measurements, provenance: Provenance, where: str
) -> tuple[tuple[Claim, ...], tuple[Figure, ...]]:
    """The claims and figures of a study from its rows in the file `where`.

    Raises `RunError` for damaged rows.
    """
    try:
        claims = tuple(study.claims(scale, found))
        return claims, tuple(study.figures(found, provenance))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunError(
            f"{where} is damaged: the study {study.name} cannot use its rows ({cause(error)}). "
            "Remove the file and run the study again."
        ) from error


def _check_same(folder: Path, config: TrainConfig) -> None:
    run = RunDirectory(folder)
    if not run.config.exists():
        return
    there = from_json(TrainConfig, read_json(run.config), where=str(run.config))
    if there != config:
        raise ConfigError(
            f"{folder} holds a network with other settings than the study's. Move the folder away "
            "to train it again."
        )


def _arithmetic(networks: Mapping[str, TrainConfig]) -> str:
    """The arithmetic of attacks on this machine."""
    for config in networks.values():
        return working_copy(config.model.build(0), config.precision).name
    return "none"


def _threads(networks: Mapping[str, TrainConfig]) -> int:
    """The most threads that a network is trained with."""
    return max((net.computing_threads or available_cores() for net in networks.values()), default=1)
