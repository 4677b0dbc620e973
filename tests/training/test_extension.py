"""A run that is extended ends in the weights of one that was as long from its beginning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparring.data import dataset_from, load_dataset
from sparring.errors import CheckpointError, ConfigError, DataError, RunError
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
    presets,
    replay,
    resume,
    train,
)
from training.plain_net import Plain
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


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", ["checkpoint", "network", "data"])
def test_a_refused_extension_leaves_the_run_as_it_was(damage: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"network": Plain(), "data": load_dataset("mnist")}
    run = train(small(updates=2), tmp_path / "run", **given).run
    if damage == "checkpoint":
        run.resume.write_bytes(run.resume.read_bytes()[:1000])
    elif damage == "network":
        given["network"] = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    else:
        del given["data"]
    before = _files(run.path)
    with pytest.raises((CheckpointError, DataError, ConfigError)) as raised:
        resume(run.path, updates=4, **given)
    assert _files(run.path) == before
    if damage == "network":
        assert "is not the network of" in str(raised.value)
        assert "Start the run again" not in str(raised.value)


def test_a_log_that_is_gone_is_noticed(tmp_path: Path) -> None:
    run = train(small(), tmp_path / "run", until=2).run
    run.metrics.unlink()
    watching = Watching()
    resume(run.path, sinks=[watching])
    assert any("measurements of 0 of 2 updates" in text for text in watching.notices)


def _items(count: int) -> list[tuple[torch.Tensor, int]]:
    return [(torch.full((1, 28, 28), 10 * n, dtype=torch.uint8), n % 2) for n in range(count)]


def test_a_batch_larger_than_the_training_set_is_noticed(tmp_path: Path) -> None:
    few = dataset_from(train=_items(6), test=_items(4), validation=_items(4), name="mine")
    watching = Watching()
    train(small(batch_size=8), tmp_path / "run", data=few, network=Plain(2), sinks=[watching])
    assert any("a batch has 8 images and the training set 6" in text for text in watching.notices)


def test_settings_for_other_data_are_refused(tmp_path: Path) -> None:
    few = dataset_from(train=_items(6), test=_items(4), validation=_items(4), name="mine")
    config = presets.paper(data=few)
    with pytest.raises(ConfigError, match="must be those that the settings were made for"):
        train(config, tmp_path / "run", data=load_dataset("mnist"))


def test_a_folder_in_use_is_refused_before_anything_is_tried(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    failing = nn.Module()
    with pytest.raises(RunError, match="needs an empty folder"):
        train(small(), tmp_path / "run", network=failing)
