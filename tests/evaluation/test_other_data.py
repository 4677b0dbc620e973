"""A run judged on other data: which images count, and what their labels mean."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from data.pictures import CLASSES, write_pictures
from sparring.attacks import Linf
from sparring.data import load_dataset
from sparring.errors import DataError
from sparring.evaluation import evaluate_network, evaluate_run
from sparring.models import SmallNetwork
from sparring.records import RunDirectory
from sparring.training import train
from training.small_runs import small

SETTINGS: dict[str, Any] = {"threads": 1, "checks": False}


def trained_on(folder: Path, out: Path) -> RunDirectory:
    config = small(data=str(folder), model=SmallNetwork(width=2), updates=1, batch_size=6)
    return train(config, out).run


def numbers(path: Path, count: int, classes: int) -> Path:
    """Random colour pictures with numbers as labels."""
    levels = np.random.default_rng(5).integers(0, 256, (count, 6, 5, 3), np.uint8)
    labels = np.arange(count) % classes
    np.savez(path, x_train=levels, y_train=labels, x_test=levels[::-1], y_test=labels[::-1])
    return path


def test_data_without_a_test_part_are_used_whole_unless_they_are_the_run_s_own(
    tmp_path: Path,
) -> None:
    own = write_pictures(tmp_path / "own", {"": 12})
    run = trained_on(own, tmp_path / "run")
    others = write_pictures(tmp_path / "others", {"": 5}, rows=6)
    found = evaluate_run(run, other_data=others, **SETTINGS)
    assert found.num_images == 15
    said = " ".join(found.caveats)
    assert f"on all images of {others}, not on the run's own" in said
    assert "others has no test part, so all its images are used" in said
    again = evaluate_run(run, other_data=own, **SETTINGS)
    assert again.num_images == len(load_dataset(str(own)).test) == 6
    divided = write_pictures(tmp_path / "divided", {"train": 3, "test": 4})
    found = evaluate_run(run, other_data=divided, **SETTINGS)
    assert found.num_images == 12
    assert "no test part" not in " ".join(found.caveats)


def test_numbers_are_taken_for_the_names_in_their_order_and_said_to_be(tmp_path: Path) -> None:
    run = trained_on(write_pictures(tmp_path / "own", {"": 12}), tmp_path / "run")
    found = evaluate_run(run, other_data=numbers(tmp_path / "n.npz", 9, 3), **SETTINGS)
    first, second, _ = CLASSES
    assert f"label 0 is taken for {first}, label 1 for {second}" in " ".join(found.caveats)


def test_numbers_that_name_folders_in_another_order_are_refused(tmp_path: Path) -> None:
    names = tuple(map(str, range(11)))
    folders = write_pictures(tmp_path / "own", {"": 6}, classes=names)
    run = trained_on(folders, tmp_path / "run")
    assert run.class_names() == tuple(sorted(names)) != names
    with pytest.raises(DataError, match=r"in the order 0, 1, 10, 2, .*class folders"):
        evaluate_run(run, other_data=numbers(tmp_path / "n.npz", 33, 11), **SETTINGS)


class Moving(nn.Sequential):
    """Knows where it was sent."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, 10))
        self.sent: list[str] = []

    def to(self, *args: Any, **settings: Any) -> Any:
        self.sent.append(str(args[0]))
        return super().to(*args, **settings)


def test_a_network_is_moved_back_after_its_evaluation() -> None:
    network, mnist = Moving(), load_dataset("mnist")
    few = replace(mnist, test=mnist.test.subset(0, 20))  # pyright: ignore[reportAttributeAccessIssue]
    evaluate_network(network, few, Linf(0.1), device="cpu", **SETTINGS)
    assert network.sent == ["cpu", "cpu"]
