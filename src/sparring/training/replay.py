"""A run's weights computed again, by one process, from its settings and its trace.

The trace is what metrics.jsonl says of each update: ticket t is trained on by the weights of
version t, and was attacked with those of version t - staleness. Nothing else about the weights is
decided by workers, their speed or their crashes, so they follow from it bit for bit.

Units: versions and staleness are in updates, seconds are wall-clock.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sparring.attacks import AttackedBatch
from sparring.data import Dataset
from sparring.data.of_run import RunData
from sparring.errors import CheckpointError, ConfigError, NonFiniteLogits, NonFiniteLoss
from sparring.models import bits, chosen_device, computing_threads, plain_settings
from sparring.models.trained import read_trained
from sparring.records import Environment, RunDirectory, describe, from_json, read_json
from sparring.records.ranges import count_in
from sparring.records.typed import typed
from sparring.training.config import TrainConfig, stored_config
from sparring.training.start import check_fits
from sparring.training.team import Solo
from sparring.training.trace import REMEDY, Traced, read_trace
from sparring.training.trainer import Trainer, update_together
from sparring.training.watch import Observer, Silent

MOST_TRAINERS = 2
"""Two numbers have one sum; of more, it depends on their order."""
DECISIVE = ("sparring", "torch", "processor", "device", "precision")
"""Fields of an environment on which the bits of a result depend, beside the number of threads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parting:
    """The first update whose loss is another than the recorded one.

    The weights before it, or the batch that was attacked for it, were others.
    """

    step: int
    """The update; the first one is 1."""
    recorded: float
    """Its loss in metrics.jsonl."""
    replayed: float
    """Its loss here; NaN if it was not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What came of computing a run's weights again."""

    run: RunDirectory
    """The run; nothing was written there."""
    updates: int
    """Updates whose loss was computed and compared."""
    max_staleness: int
    """Largest staleness of their batches."""
    parting: Parting | None
    """Where the losses part; none if they never do."""
    version: int | None
    """Updates that the stored weights have seen; none if there are none stored."""
    different: tuple[str, ...] | None
    """Stored tensors that differ in a bit; none if no weights are stored or the losses part."""
    seconds: float
    """Time that it took, reading files included."""

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs: no loss, and no bit of the stored weights if there are any."""
        return self.parting is None and not self.different


@typed
@plain_settings()
def replay(
    run: Path | str,
    *,
    data: Dataset | None = None,
    observer: Observer | None = None,
    trust_code: bool = False,
) -> Replay:
    """Compute a run's weights again, up to the stored ones, and compare every loss and every bit.

    With the recorded number of threads, and on the recorded device where there is one. Cost: the
    attacks and updates of the run without its workers; one batch more in memory than the largest
    staleness. The observer is told of the environment's differences, which may alone change bits.
    Raises `RunError`, `ConfigError`, `DataError` or `CheckpointError` for a run that lacks
    something or is damaged; weights that differ are no error. `data` are those that the run was
    given, if it was; `trust_code` as in `resume`.
    """
    begun = time.perf_counter()
    directory, observer = RunDirectory.open(run), observer or Silent()
    config = stored_config(directory, trust_code=trust_code)
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
    with computing_threads(recorded.threads):
        teams = [Solo(rank=rank, size=config.trainers) for rank in range(config.trainers)]
        trainers = [Trainer(config, dataset, device, team=team) for team in teams]
        trainer = trainers[0]
        here = describe(
            threads=torch.get_num_threads(), device=str(device), precision=trainer.copy.name
        )
        # An observer counts to the end of what it watches, here that of the trace.
        observer.started(replace(config, updates=len(trace)), directory, here)
        for difference in _differences(recorded, here):
            observer.noticed(difference)
        parting = _follow(trace, trainers, observer)
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


class _Stored(NamedTuple):
    """What weights.safetensors holds."""

    version: int
    tensors: Mapping[str, Tensor]


def _check_trainers(config: TrainConfig) -> None:
    if config.trainers > MOST_TRAINERS:
        raise ConfigError(
            f"a replay needs a run of at most {MOST_TRAINERS} trainers, because one process cannot "
            f"add what more of them found in the order in which their connection did; this one has "
            f"{config.trainers}. Train it again with torchrun, and compare: with a fixed lag it "
            "ends in the same weights."
        )


def _follow(
    trace: Sequence[Traced], trainers: Sequence[Trainer], observer: Observer
) -> Parting | None:
    """Update after update; each ticket is attacked as soon as its version is there.

    Of several trainers, each trainer's part of it.

    Versions need not rise from ticket to ticket: a lost lease is given out again, with newer
    weights than those of the tickets after it.
    """
    tickets_of: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for ticket, traced in enumerate(trace):
        for rank in range(len(trainers)):
            tickets_of[ticket - traced.staleness_of(rank)].append((ticket, rank))
    waiting: dict[tuple[int, int], AttackedBatch] = {}
    for version, traced in enumerate(trace):
        try:
            for ticket, rank in tickets_of[version]:
                waiting[ticket, rank] = trainers[rank].loader.begin(ticket)
            batches = [
                trainer.loader.finish(waiting.pop((version, rank)))
                for rank, trainer in enumerate(trainers)
            ]
            step = update_together(trainers, batches)
        except (NonFiniteLoss, NonFiniteLogits):
            return Parting(step=version + 1, recorded=traced.loss, replayed=math.nan)
        observer.stepped(step)
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
        raise CheckpointError(
            f"{run.weights} must say how many updates its weights have seen, because a replay "
            f"stops there to compare them; it has no such number. {REMEDY}"
        )
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
