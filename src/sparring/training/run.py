"""A whole run: from settings to a run directory with a trained network, resumed and extended."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn

from sparring.data import Dataset
from sparring.data.run_data import RunData, given_name, new_data, store_identity
from sparring.data.source import GIVEN
from sparring.engine import Newest
from sparring.errors import ConfigError, launcher, resume_command
from sparring.loader import Asynchronous
from sparring.models import copied, plain_settings
from sparring.records import RunDirectory
from sparring.records.checks import at_least
from sparring.records.files import from_home
from sparring.records.run import DataIdentity
from sparring.records.typed import typed
from sparring.training.checkpoint import mend_weights
from sparring.training.config import TrainConfig, python_objects, stored_config, with_given
from sparring.training.distributed import check_same_data, check_size, present_team
from sparring.training.optimizers import factor
from sparring.training.preparation import check_fits, prepared
from sparring.training.session import TrainingSession
from sparring.training.sinks import Sink, training_display
from sparring.training.team import Launch, SingleProcess
from sparring.training.trained_run import TrainedRun


@typed
@plain_settings()
def train(  # noqa: PLR0913 - a run, and by keyword what it is given
    config: TrainConfig,
    out: Path | str,
    *,
    data: Dataset | None = None,
    network: nn.Module | None = None,
    sinks: Sequence[Sink] = (),
    progress: bool = False,
    until: int | None = None,
) -> TrainedRun:
    """Train a network, and store everything about it in the new directory `out`.

    With `until`, stop after this many updates; `resume` continues the run. `data` are used instead
    of those that the settings name; pass the same to `resume` and to evaluations. `network` is used
    instead of `config.model`: a copy of it is trained, from its weights on. `sinks` receive the
    measurements, see `Sink`. `progress` shows them and the time left: a bar in a terminal or a
    notebook, else lines on stderr. Worker processes import the calling script, so call this behind
    `if __name__ == "__main__":`. Where `config.trainers` is above 1, that many processes of
    torch.distributed must call it; only rank 0 writes `out` and has sinks.
    Raises `DataError` or `ConfigError` before anything is written, `RunError` if `out` is not
    empty, `ConfigError` if a sink does not start, `NonFiniteLoss`, `CheckpointNotWritten`, and
    `Interrupted` after a request to stop; with several trainers also `TrainerLost`, and
    `FailedElsewhere` where another trainer raises.
    """
    if until is not None:
        at_least("until", until, 0)
    network = None if network is None else copied(network)
    if data is not None:
        if config.data.startswith(GIVEN) and config.data != given_name(data):
            raise ConfigError.expected(
                f"data must be those that the settings were made for, {config.data}",
                given_name(data),
                "Pass data= to the preset, too: ε and the network follow from it.",
            )
        config = replace(config, data=given_name(data))
    team = SingleProcess() if config.trainers == 1 else present_team()
    check_size(team, config.trainers, launcher(config.trainers) + " train …")
    if not team.launch.again:
        team.lead(lambda: RunDirectory.check_empty(from_home(out)))
    with team.together():
        dataset, known = new_data(
            config.data, data, config.conversion(), data_memory=config.data_memory
        )
        config = prepared(config, dataset, network)
    config = with_given(team.lead(lambda: config), python_objects(config))
    check_same_data(team, known)
    run = team.lead(lambda: new_run(config, out, team.launch, known))
    with _shown(sinks, progress and team.leads) as sinks:
        return TrainingSession(team, config, dataset, run, sinks, until, network).train()


@typed
@plain_settings()
def resume(  # noqa: PLR0913 - a run, and by keyword what it is given
    run: Path | str | None = None,
    *,
    updates: int | None = None,
    threads: int | None = None,
    data: Dataset | None = None,
    network: nn.Module | None = None,
    given: Mapping[str, object] | None = None,
    sinks: Sequence[Sink] = (),
    progress: bool = False,
    until: int | None = None,
    trust_code: bool = False,
) -> TrainedRun:
    """Continue a run that was stopped, from its last checkpoint, to the same final weights.

    Without `run`, the newest in `runs/`. A run without a checkpoint starts again. A run that is
    complete, or has seen `until` updates, is returned as it is; if its weights.safetensors is
    missing or damaged, it is written again from the checkpoint. With `updates`, the run is first
    extended to this number in all, see `longer`; a refused run stays as it was. `threads` CPU
    threads are used instead of those in the settings, until the next stop; the last bits of weights
    depend on their number. Pass the `data` and the `network` that were passed to `train`, and in
    `given` the Python objects in its settings, by name; `sinks` need not be the same. Code that the
    settings name, such as a factory, runs if you trained the run on this machine, or with
    `trust_code`.
    Raises what `train` raises, `CheckpointError` if the checkpoint cannot be used, and
    `ConfigError` for a run that cannot be extended.
    """
    if until is not None:
        at_least("until", until, 0)
    if threads is not None:
        at_least("threads", threads, 0)
    network = None if network is None else copied(network)
    team = present_team()
    directory, config = team.lead(lambda: _opened(run, trust_code=trust_code))
    config = with_given(config, given)
    resumed = team.lead(directory.resume.exists)
    check_size(team, config.trainers, resume_command(directory.path, config.trainers))
    before = config
    if updates is not None:
        config = team.lead(lambda: longer(before, updates, directory, directory.saved_updates))
        config = with_given(config, given)
    run_data = team.lead(lambda: RunData.of(directory))
    with team.together():
        dataset, known = run_data.load(data)
        check_fits(config, dataset, network, resumed=resumed)
    check_same_data(team, known)
    if not resumed and run_data.stored is None:
        team.lead(lambda: store_identity(directory, config.data, known))
    with _shown(sinks, progress and team.leads) as sinks:
        done = TrainingSession(
            team,
            config,
            dataset,
            directory,
            sinks,
            until,
            network,
            threads=threads,
            restored=lambda done: _extend(before, config, directory, done),
        ).train()
    if resumed:
        own, shape = done.network, dataset.image_shape
        team.lead(lambda: mend_weights(directory, own, done.version, shape, team.size))
    return done


@contextmanager
def _shown(sinks: Sequence[Sink], progress: bool) -> Iterator[Sequence[Sink]]:
    """The sinks, and with `progress` one that shows it."""
    if not progress:
        yield sinks
        return
    with training_display() as display:
        yield [*sinks, display]


def longer(config: TrainConfig, updates: int, run: RunDirectory, done: int) -> TrainConfig:
    """The settings of the run with this number of updates; a smaller one is refused.

    A run of N updates that is extended to M has, bit for bit, the weights of a run of M updates. So
    all that it did in its `done` updates must be what the longer run does at the same update:
    learning rates, ε and steps of attacks, and the tickets that are attacked ahead of training.
    Raises `ConfigError` where a run of that length would have been another from its beginning.
    """
    at_least("updates", updates, 1)
    if updates == config.updates:
        return config
    if updates < config.updates:
        raise ConfigError.expected(
            f"updates must be {config.updates:,} or more, the number that {run.path} has",
            f"{updates:,}",
            "A run is not shortened; stop it at any time (Ctrl-C; until= in Python).",
        )
    found = replace(config, updates=updates)
    if reason := difference(config, found, done):
        raise ConfigError(
            f"{run.path} cannot be extended to {updates:,} updates: {reason}. "
            f"{_instead(run, found)}"
        )
    return found


def _extend(before: TrainConfig, config: TrainConfig, run: RunDirectory, done: int) -> None:
    """Store a larger number of updates, once the run's checkpoint is read and no other has it."""
    if config.updates > before.updates:
        longer(before, config.updates, run, done)  # another process may have trained meanwhile
        run.extend(config.updates)


