"""A run's weights computed again, by one process, from its settings and its trace.

The trace is read from the updates' rows in metrics.jsonl. Ticket t is trained on by the weights of
version t, at step t + 1, and was attacked with those of version t - staleness. Nothing else about
the weights depends on workers, their speed or their crashes, so they follow from it bit for bit.

Units: versions and staleness are in updates, seconds are wall-clock.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sparring.attacks import AttackedBatch
from sparring.data import Dataset
from sparring.data.run_data import RunData
from sparring.errors import CheckpointError, ConfigError, NonFiniteLogits, NonFiniteLoss, RunError
from sparring.loader import Reused
from sparring.models import bits, chosen_device, computing_threads, plain_settings
from sparring.models.trained import read_trained
from sparring.records import (
    Environment,
    MetricsLog,
    Row,
    RunDirectory,
    describe,
    from_json,
    read_json,
)
from sparring.records.checks import count_in
from sparring.records.codec import shown
from sparring.records.custom import forget_made
from sparring.records.typed import typed
from sparring.training.config import TrainConfig, stored_config, with_given
from sparring.training.preparation import check_fits
from sparring.training.sinks import SessionStart, Sink, Sinks, training_display
from sparring.training.team import SingleProcess
from sparring.training.trainer import Trainer, update_together

MOST_TRAINERS = 2
"""The sum of two numbers has the same bits in either order; that of more depends on the order."""
DECISIVE = ("sparring", "torch", "processor", "device", "precision")
"""Fields of an environment on which the bits of a result depend, beside the number of threads."""
REMEDY = "Restore the file, or take another run."
"""The remedy for a damaged trace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parting:
    """The first update whose loss differs from the recorded one.

    The weights before it, or its attacked batch, differ.
    """

    step: int
    """The update; the first one is 1."""
    recorded: float
    """Its loss in metrics.jsonl."""
    replayed: float
    """Its loss here; NaN if it was not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """The result of a replay."""

    run: RunDirectory
    """The run; nothing was written there."""
    updates: int
    """Updates whose loss was computed and compared."""
    max_staleness: int
    """Largest staleness of their batches."""
    parting: Parting | None
    """Where the losses part; `None` if they never do."""
    version: int | None
    """Updates that the stored weights have seen; `None` if none are stored."""
    different: tuple[str, ...] | None
    """Stored tensors that differ in a bit; `None` if none are stored or the losses part."""
    seconds: float
    """Duration, reading files included."""

    @property
    def is_equal(self) -> bool:
        """Whether every loss and every bit of the stored weights are equal."""
        return self.parting is None and not self.different


@typed
@plain_settings()
def replay(  # noqa: PLR0913 - all but the run by keyword
    run: Path | str | None = None,
    *,
    data: Dataset | None = None,
    given: Mapping[str, object] | None = None,
    sinks: Sequence[Sink] = (),
    progress: bool = False,
    trust_code: bool = False,
) -> Replay:
    """Compute a run's weights again, up to the stored ones, and compare every loss and every bit.

    Uses the recorded number of threads, and the recorded device if it exists. Without `run`, the
    newest in `runs/`. Cost: the run's attacks and updates without its workers; one batch more in
    memory than the largest staleness. The `sinks` receive the updates, and a notice for each
    difference from the recorded environment that may change bits. `data` are those passed to
    `train`, if any; `progress` as in `train`; `given` and `trust_code` as in `resume`.
    Raises `RunError`, `ConfigError`, `DataError` or `CheckpointError` for an incomplete or damaged
    run; different weights are no error.
    """
    if progress:
        with training_display("replay") as display:
            return replay(
                run, data=data, given=given, sinks=[*sinks, display], trust_code=trust_code
            )
    begun = time.perf_counter()
    directory, group = RunDirectory.chosen(run), Sinks((), sinks)
    config = with_given(stored_config(directory, trust_code=trust_code), given)
    stored = _read_weights(directory, trust_code)
    trace = read_trace(directory, stored.version if stored else None)
    recorded = from_json(
        Environment, read_json(directory.environment), where=str(directory.environment)
    )
    device = _device_like(recorded)
    config = replace(config, device=str(device))
    dataset, _ = RunData.of(directory).load(data)
    check_fits(config, dataset)
    _check_trainers(config)
    forget_made()
    with computing_threads(recorded.threads), closing(group):
        teams = [SingleProcess(rank=rank, size=config.trainers) for rank in range(config.trainers)]
        trainers = [Trainer(config, dataset, device, team=team) for team in teams]
        trainer = trainers[0]
        here = describe(
            threads=torch.get_num_threads(), device=str(device), precision=trainer.copy.name
        )
        # Sinks may show progress up to the last update, here that of the trace.
        shown_config = replace(config, updates=len(trace))
        group.start(SessionStart(config=shown_config, run=directory, environment=here, version=0))
        for difference in _differences(recorded, here):
            group.write("notice", {"step": 0, "event": difference})
        parting = _follow(trace, trainers, group)
    updates = parting.step if parting else len(trace)
    compared = stored if parting is None else None
    return Replay(
        run=directory,
        updates=updates,
        max_staleness=max((traced.staleness for traced in trace[:updates]), default=0),
        parting=parting,
        version=stored.version if stored else None,
        different=_different(compared.tensors, trainer) if compared else None,
        seconds=time.perf_counter() - begun,
    )


class Traced(NamedTuple):
    """One ticket in the trace."""

    staleness: int
    """Version of the weights that it was trained on minus the version it was attacked with."""
    loss: float
    """The objective's value when it was trained on."""
    of_trainers: tuple[int, ...] = ()
    """The staleness of each of several trainers' parts."""

    def staleness_of(self, rank: int) -> int:
        """The staleness of this trainer's part."""
        return self.of_trainers[rank] if rank < len(self.of_trainers) else self.staleness


