"""A whole run: from a configuration to a run directory with a trained network."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from sparring.data import Dataset
from sparring.data.of_run import RunData, given_name, new_data, store_identity
from sparring.errors import launcher, resume_command
from sparring.models import copied, plain_settings
from sparring.records import RunDirectory
from sparring.records.data_identity import DataIdentity
from sparring.records.ranges import at_least
from sparring.records.typed import typed
from sparring.training.agreement import check_same_data
from sparring.training.config import TrainConfig, stored_config
from sparring.training.rehearsal import rehearse
from sparring.training.several import check_size, present_team
from sparring.training.sitting import Sitting, TrainedRun
from sparring.training.start import check_fits, fitted
from sparring.training.team import Launch, Solo
from sparring.training.watch import Observer, Silent


@typed
@plain_settings()
def train(  # noqa: PLR0913 - a run, and by keyword what it is given
    config: TrainConfig,
    out: Path | str,
    *,
    data: Dataset | None = None,
    network: nn.Module | None = None,
    observer: Observer | None = None,
    until: int | None = None,
) -> TrainedRun:
    """Train a network and leave everything about it in the new directory `out`.

    With `until`, only so many of its updates: `resume` goes on from there. With `data`, on these
    instead of what the settings name; whoever goes on with the run, or judges it, must have them.
    A `network` takes the place of `config.model`: a copy of it is trained, from its weights on.
    Worker processes import the script that asks for them, so it does that behind
    `if __name__ == "__main__":`. Where `config.trainers` is above 1, so many processes of
    torch.distributed must call it, and the one of rank 0 alone writes `out` and talks to the
    observer.
    Raises `DataError` or `ConfigError` before anything is written, `RunError` if `out` is
    occupied, `NonFiniteLoss`, `CheckpointNotWritten`, and `Interrupted` after a request to stop;
    of several trainers also `TrainerLost`, and `FailedElsewhere` where another one raises.
    """
    if until is not None:
        at_least("until", until, 0)
    network = None if network is None else copied(network)
    if data is not None:
        config = replace(config, data=given_name(data))
    team = Solo() if config.trainers == 1 else present_team()
    check_size(team, config.trainers, launcher(config.trainers) + " train …")
    with team.together():
        dataset, known = new_data(
            config.data, data, image_size=config.image_size, data_memory=config.data_memory
        )
        config = fitted(config, dataset, network)
        check_fits(config, dataset, network)
        rehearse(config, dataset, network)
    config = team.lead(lambda: config)
    check_same_data(team, known)
    run = team.lead(lambda: new_run(config, out, team.launch, known))
    return Sitting(team, config, dataset, run, observer or Silent(), until, network).work()


@typed
@plain_settings()
def resume(  # noqa: PLR0913 - a run, and by keyword what it is given
    run: Path | str,
    *,
    data: Dataset | None = None,
    network: nn.Module | None = None,
    observer: Observer | None = None,
    until: int | None = None,
    trust_code: bool = False,
) -> TrainedRun:
    """Go on with a run that was stopped, from its last checkpoint, to the same final weights.

    A run that never came to a checkpoint starts over; one that is complete, or has seen `until`
    updates, is returned as it is. `data` and `network` are those that the run was given, if it
    was. Code that the run names, a factory, runs if you trained the run on this machine, or with
    `trust_code`.
    Raises what `train` raises, and `CheckpointError` if the checkpoint cannot be used.
    """
    network = None if network is None else copied(network)
    team = present_team()
    directory, config = team.lead(lambda: _opened(run, trust_code=trust_code))
    resumed = team.lead(directory.resume.exists)
    check_size(team, config.trainers, resume_command(run, config.trainers))
    run_data = team.lead(lambda: RunData.of(directory))
    with team.together():
        dataset, known = run_data.load(data)
        check_fits(config, dataset, network, resumed=resumed)
    check_same_data(team, known)
    if not resumed and run_data.stored is None:
        team.lead(lambda: store_identity(directory, config.data, known))
    return Sitting(team, config, dataset, directory, observer or Silent(), until, network).work()


def new_run(
    config: TrainConfig, out: Path | str, launch: Launch, known: DataIdentity
) -> RunDirectory:
    """A new directory, or what an earlier start of the same launch began there with these settings.

    Raises `RunError` for a folder that holds anything else, an equal run of another launch too.
    """
    there = RunDirectory(Path(out))
    # Its code is code of `config`, which was asked for.
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


def _opened(run: Path | str, *, trust_code: bool) -> tuple[RunDirectory, TrainConfig]:
    directory = RunDirectory.open(run)
    return directory, stored_config(directory, trust_code=trust_code)
