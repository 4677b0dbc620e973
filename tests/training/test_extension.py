"""A run that is extended ends in the weights of one that was as long from its beginning."""

from pathlib import Path
from typing import Any

import pytest

from sparring.errors import ConfigError
from sparring.loader import Asynchronous
from sparring.models import trained_network
from sparring.records import RunDirectory, read_json
from sparring.training import (
    EarlySteps,
    Stale,
    Steps,
    TrainConfig,
    Triangular,
    WarmUp,
    replay,
    resume,
    train,
)
from training.small_runs import UPDATES, Watching, assert_same_bits, small, weights_of

SHORT = 4


@pytest.mark.parametrize(
    ("changes", "until"),
    [
        ({"average": 0.9, "snapshot_every": 2}, SHORT),
        ({"source": Stale(staleness=1)}, 3),
        ({"schedule": Steps(at=(0.9,))}, 3),
        ({"source": Asynchronous(workers=0)}, 3),
    ],
    ids=["finished", "stale", "steps", "async"],
)
def test_extended_is_as_long_from_the_beginning(
    changes: dict[str, Any], until: int, tmp_path: Path
) -> None:
    whole = train(small(**changes), tmp_path / "whole")
    train(small(**changes, updates=SHORT), tmp_path / "run", until=until)
    longer = resume(tmp_path / "run", updates=UPDATES)
    assert longer.version == UPDATES
    assert_same_bits(weights_of(longer.network), weights_of(whole.network))
    assert read_json(longer.run.config) == read_json(whole.run.config)
    assert replay(longer.run.path).is_equal
    for version in longer.run.snapshots():  # those from before are still the run's
        trained_network(longer.run, version=version)


def test_a_run_can_be_extended_again_and_stopped_between(tmp_path: Path) -> None:
    whole = train(small(), tmp_path / "whole")
    train(small(updates=2), tmp_path / "run")
    resume(tmp_path / "run", updates=6, until=3)
    trained_network(RunDirectory(tmp_path / "run"))
    longer = resume(tmp_path / "run", updates=UPDATES)
    assert_same_bits(weights_of(longer.network), weights_of(whole.network))
    assert resume(tmp_path / "run", updates=UPDATES).version == UPDATES


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (small(schedule=Triangular(), updates=2), "the learning rate follows the share"),
        (small(eps_schedule=WarmUp(share=0.5), updates=2), "the attack follows the share"),
        (small(early_steps=(EarlySteps(until=0.5, steps=1),), updates=2), "the attack follows"),
        (small(source=Stale(staleness=1), updates=2), "attacked 1 updates ahead"),
        (small(updates=9), "must be 9 or more"),
    ],
)
def test_what_would_have_been_another_run_is_refused(
    config: TrainConfig, reason: str, tmp_path: Path
) -> None:
    run = train(config, tmp_path / "run", until=2).run
    before = run.config.read_bytes()
    with pytest.raises(ConfigError, match=reason) as refused:
        resume(run.path, updates=UPDATES)
    assert "--init" in str(refused.value) or "not shortened" in str(refused.value)
    assert run.config.read_bytes() == before


def test_other_threads_are_used_and_said_to_change_bits(tmp_path: Path) -> None:
    train(small(), tmp_path / "run", until=2)
    watching = Watching()
    resume(tmp_path / "run", threads=2, sinks=[watching])
    assert watching.environments[0].threads == 2
    assert any("threads was 1 before and is 2 here" in notice for notice in watching.notices)
    assert read_json(RunDirectory(tmp_path / "run").config)["threads"] == 1  # pyright: ignore
