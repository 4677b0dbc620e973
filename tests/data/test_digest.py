"""The digest of a data set: blind to what does not matter, and to nothing else."""

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from data.pictures import picture, write_pictures
from sparring.data import Dataset, ImageSet, StreamedSet, dataset_from, load_dataset, open_dataset
from sparring.data import run_data as digest_module
from sparring.data.run_data import identity
from sparring.data.streamed import within

CHANGES = ("label", "pixel", "order", "fewer", "shape", "classes")
PARTS = ("train", "validation", "test")


class Levels:
    """Pixels that are read, as a file's would be."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, rows, columns = self.pixels.shape[1:]
        return channels, rows, columns

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, places: Tensor) -> Tensor:
        return self.pixels[places]


def random_set(seed: int, count: int = 12) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 255, (count, 1, 3, 4), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels=pixels, labels=torch.arange(count) % 3, num_classes=3)


def random_data(seed: int) -> Dataset:
    sets: dict[str, Any] = {part: random_set(seed + place) for place, part in enumerate(PARTS)}
    return Dataset(name="random", **sets)


def changed(data: Dataset, part: str, what: str, place: int) -> Dataset:
    """One thing is other in one part; a shape or number of classes in all, as it must be."""
    if what in ("shape", "classes"):
        sets = {
            name: ImageSet(
                pixels=own.pixels.transpose(2, 3) if what == "shape" else own.pixels,
                labels=own.labels,
                num_classes=4 if what == "classes" else 3,
            )
            for name in PARTS
            if (own := getattr(data, name))
        }
        return replace(data, class_names=(), **sets)
    images = getattr(data, part)
    pixels, labels = images.pixels.clone(), images.labels.clone()
    if what == "label":
        labels[place] = (labels[place] + 1) % 3
    elif what == "pixel":
        pixels[place, 0, 1, 2] += 1
    elif what == "order":
        pixels, labels = pixels.roll(1, 0), labels.roll(1, 0)
    else:
        pixels, labels = pixels[1:], labels[1:]
    return replace(data, **{part: ImageSet(pixels=pixels, labels=labels, num_classes=3)})


@given(st.integers(0, 99), st.sampled_from(PARTS), st.sampled_from(CHANGES), st.integers(0, 11))
def test_every_change_is_seen_and_named(seed: int, part: str, what: str, place: int) -> None:
    data = random_data(seed)
    before, after = identity(data), identity(changed(data, part, what, place))
    assert before.digest == identity(random_data(seed)).digest
    assert before.digest != after.digest
    said = "; ".join(before.differences(after))
    words = {"label": f"labels of the {part}", "pixel": f"pixels of the {part}", "order": part}
    words |= {"fewer": f"number of {part} images", "shape": "shape", "classes": "number of classes"}
    assert words[what] in said


@given(st.integers(0, 99), st.sampled_from([0, 1 << 30]), st.booleans())
def test_it_does_not_depend_on_where_images_are_held(seed: int, whole: int, decoded: bool) -> None:
    data = random_data(seed)
    streamed = {
        part: StreamedSet(
            pixels=Levels(own.pixels.flip(0)),
            places=torch.arange(len(own)).flip(0),
            labels=own.labels,
            num_classes=3,
        )
        for part in PARTS
        if (own := getattr(data, part))
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest_module, "WHOLE", whole)
        patch.setattr(digest_module, "SAMPLE", 5)
        one = identity(data, decoded=decoded)
        assert one == identity(replace(data, **streamed), decoded=decoded)
        assert one == identity(within(1 << 20, replace(data, **streamed)), decoded=decoded)


def rewritten(root: Path, copy: Path, seed: int) -> Path:
    """The same files written in another order, at another time, elsewhere."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    random.Random(seed).shuffle(files)
    for path in files:
        there = copy / path.relative_to(root)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(path.read_bytes())
        os.utime(there, (seed, seed))
    return copy


def npz(path: Path, **changes: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "x_train": rng.integers(0, 256, (48, 4, 4), np.uint8),
        "y_train": np.arange(48) % 3,
        "x_test": rng.integers(0, 256, (9, 4, 4), np.uint8),
        "y_test": np.arange(9) % 3,
        **changes,
    }
    np.savez(path, **arrays)
    return path


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**9))
def test_files_may_move_and_be_rewritten(tmp_path: Path, seed: int) -> None:
    here = tmp_path / str(seed)
    shutil.rmtree(here, ignore_errors=True)
    pictures = write_pictures(here / "pictures", {"train": 4, "test": 2})
    copy = rewritten(pictures, here / "elsewhere" / "others", seed)
    assert identity(open_dataset(str(pictures))) == identity(open_dataset(str(copy)))
    one, other = npz(here / "a.npz"), here / "elsewhere" / "b.npz"
    shutil.copy(one, other)
    assert identity(load_dataset(str(one))) == identity(load_dataset(str(other)))
    arrays = dict(np.load(one))
    np.savez_compressed(here / "c.npz", **dict(reversed(arrays.items())))
    assert identity(load_dataset(str(here / "c.npz"))) == identity(load_dataset(str(one)))
    streamed = load_dataset(str(one), data_memory=0)
    assert streamed.is_streamed
    assert identity(streamed) == identity(load_dataset(str(one)))


@pytest.mark.parametrize("whole", [0, 1 << 30])
def test_changes_of_picture_files_are_seen(tmp_path: Path, monkeypatch, whole: int) -> None:
    monkeypatch.setattr(digest_module, "WHOLE_FILES", whole)
    root = write_pictures(tmp_path / "data", {"train": 4, "test": 2})
    before = identity(open_dataset(str(root)))
    a, b = root / "train" / "cat" / "000.png", root / "train" / "dog" / "004.png"
    kept = a.read_bytes(), b.read_bytes()
    b.write_bytes(kept[0])
    assert "pixels of the" in "; ".join(before.differences(identity(open_dataset(str(root)))))
    a.write_bytes(kept[1])  # two pictures that were swapped: the labels are
    assert identity(open_dataset(str(root))).digest != before.digest
    a.write_bytes(kept[0])
    b.write_bytes(kept[1])
    assert identity(open_dataset(str(root))) == before
    last = root / "test" / "cat"
    picture(999).save(next(iter(sorted(last.iterdir()))))
    after = identity(open_dataset(str(root)))
    assert list(before.differences(after)) == ["the pixels of the test images"]
    (last / "zzz.png").write_bytes(kept[0])
    more = identity(open_dataset(str(root)))
    assert "the number of test images (6 then, 7 now)" in list(before.differences(more))


def test_data_from_python_are_the_same_held_and_streamed() -> None:
    class Items:
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
            return torch.full((1, 3, 3), index + 2, dtype=torch.uint8), index % 3

    held = dataset_from(train=Items(), test=Items())
    streamed = dataset_from(train=Items(), test=Items(), data_memory=0)
    assert streamed.is_streamed
    assert identity(held, decoded=True) == identity(streamed, decoded=True)


def test_a_picture_that_is_gone_is_told(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "data", {"train": 4, "test": 2})
    data = open_dataset(str(root))
    (root / "train" / "cat" / "000.png").unlink()
    with pytest.raises(Exception, match=r"000\.png cannot be read"):
        identity(data)
