"""More updates for a run: whether its past would have been the same in a longer run.

A run of N updates that is extended to M has, bit for bit, the weights of a run of M updates. So
everything that it did must be what the longer run does at the same update: learning rates, ε and
steps of attacks, and the tickets that are attacked ahead of training.
"""

import shlex
from dataclasses import replace

from sparring.engine import Newest
from sparring.errors import ConfigError, launcher
from sparring.loader import Asynchronous
from sparring.records import RunDirectory
from sparring.records.checks import at_least
from sparring.records.files import exclusive_lock
from sparring.training.config import TrainConfig


def extended(run: RunDirectory, config: TrainConfig, updates: int) -> TrainConfig:
    """The settings with this number of updates, stored in config.json; a smaller one is refused.

    Raises `ConfigError` where a run of that length would have been another from its beginning, and
    `RunError` while another process trains the run.
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
    longer = replace(config, updates=updates)
    with exclusive_lock(run.path, "train a run"):
        done = run.saved_updates
        if reason := difference(config, longer, done):
            raise ConfigError(
                f"{run.path} cannot be extended to {updates:,} updates: {reason}. "
                f"{_instead(run, longer)}"
            )
        run.extend(updates)
    return longer


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
        if config.schedule(here[0]) != config.schedule(here[1]):
            return _planned("the learning rate", f"schedule {type(config.schedule).__name__}")
        if recipes[0].plan(number) != recipes[1].plan(number):
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