def read_trace(run: RunDirectory, updates: int | None = None) -> list[Traced]:
    """The first `updates` tickets that were trained on, in order, or all.

    Raises `RunError` if there are fewer, or if steps are missing, repeated or cannot be meant.
    """
    rows = [row for row in MetricsLog(run.metrics).rows() if "loss" in row]
    if not rows:
        raise RunError(f"{run.metrics} has no row of an update. Train first, or take another run.")
    trace = [_traced(run, row, step) for step, row in enumerate(rows, start=1)]
    if updates is not None and len(trace) < updates:
        rule = f"{run.metrics} must have a row for each of the {updates} updates of the weights"
        raise RunError.expected(rule, f"{len(trace)} rows", REMEDY)
    return trace[:updates]


def _traced(run: RunDirectory, row: Row, step: int) -> Traced:
    if row.get("step") != step:
        rule = f"the steps in {run.metrics} must be 1, 2, 3 and so on"
        got = f"step {shown(row.get('step'))} in the place of step {step}"
        raise RunError.expected(rule, got, REMEDY)
    staleness, loss = row.get("staleness"), row["loss"]
    if not isinstance(staleness, int) or not 0 <= staleness < step:
        rule = f"{run.metrics}: the staleness of step {step} must lie in 0 to {step - 1}"
        raise RunError.expected(rule, shown(staleness), REMEDY)
    if not isinstance(loss, int | float):
        rule = f"{run.metrics}: the loss of step {step} must be a number"
        raise RunError.expected(rule, shown(loss), REMEDY)
    return Traced(staleness=staleness, loss=loss, of_trainers=_of_trainers(run, row, step))


def _of_trainers(run: RunDirectory, row: Row, step: int) -> tuple[int, ...]:
    ages = row.get("staleness_of_trainers")
    if ages is None:
        return ()
    own = tuple(count_in(age) for age in str(ages).split("+") if age.isdecimal())
    if not own or max(own) != row["staleness"] or "+".join(map(str, own)) != ages:
        raise RunError.expected(
            f"{run.metrics}: staleness_of_trainers of step {step} must have a number for each "
            "trainer, the largest equal to its staleness",
            shown(ages),
            REMEDY,
        )
    return own


class _Stored(NamedTuple):
    """The content of weights.safetensors."""

    version: int
    tensors: Mapping[str, Tensor]


def _check_trainers(config: TrainConfig) -> None:
    if config.trainers > MOST_TRAINERS:
        raise ConfigError.expected(
            f"a replay adds the gradients of at most {MOST_TRAINERS} trainers in the same order",
            f"a run of {config.trainers}",
            "Train it again with torchrun instead: a fixed lag gives the same weights.",
        )


def _follow(trace: Sequence[Traced], trainers: Sequence[Trainer], group: Sinks) -> Parting | None:
    """Repeat every update; each trainer's part of a ticket is attacked once its version exists.

    Versions need not rise from ticket to ticket: a lost lease is given out again with newer
    weights than those of the tickets after it. With the source `Reused` a batch depends on those of
    the epoch before, so that the loader makes them in order.
    """
    tickets_of: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for ticket, traced in enumerate(trace):
        for rank in range(len(trainers)):
            tickets_of[ticket - traced.staleness_of(rank)].append((ticket, rank))
    waiting: dict[tuple[int, int], AttackedBatch] = {}
    for version, traced in enumerate(trace):
        try:
            if isinstance(trainers[0].config.source, Reused):
                batches = [next(trainer.loader) for trainer in trainers]
            else:
                for ticket, rank in tickets_of[version]:
                    waiting[ticket, rank] = trainers[rank].loader.begin(ticket)
                batches = [
                    trainer.loader.finish(waiting.pop((version, rank)))
                    for rank, trainer in enumerate(trainers)
                ]
            step = update_together(trainers, batches)
        except (NonFiniteLoss, NonFiniteLogits):
            return Parting(step=version + 1, recorded=traced.loss, replayed=math.nan)
        group.write("update", asdict(step))
        if step.loss != traced.loss:
            return Parting(step=step.step, recorded=traced.loss, replayed=step.loss)
    return None


def _different(stored: Mapping[str, Tensor], trainer: Trainer) -> tuple[str, ...]:
    """Names of the averaged weights that are not the stored ones, bit for bit."""
    found = trainer.average.network.state_dict()
    return tuple(name for name in stored if not torch.equal(bits(stored[name]), bits(found[name])))


def _read_weights(run: RunDirectory, trust_code: bool) -> _Stored | None:
    if not run.weights.exists():
        return None
    network, about = read_trained(run, trust_code=trust_code)
    version = count_in(about.get("version", ""))
    if not version:
        raise CheckpointError(f"{run.weights} lacks the number of its updates. {REMEDY}")
    return _Stored(version=version, tensors=network.state_dict())


def _device_like(recorded: Environment) -> torch.device:
    try:
        return chosen_device(recorded.device)
    except ConfigError:
        return chosen_device("auto")


def _differences(recorded: Environment, here: Environment) -> Iterator[str]:
    for what in DECISIVE:
        before, now = getattr(recorded, what), getattr(here, what)
        if before != now:
            yield f"{what} was {before} before and is {now} here: bits may differ for that alone"