def difference(config: TrainConfig, longer: TrainConfig, done: int) -> str:
    """What the first `done` updates would have been otherwise in a longer run; empty if nothing.

    Cost: the schedules are evaluated at each update that was made.
    """
    if not done:
        return ""
    if config.updates - done < (ahead := _ahead(config)):
        return (
            f"its batches are attacked {ahead} updates ahead of training, and those after update "
            f"{config.updates:,} were not"
        )
    recipes = config.recipe(), longer.recipe()
    for number in range(min(done + ahead, config.updates)):
        here = [recipe.progress(number) for recipe in recipes]
        if factor(config.schedule, here[0]) != factor(config.schedule, here[1]):
            return _planned("the learning rate", f"schedule {type(config.schedule).__name__}")
        one, other = (recipe.plan(number).asked for recipe in recipes)
        if one != other:
            return _planned("the attack", "eps_schedule or early_steps")
    return ""


def _planned(what: str, setting: str) -> str:
    return f"{what} follows the share of the run that is done ({setting}), which would be another"


def _ahead(config: TrainConfig) -> int:
    """Updates between the attack on a ticket and its training, where that decides the weights."""
    source = config.source
    if isinstance(source, Asynchronous) and isinstance(source.policy, Newest):
        return 0  # timing decides, in a longer run too
    return source.bound


def _instead(run: RunDirectory, longer: TrainConfig) -> str:
    path = shlex.quote(str(run.path))
    return (
        "Start a new run with its weights: "
        f"{launcher(longer.trainers)} train --config {path} --init {path}/weights.safetensors"
    )


def new_run(
    config: TrainConfig, out: Path | str, launch: Launch, known: DataIdentity
) -> RunDirectory:
    """A new directory, or that of an earlier start of the same launch with these settings.

    Raises `RunError` for a folder that holds anything else, also an equal run of another launch.
    """
    there = RunDirectory(Path(out))
    # The code that it names is that of `config`, which the caller trusts.
    if (
        launch.again
        and there.launcher() == launch.by
        and _opened(out, trust_code=True)[1] == config
    ):
        return there
    run = RunDirectory.create(out)
    if launch.by:
        run.write_launcher(launch.by)
    store_identity(run, config.data, known)
    run.write_config(config)
    return run


def _opened(run: Path | str | None, *, trust_code: bool) -> tuple[RunDirectory, TrainConfig]:
    directory = RunDirectory.chosen(run)
    return directory, stored_config(directory, trust_code=trust_code)
