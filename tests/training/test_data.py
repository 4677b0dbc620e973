"""Runs on data of one's own: held in memory or streamed, by whichever source, the same weights."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from data.pictures import picture, write_pictures
from sparring.data import Crop, Dataset, Flip, dataset_from, load_dataset
from sparring.data.run_data import dataset_of
from sparring.engine import FixedLag
from sparring.errors import ConfigError, DataError
from sparring.evaluation import evaluate_run, transfer_runs
from sparring.records import RunDirectory, from_json, read_json, to_json
from sparring.training import Asynchronous, Fresh, Stale, TrainConfig, replay, resume, train
from training.small_runs import PLAIN, Watching, assert_same_bits, small, weights_of

THREE = replace(PLAIN, arguments=("classes=3",))
NAMES = ("ankle boot", "bag", "çanta")
AUGMENTED = (Crop(padding=2), Flip())


@cache
def weights(config: TrainConfig, folder: Path) -> dict[str, torch.Tensor]:
    return weights_of(train(config, folder / f"run-{abs(hash(config))}").network)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    counts = {"train": 12, "test": 4}
    return write_pictures(root / "shoes", counts, classes=NAMES, rows=28, columns=28, channels=1)


@pytest.fixture
def config(folder: Path) -> TrainConfig:
    return small(
        model=THREE, data=str(folder), augmentation=AUGMENTED, updates=6, checkpoint_every=3
    )


STREAMED = 1000
"""Bytes: less than two images, so that everything is streamed."""


@pytest.mark.parametrize("augmentation", [(), AUGMENTED])
@pytest.mark.parametrize("source", [Fresh(), Stale(staleness=2, fresh_steps=1)], ids=str)
def test_streamed_training_gives_the_bits_of_training_in_memory(
    source: Fresh | Stale,
    augmentation: tuple[Crop | Flip, ...],
    config: TrainConfig,
    tmp_path: Path,
) -> None:
    held = replace(config, source=source, augmentation=augmentation)
    streamed = replace(held, data_memory=STREAMED)
    assert_same_bits(weights(held, tmp_path), weights(streamed, tmp_path))


def test_augmentation_changes_what_is_trained(config: TrainConfig, tmp_path: Path) -> None:
    plain = weights(replace(config, augmentation=()), tmp_path)
    moved = weights(config, tmp_path)
    assert any(not torch.equal(plain[name], moved[name]) for name in plain)


@pytest.mark.process
@pytest.mark.usefixtures("forked_workers")
def test_workers_read_a_streamed_set_themselves_to_the_same_bits(
    config: TrainConfig, tmp_path: Path
) -> None:
    policy = FixedLag(lag=1, split=2)
    alone = Asynchronous(workers=0, policy=policy, fresh_steps=1, patience=600)
    held = train(replace(config, source=alone), tmp_path / "held")
    workers = replace(alone, workers=1, helps=False)
    streamed = train(replace(config, source=workers, data_memory=STREAMED), tmp_path / "streamed")
    assert_same_bits(weights_of(held.network), weights_of(streamed.network))
    for run in (held.run, streamed.run):
        assert replay(run.path).is_equal


def test_a_stopped_run_goes_on_to_the_same_weights(config: TrainConfig, tmp_path: Path) -> None:
    streamed = replace(config, source=Stale(staleness=2), data_memory=STREAMED)
    train(streamed, tmp_path / "run", until=4)
    done = resume(tmp_path / "run")
    assert_same_bits(weights_of(done.network), weights(streamed, tmp_path))
    assert replay(tmp_path / "run").is_equal


def test_a_run_can_name_its_classes_without_the_data(config: TrainConfig, tmp_path: Path) -> None:
    run = train(replace(config, updates=1), tmp_path / "run").run
    assert run.class_names() == NAMES
    assert read_json(run.classes) == list(NAMES)
    assert RunDirectory(tmp_path).class_names() == ()


def test_a_streamed_run_is_judged_as_one_in_memory(config: TrainConfig, tmp_path: Path) -> None:
    for name, memory in (("held", 1 << 30), ("streamed", STREAMED)):
        train(replace(config, updates=2, data_memory=memory), tmp_path / name)
    found = [
        evaluate_run(RunDirectory(tmp_path / name), checks=False) for name in ("held", "streamed")
    ]
    assert [verdict.num_images for verdict in found] == [12, 12]
    assert found[0].robust == found[1].robust


def test_classes_that_changed_since_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    counts = {"train": 2, "test": 1}
    root = write_pictures(tmp_path / "set", counts, rows=28, columns=28, channels=1)
    run = train(replace(config, data=str(root), updates=2), tmp_path / "run", until=1).run
    for part in counts:
        (root / part / "cat").rename(root / part / "tiger")
    for going_on in (resume, replay, lambda path: evaluate_run(RunDirectory(path))):
        with pytest.raises(
            DataError, match=r"are 3 \(dog, tiger, ähre\);.* trained on 3 \(cat, dog, ähre"
        ):
            going_on(run.path)


@cache
def mine() -> Dataset:
    whole = load_dataset("mnist")
    items = [(whole.test.levels(torch.tensor([n]))[0], n % 3) for n in range(60)]
    return dataset_from(train=items, test=items[:9], name="mine", class_names=NAMES)


def test_data_handed_over_is_trained_on_gone_on_with_replayed_and_judged(tmp_path: Path) -> None:
    config = small(model=THREE, updates=4, checkpoint_every=2)
    train(config, tmp_path / "run", data=mine(), until=2)
    run = RunDirectory(tmp_path / "run")
    assert (run.section("data", str), run.class_names()) == ("given:mine", NAMES)
    done = resume(run.path, data=mine())
    whole = train(config, tmp_path / "whole", data=mine())
    assert_same_bits(weights_of(done.network), weights_of(whole.network))
    assert replay(run.path, data=mine()).is_equal
    assert evaluate_run(run, data=mine(), checks=False).num_images == 9
    matrix = transfer_runs(
        [run, whole.run], tmp_path / "matrix", data=mine(), steps=(1,), num_images=5
    )
    assert matrix.num_images == 5


GOING_ON: list[Callable[[Path], object]] = [
    resume,
    replay,
    lambda run: evaluate_run(RunDirectory(run)),
    lambda run: train(small(model=THREE, data="given:mine"), run / "again"),
]


@pytest.mark.parametrize("going_on", GOING_ON)
def test_without_the_data_it_says_so(going_on: Callable[[Path], object], tmp_path: Path) -> None:
    train(small(model=THREE, updates=1), tmp_path / "run", data=mine())
    told = r"'mine' came from Python.*data=….* On the command .*sparring evaluate RUN --data PATH"
    with pytest.raises(DataError, match=told):
        going_on(tmp_path / "run")


def test_other_data_than_the_runs_are_refused(tmp_path: Path) -> None:
    train(small(model=THREE, updates=1), tmp_path / "run", data=mine())
    other = replace(mine(), name="other")
    with pytest.raises(
        ConfigError, match=r"what the run was trained on, given:mine; got given:other"
    ):
        resume(tmp_path / "run", data=other)


def test_a_damaged_picture_ends_a_streamed_run_with_its_name(
    config: TrainConfig, folder: Path, tmp_path: Path
) -> None:
    root = write_pictures(tmp_path / "set", {"": 6}, rows=28, columns=28, channels=1)
    for path in root.glob("*/*"):
        path.write_bytes(path.read_bytes()[:-60])
    torn = replace(config, data=str(root), data_memory=0)
    with pytest.raises(DataError, match=r"\.png is no whole picture"):
        train(torn, tmp_path / "run", sinks=[Watching()])


def test_a_run_converts_its_pictures_again_in_the_same_way(
    config: TrainConfig, folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    shutil.copytree(folder, root)
    picture(3, rows=28, columns=28).save(root / "train" / "bag" / "colour.png")
    mixed = replace(config, data=str(root), updates=2)
    with pytest.raises(DataError, match=r"--channels rgb .* makes all of them colour pictures"):
        train(mixed, tmp_path / "mixed")
    train(replace(mixed, channels="grey"), tmp_path / "run", until=1)
    run = resume(tmp_path / "run").run
    found, plain = dataset_of(run), load_dataset(root, channels="grey")
    assert found.image_shape == (1, 28, 28)
    assert torch.equal(found.train.levels(torch.arange(9)), plain.train.levels(torch.arange(9)))
    assert run.section("channels", str) == "grey"


def test_settings_of_data_are_stored_and_read_in_words(tmp_path: Path) -> None:
    config = small(augmentation=AUGMENTED, data_memory=64 << 20, image_size=32)
    assert from_json(TrainConfig, to_json(config)) == config
    stored = to_json(config)
    assert stored["augmentation"] == [
        {"kind": "Crop", "padding": 2},
        {"kind": "Flip", "share": 0.5},
    ]
    for text, count in (("64MiB", 64 << 20), ("1.5 kB", 1500), ("7", 7), (7, 7)):
        assert from_json(TrainConfig, stored | {"data_memory": text}).data_memory == count
    for wrong in ("lots", "5 XB", 1.5, True, -1):
        with pytest.raises(ConfigError, match=r"data_memory must be (a number of bytes|0 or more)"):
            from_json(TrainConfig, stored | {"data_memory": wrong})
