"""A whole run: from settings to a run directory with a trained network."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from sparring.data import Dataset
from sparring.data.run_data import RunData, given_name, new_data, store_identity
from sparring.errors import launcher, resume_command
from sparring.models import copied, plain_settings
from sparring.records import RunDirectory
from sparring.records.checks import at_least
from sparring.records.run import DataIdentity
from sparring.records.typed import typed
from sparring.training.config import TrainConfig, stored_config
from sparring.training.distributed import check_same_data, check_size, present_team
from sparring.training.extension import extended
from sparring.training.preparation import check_fits, prepared
from sparring.training.session import TrainedRun, TrainingSession
from sparring.training.sinks import Sink
from sparring.training.team import Launch, SingleProcess


@typed
@plain_settings()
def train(  # noqa: PLR0913 - a run, and by keyword what it is given
    config: TrainConfig,
    out: Path | str,
    *,
    data: Dataset | None = None,
    network: nn.Module | None = None,
    sinks: Sequence[Sink] = (),
    until: int | None = None,
) -> TrainedRun:
    """Train a network, and store everything about it in the new directory `out`.

    With `until`, stop after this many updates; `resume` continues the run. `data` are used instead
    of those that the settings name; pass the same to `resume` and to evaluations. `network` is used
    instead of `config.model`: a copy of it is trained, from its weights on. `sinks` receive the
    measurements, see `Sink`. Worker processes import the calling script, so call this behind
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
        config = replace(config, data=given_name(data))
    team = SingleProcess() if config.trainers == 1 else present_team()
    check_size(team, config.trainers, launcher(config.trainers) + " train …")
    with team.together():
        dataset, known = new_data(
            config.data, data, config.conversion(), data_memory=config.data_memory
        )
        config = prepared(config, dataset, network)
    config = team.lead(lambda: config)
    check_same_data(team, known)
    run = team.lead(lambda: new_run(config, out, team.launch, known))
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
    sinks: Sequence[Sink] = (),
    until: int | None = None,
    trust_code: bool = False,
) -> TrainedRun:
    """Continue a run that was stopped, from its last checkpoint, to the same final weights.

    Without `run`, the newest in `runs/`. A run without a checkpoint starts again. A run that is
    complete, or has seen `until` updates, is returned as it is. With `updates`, the run is first
    extended to this number in all, see `extended`. `threads` CPU threads are used instead of those
    in the settings, until the next stop; the last bits of weights depend on their number. Pass the
    `data` and the `network` that were passed to `train`; `sinks` need not be the same. Code that
    the settings name, such as a factory, runs if you trained the run on this machine, or with
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
    resumed = team.lead(directory.resume.exists)
    check_size(team, config.trainers, resume_command(directory.path, config.trainers))
    if updates is not None:
        config = team.lead(lambda: extended(directory, config, updates))
    run_data = team.lead(lambda: RunData.of(directory))
    with team.together():
        dataset, known = run_data.load(data)
        check_fits(config, dataset, network, resumed=resumed)
    check_same_data(team, known)
    if not resumed and run_data.stored is None:
        team.lead(lambda: store_identity(directory, config.data, known))
    return TrainingSession(
        team, config, dataset, directory, sinks, until, network, threads=threads
    ).train()


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
