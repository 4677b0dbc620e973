"""A training session: one process's loop from a start or a checkpoint to the end or a stop."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from itertools import chain

import torch
from torch import nn

from sparring.attacks import PGD, AttackedBatch
from sparring.attacks.batch_attack import BUILT_IN
from sparring.attacks.plausible import doubt, mismatch
from sparring.data import Dataset
from sparring.errors import (
    ConfigError,
    Interrupted,
    NonFiniteLogits,
    NonFiniteLoss,
    TrainerLost,
    resume_command,
)
from sparring.loader import Asynchronous
from sparring.models import computing_threads, kept_layers
from sparring.models.spec import seeded_devices
from sparring.records import RunDirectory, describe, to_json, write_json
from sparring.records.custom import forget_made
from sparring.records.files import exclusive_lock
from sparring.records.own_code import named_code, unsealed
from sparring.records.text import few
from sparring.training.checkpoint import restore_checkpoint, save_checkpoint, save_snapshot
from sparring.training.comparison import Comparison
from sparring.training.config import TrainConfig
from sparring.training.distributed import other_weights
from sparring.training.monitor import DeadStart, OverfittingAlarm, ValidationResult, ValidationSlice
from sparring.training.objectives import TRADES, Adversarial, Mixed, Natural
from sparring.training.presets import for_model
from sparring.training.sinks import JSONLSink, SessionStart, Sink, Sinks, TensorBoardSink
from sparring.training.team import Team, stop_request
from sparring.training.trained_run import TrainedRun
from sparring.training.trainer import Step, Trainer

SINGLE = (
    "single precision, though bf16 is faster on this device: the network fails in bf16, as with a "
    "constant that is neither parameter nor buffer, or a convolution's input smaller than its "
    "stride; --precision bf16 says where"
)
"""The notice of a network that cannot be computed in bf16."""
IDLE = "the training attack has no steps, so its workers have nothing to do: take --source fresh"
"""The notice of workers without work."""
UNATTACKED = (
    "the training attack has no steps and no random start, so training is on clean images: take "
    "--steps 8 with the start uniform"
)
"""The notice of an objective whose attack changes nothing."""
UNUSED = (
    "the objective natural uses clean images only, so the steps of the attack are wasted: take "
    "--steps 0 or --objective adversarial"
)
"""The notice of an attack whose images no loss sees."""
FEW_STEPS = (
    "the preset's two early attack steps suffice for the paper's network only, others may overfit "
    "to them: name the network to the preset, presets.fast(model=...), which then takes three"
)
"""The notice of early steps that a preset would not give this network."""
REPEATED = (
    "a batch has {:,} images and the training set {:,}, so that every batch has some of them more "
    "than once: take a smaller --batch-size"
)
"""The notice of a batch larger than the training set."""
UNTRAINED = (
    "weights without a gradient in the first update: {}; no loss depends on them, so they stay "
    "as they are"
)
"""The notice of weights that training does not change."""
UNHELD = (
    "weights that the optimizer of your own does not have: {}; they stay as they are unless it "
    "changes them in another way"
)
"""The notice of weights that an optimizer leaves out."""
NO_DIVERGENCE = (
    "the loss of TRADES is not what its attack maximises: take the attack's loss kl, as "
    "--objective trades does"
)
"""The notice of TRADES with another attack than its own."""
KEPT = (
    "layers that were in evaluation mode stay so, without dropout and with fixed statistics of "
    "BatchNorm: {}; call train() on the network before training if that is not intended"
)
"""The notice of a network with layers in evaluation mode."""
TOO_LATE = "{} came at the last update: nothing was left to stop"
"""The notice of a request to stop after the last update had begun."""
LOST_ROWS = (
    "metrics.jsonl has the measurements of {:,} of {:,} updates: the run is resumed, but reports "
    "and replays of it are incomplete; restore the file if there is a copy"
)
"""The notice of a run whose log is not whole."""
UNLIKE = (
    "trainers must have the same weights bit for bit; those of trainer {} differ from trainer 0's. "
    "Their machines compute differently: take the same processor and PyTorch for all."
)
"""The notice of trainers whose hardware or software rounds differently."""


class TrainingSession:
    """One process's part of a run, from its start or last checkpoint to its end or a stop.

    Of several trainers, rank 0 writes, validates and has the sinks; all attack and update.
    """

    def __init__(  # noqa: PLR0913
        self,
        team: Team,
        config: TrainConfig,
        dataset: Dataset,
        run: RunDirectory,
        sinks: Sequence[Sink],
        until: int | None,
        network: nn.Module | None,
        *,
        threads: int | None = None,
        restored: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.restored = restored
        """Called on rank 0 with the updates of the weights, before anything is written."""
        self.team, self.network = team, network
        self.end = config.updates if until is None else min(until, config.updates)
        self.config, self.dataset, self.run = config, dataset, run
        self.computing = config if threads is None else replace(config, threads=threads)
        """The settings with the number of threads of this session."""
        self.log = JSONLSink()
        own = [self.log, TensorBoardSink()] if config.tensorboard else [self.log]
        self.sinks = Sinks(own, sinks)
        self.device = team.device(config.device)
        self.unsent: list[str] = []
        """Notices of a trainer that has no sinks, until the next checkpoint."""
        self.dead_start = DeadStart(dataset.num_classes, config)
        self.seconds_before, self.all_threads = 0.0, 0

    def train(self) -> TrainedRun:
        """Train to the end; raises the errors of `sparring.training.train`."""
        self.all_threads = self.computing.threads or torch.get_num_threads()
        try:
            with (
                computing_threads(self.computing.computing_threads),
                stop_request(patient=self.team.size > 1) as stop,
            ):
                self.team.attend(stop)
                return self._train()
        except TrainerLost as error:
            command = resume_command(self.run.path, self.team.size)
            remedy = f"then resume from the last checkpoint: {command}"
            raise TrainerLost(error.reason, remedy) from error

    def _train(self) -> TrainedRun:
        with torch.random.fork_rng(seeded_devices()), ExitStack() as kept:
            self.team.lead(lambda: kept.enter_context(exclusive_lock(self.run.path, "train a run")))
            resumed = self.team.lead(self.run.resume.exists)
            forget_made()
            trainer = Trainer(
                self.config, self.dataset, self.device, self.network, self.team, resumed=resumed
            )
            kept.enter_context(trainer.loader)
            kept.enter_context(closing(self.sinks))
            kept.enter_context(_warnings_to(lambda text: self._notice(trainer, text)))
            if resumed:
                self.seconds_before = restore_checkpoint(self.run, trainer)
            self.team.lead(lambda: self._begin(trainer))
            self.begun = time.perf_counter()
            if trainer.version < self.end:
                try:
                    self._loop(trainer)
                except (NonFiniteLoss, NonFiniteLogits) as error:
                    raise self._diverged(trainer, error) from error
                except ConfigError as error:  # of code of your own, in the middle of a run
                    if not trainer.version:
                        raise
                    raise ConfigError(self._failed(trainer, str(error))) from error
            if (asked := self.team.heard) is not None and self.team.leads:
                self._notice(trainer, TOO_LATE.format(asked.name))
            seconds = self._seconds()
        network = trainer.average.network.eval()
        return TrainedRun(
            run=self.run,
            network=network,
            version=trainer.version,
            seconds=seconds,
            config=self.config,
        )

    def _begin(self, trainer: Trainer) -> None:
        """Prepare measurements and sinks on rank 0."""
        self.restored(trainer.version)
        self.slice = ValidationSlice(self.config, self.dataset, self.device)
        self.alarm = OverfittingAlarm(self.config, self.dataset, self.device)
        where = describe(
            threads=torch.get_num_threads(), device=str(self.device), precision=trainer.copy.name
        )
        write_json(self.run.environment, to_json(where))
        self.run.write_class_names(self.dataset.class_names)
        self.sinks.start(
            SessionStart(
                config=self.config, run=self.run, environment=where, version=trainer.version
            )
        )
        if not trainer.version:
            self._first(trainer)
        elif self.log.updates < trainer.version:
            self._notice(trainer, LOST_ROWS.format(self.log.updates, trainer.version))

    def _first(self, trainer: Trainer) -> None:
        """The first snapshot, and notices before the first update."""
        if self.config.snapshot_every:
            save_snapshot(self.run, trainer)
        if trainer.precision != self.config.precision:
            self._notice(trainer, SINGLE)
        if alone := unsealed(self.run.path, named_code(to_json(self.config))):
            self._notice(trainer, alone)
        if kept := kept_layers(trainer.network)["evaluation"]:
            self._notice(trainer, KEPT.format(few([name or "the network" for name in kept])))
        if trainer.unheld:
            self._notice(trainer, UNHELD.format(few(trainer.unheld)))
        for doubtful in filter(None, self._doubts()):
            self._notice(trainer, f"{doubtful}.")

    def _doubts(self) -> Iterator[str | None]:
        """What is odd about the settings."""
        threat, attack = self.config.threat, self.config.attack
        if isinstance(self.config.source, Asynchronous) and getattr(attack, "steps", 1) == 0:
            yield IDLE
        objective, steps = self.config.objective, getattr(attack, "steps", 0)
        if isinstance(objective, Natural) and steps:
            yield UNUSED
        idle = isinstance(attack, PGD) and attack.is_idle
        if idle and isinstance(objective, Adversarial | Mixed | TRADES):
            yield UNATTACKED
        if for_model(self.config) != self.config:
            yield FEW_STEPS
        if self.config.batch_size > (images := len(self.dataset.train)):
            yield REPEATED.format(self.config.batch_size, images)
        yield doubt(threat, self.dataset.image_shape)
        if isinstance(objective, TRADES) and getattr(attack, "loss", "kl") != "kl":
            yield NO_DIVERGENCE
        if isinstance(attack, BUILT_IN) and getattr(attack, "steps", 1):
            yield mismatch(threat, attack.threat)

    def _loop(self, trainer: Trainer) -> None:
        """Update the weights with each adversarial batch of the loader."""
        for batch in trainer.loader:
            step = trainer.update(batch, supply_seconds=trainer.loader.supply_seconds)
            if self.team.leads:
                self._after(trainer, step, batch)
            last, asked = trainer.version == self.end, self.team.heard
            if last or asked or _due(self.config.checkpoint_every, trainer.version):
                self._save(trainer)
            if last or asked:
                self.team.wait()  # a trainer that ends while rank 0 still writes looks crashed
            if asked and not last:
                raise Interrupted(asked, trainer.version, self.run.path, self.team.size)
            if last and trainer.version < self.config.updates:
                break
        asked = self.team.heard
        if asked and trainer.version < self.end:  # while a batch was awaited
            self._save(trainer)
            raise Interrupted(asked, trainer.version, self.run.path, self.team.size)

    def _after(self, trainer: Trainer, step: Step, batch: AttackedBatch) -> None:
        """Write the update's row; validate, compare and keep a snapshot where they are due."""
        self._record(trainer, step)
        if trainer.version == 1 and trainer.untrained:
            self._notice(trainer, UNTRAINED.format(few(trainer.untrained)))
        if self.alarm.due(trainer.version):
            self._compare(trainer, batch)
        complete = trainer.version == self.config.updates
        if complete or _due(self.config.validation.every, trainer.version):
            self._validate(trainer)
        every = self.config.snapshot_every
        if _due(every, trainer.version) or (every and trainer.version == self.end):
            save_snapshot(self.run, trainer)

    def _diverged(self, trainer: Trainer, error: NonFiniteLoss | NonFiniteLogits) -> NonFiniteLoss:
        """The error for numbers that are no longer finite."""
        said = str(error)
        if isinstance(error, NonFiniteLogits):
            rate = trainer.learning_rate
            said += (
                f" This was at step {trainer.version + 1} with learning rate {rate:g}. Lower the "
                "learning rate or clip the gradient, if the network is sound."
            )
        return NonFiniteLoss(self._failed(trainer, said))

    def _failed(self, trainer: Trainer, said: str) -> str:
        """Record why a run ends early; the same, and where it can be resumed."""
        if self.team.leads:
            self.sinks.write("failure", {"step": trainer.version, "event": said})
        last = f"is in {self.run.resume}" if self.run.resume.exists() else "was not yet written"
        return f"{said} The last good checkpoint {last}."

    def _record(self, trainer: Trainer, step: Step) -> None:
        figures = asdict(step) | {"seconds": self._seconds(), **trainer.loader.figures()}
        self.sinks.write("update", figures | dict(trainer.figures()))
        last = step.step == self.config.updates
        known = self.slice.natural_accuracy
        notice = self.dead_start.notice(step, lambda: known(trainer), last=last)
        if notice:
            self._notice(trainer, notice)

    def _notice(self, trainer: Trainer, text: str) -> None:
        if self.team.leads:
            self.sinks.write("notice", {"step": trainer.version, "event": text})
        else:
            self.unsent.append(f"trainer {self.team.rank}: {text}")

    def _validate(self, trainer: Trainer) -> None:
        """Validate on all threads; workers are idle meanwhile."""
        with computing_threads(self.all_threads):
            found = self.slice.validate(trainer)
        self.sinks.write("validation", _measured(found))

    def _compare(self, trainer: Trainer, batch: AttackedBatch) -> None:
        found = self.alarm.compare(trainer, batch)
        self.sinks.write("alarm", _measured(found))
        for notice in self.alarm.notices(found):
            self._notice(trainer, notice)

    def _save(self, trainer: Trainer) -> None:
        """Write a checkpoint, the other trainers' notices, and totals summed over the trainers."""
        totals = self.team.gather(dict(trainer.loader.totals()))
        for text in chain.from_iterable(self.team.gather(self.unsent)):
            self._notice(trainer, text)
        self.unsent = []
        if any(totals):
            self.sinks.write("tickets", {"step": trainer.version, **_summed(totals)})
        if others := other_weights(self.team, trainer.network):
            self._notice(trainer, UNLIKE.format(", ".join(map(str, others))))
        save_checkpoint(self.run, trainer, self._seconds())

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.begun


def _summed(totals: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(own[name] for own in totals) for name in totals[0]}


def _measured(found: ValidationResult | Comparison) -> Mapping[str, int | float]:
    return {name: value for name, value in asdict(found).items() if value is not None}


def _due(every: int, version: int) -> bool:
    return every > 0 and version % every == 0


class _Handler(logging.Handler):
    def __init__(self, take: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(record.getMessage())


@contextmanager
def _warnings_to(take: Callable[[str], None]) -> Iterator[None]:
    """Pass the text of every warning of the package to `take` while the block lasts.

    Your own logging handlers receive them too.
    """
    logger, handler = logging.getLogger("sparring"), _Handler(take)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
