"""Data sets handed over in Python."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.idx_files import pixels_of
from data.pictures import picture
from sparring.data import dataset_from
from sparring.data.labels import whole_label
from sparring.data.torch_dataset import as_items
from sparring.errors import ConfigError, DataError

LEVELS = torch.randint(
    0, 256, (24, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@dataclass(frozen=True)
class Pairs(torch.utils.data.Dataset):
    """Images of LEVELS, made into whatever the test wants."""

    make: Any = torch.clone
    count: int = 24
    label: Any = int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> object:
        return self.make(LEVELS[index]), self.label(index % 3)


def as_picture(levels: torch.Tensor) -> Image.Image:
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


MAKERS = {
    "bytes": torch.clone,
    "floats": lambda levels: levels / 255,
    "doubles": lambda levels: levels.double() / 255,
    "pictures": as_picture,
    "channels last": lambda levels: levels.permute(1, 2, 0),
    "arrays": lambda levels: levels.numpy(),
    "float arrays": lambda levels: levels.numpy() / np.float32(255),
    "arrays, channels last": lambda levels: levels.permute(1, 2, 0).numpy(),
    "big-endian arrays": lambda levels: (levels.numpy() / 255).astype(">f8"),
    "parameters": lambda levels: torch.nn.Parameter(levels / 255),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("data_memory", [0, 1 << 20])
def test_every_kind_of_item_gives_the_same_images(kind, data_memory):
    items = Pairs(MAKERS[kind])
    data = dataset_from(train=items, test=replace(items, count=6), data_memory=data_memory)
    assert data.is_streamed == (data_memory == 0)
    assert (data.image_shape, data.num_classes, data.name) == ((3, 6, 5), 3, "data")
    assert torch.equal(pixels_of(data.test), LEVELS[:6])
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (len(data.train), len(data.validation)) == (21, 3)
    seen = torch.cat([pixels_of(data.train), pixels_of(data.validation)])
    assert sorted(map(bytes, seen.flatten(1).numpy())) == sorted(
        map(bytes, LEVELS.flatten(1).numpy())
    )
    for part in (data.train, data.validation):
        for image, label in zip(pixels_of(part), part.labels, strict=True):
            (place,) = [n for n in range(24) if torch.equal(LEVELS[n], image)]
            assert place % 3 == label


def test_grey_images_need_no_channel():
    items = Pairs(lambda levels: levels[0])
    data = dataset_from(train=items, test=items, validation=items, name="mine")
    assert (data.image_shape, len(data.train), data.name) == ((1, 6, 5), 24, "mine")


def test_classes_without_images_may_be_named_but_are_said():
    items = Pairs()
    with pytest.warns(UserWarning, match=r"images to train on.*without any: 3, 4, 5, 6\."):
        data = dataset_from(train=items, test=items, num_classes=7)
    assert data.class_names == tuple("0123456")
    named = dataset_from(train=items, test=items, class_names=("a", "b", "c"))
    assert (named.num_classes, named.class_names) == (3, ("a", "b", "c"))


def test_pictures_may_be_resized():
    items = Pairs(as_picture)
    assert dataset_from(train=items, test=items, image_size=4).image_shape == (3, 4, 4)


def different(levels: torch.Tensor) -> torch.Tensor:
    return levels[:, : 5 if torch.equal(levels, LEVELS[4]) else 6]


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        (Pairs(count=0), r"There is no image in train"),
        (
            Pairs(lambda levels: levels.tolist()),
            r"PIL images, tensors or NumPy arrays; got a list \(item 0 of train\)",
        ),
        (Pairs(lambda levels: levels[:2]), r"1 or 3 channels C; got shape \(2, 6, 5\) \(item 0"),
        (Pairs(lambda levels: levels.int()), r"unsigned bytes.*got int32 \(item 0 of train"),
        (Pairs(lambda levels: levels * 1.0), r"must lie in \[0, 1\].*\(item 0 of train"),
        (Pairs(different), r"item 4 of train has shape \(3, 5, 5\), the first one \(3, 6, 5\)"),
        (Pairs(label=str), r"whole numbers; got a str \(item 0"),
        (Pairs(label=lambda label: label - 1), r"0 to 1; got -1 for image 0 \(train"),
        ([LEVELS[0]], r"pairs \(image, label\); got a Tensor"),
        (Pairs(lambda levels: torch.rand(3, 2, 2).round()), r"another one each time"),
    ],
)
def test_what_no_item_can_be_is_said(items, complaint):
    torch.manual_seed(0)
    with pytest.raises(DataError, match=complaint):
        dataset_from(train=items, test=Pairs(count=3))


def test_labels_of_the_test_set_are_classes_of_the_training_set():
    with pytest.raises(DataError, match=r"0 to 2.*got 5 for image 0 \(test"):
        dataset_from(train=Pairs(), test=Pairs(count=1, label=lambda _: 5))


def test_tensors_are_not_resized():
    with pytest.raises(DataError, match=r"channels convert PIL images only; got Tensor"):
        dataset_from(train=Pairs(), test=Pairs(), image_size=4)


def test_a_picture_of_a_mode_without_range_names_its_item():
    items = Pairs(lambda _: picture(0, channels=1).convert("F"))
    with pytest.raises(DataError, match=r"item 0 of train cannot be used.*mode F"):
        dataset_from(train=items, test=items)


NUMBERS = torch.arange(24) % 3
FORMS = {
    "two tensors": (LEVELS, NUMBERS),
    "two arrays": (LEVELS.numpy(), NUMBERS.numpy()),
    "floats, a column of labels": [LEVELS / 255, NUMBERS[:, None].to(torch.int16)],
    "two lists": ([as_picture(levels) for levels in LEVELS], NUMBERS.tolist()),
    "a list of pairs": list(zip(LEVELS, NUMBERS, strict=True)),
    "a TensorDataset": torch.utils.data.TensorDataset(LEVELS, NUMBERS),
    "a Subset": torch.utils.data.Subset(Pairs(), range(24)),
    "dicts": [{"image": as_picture(LEVELS[n]), "label": n % 3, "id": n} for n in range(24)],
    "dicts of other names": [{"img": LEVELS[n], "target": n % 3} for n in range(24)],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_images_and_labels(form):
    data = dataset_from(train=FORMS[form], test=FORMS[form], validation=FORMS[form])
    assert torch.equal(pixels_of(data.train), LEVELS)
    assert torch.equal(data.test.labels, NUMBERS)


@pytest.mark.parametrize(
    "label",
    [
        2,
        np.int8(2),
        np.uint64(2),
        np.array(2),
        np.array([2]),
        torch.tensor(2),
        torch.tensor([[2]], dtype=torch.uint8),
    ],
)
def test_a_label_may_be_a_whole_number_of_any_type(label):
    assert whole_label(label, "here") == 2


@pytest.mark.parametrize(
    ("label", "complaint"),
    [
        (2.0, "got a float"),
        (True, "got a bool"),
        (None, "got None"),
        ("cat", r"got a str \(here\)\. Number the classes"),
        ([0, 1], "got a list"),
        (10**30, "more than 64 bits"),
        (np.float32(2), r"float32 of shape \(\)"),
        (np.bool_(True), "got bool"),
        (torch.tensor(2.0), r"got float32 of shape \(\)"),
        (torch.tensor(True), "got bool"),
        (torch.eye(3)[1], r"got float32 of shape \(3,\).*argmax"),
        (np.eye(3, dtype=int)[1], r"got int64 of shape \(3,\).*argmax"),
        (torch.eye(3, dtype=torch.long)[1].to_sparse(), r"shape \(3,\).*argmax"),
        (torch.tensor(1.0, dtype=torch.bfloat16), r"got float32"),
        (torch.tensor(1, device="meta"), r"got <U"),
        (torch.tensor([], dtype=torch.long), r"got int64 of shape \(0,\)"),
        (np.array(["cat"]), r"got <U3"),
    ],
)
def test_any_other_label_is_refused(label, complaint):
    with pytest.raises(DataError, match=rf"whole numbers; .*{complaint}"):
        whole_label(label, "here")


class Broken(torch.utils.data.Dataset):
    def __init__(self, length: Any = 3) -> None:
        self.length = length

    def __len__(self) -> int:
        if isinstance(self.length, Exception):
            raise self.length
        return self.length

    def __getitem__(self, index: int) -> object:
        raise KeyError("no such thing\nat all")


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (None, r"got None \(train\)\. Give a data set"),
        ("folder", r"got a str.*load_dataset\(path\)"),
        (torch.utils.data.DataLoader(Pairs()), r"DataLoader.*batches.*loader\.dataset"),
        (((image, 0) for image in LEVELS), r"generator.*list\(…\)"),
        (zip(LEVELS, NUMBERS, strict=True), r"got a zip.*list\(…\)"),
        (Stream(), r"got a Stream.*list\(…\)"),
        ({"train": Pairs()}, r"got a dict.*one of its values.*\(train\)"),
        (3, r"got an int"),
        (Broken(TypeError("none")), r"length of .* raised TypeError: none"),
        (Broken(10**15), r"has 1,000,000,000,000,000 images, more than 268,435,456"),
        ((LEVELS, NUMBERS[:-1]), r"one label for each image; got 23 labels in .* for 24"),
    ],
)
def test_what_has_no_items_is_refused(given, complaint):
    with pytest.raises(DataError, match=complaint):
        as_items(given, "train")


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        (Broken(), r"item 0 of train raised KeyError: 'no such thing\\nat all'"),
        ([(LEVELS[0], 0, 0)] * 3, r"pairs \(image, label\); got a tuple of 3"),
        ([{"image": LEVELS[0]}] * 3, r"one label \(under label.*got image \(item 0"),
        ([{"x": LEVELS[0], "image": LEVELS[0], "y": 0}] * 3, r"got x, image, y"),
        ([("a.png", 0)] * 3, r"got a str"),
        ([(LEVELS[0, :, :0], 0)] * 3, r"not empty.*got shape \(3, 0, 5\)"),
        ([(LEVELS[:, 0, 0, 0], 0)] * 3, r"got shape \(24,\)"),
        ([(np.zeros((3, 5, 3), np.uint8), 0)] * 3, r"this could be either"),
        ([(LEVELS[0].bool(), 0)] * 3, r"got bool"),
        ([(LEVELS[0] * 1j, 0)] * 3, r"got complex64"),
        ([(LEVELS[0].to(torch.bfloat16) / 255, 0)] * 3, r"whole grey levels"),
        ([(LEVELS[0].to_sparse(), 0)] * 3, r"dense tensor"),
        ([(torch.empty(1, 4, 4, device="meta"), 0)] * 3, r"dense tensor"),
        ([(LEVELS[0].float(), 0)] * 3, r"must lie in \[0, 1\]"),
        ([(LEVELS[n] % 2, n % 2) for n in range(6)], r"Multiply 0/1 images by 255"),
    ],
)
def test_what_no_image_can_be_is_said(items, complaint):
    with pytest.raises(DataError, match=complaint):
        dataset_from(train=items, test=items)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"num_classes": 0}, r"num_classes must be 2 or more; got 0"),
        ({"num_classes": 10**9}, r"num_classes must be 1,000,000 or less"),
        (
            {"num_classes": 4, "class_names": ("a", "b", "c")},
            r"number of class_names; got 4 and 3 names",
        ),
        ({"class_names": ("a", "b")}, r"must cover every label.*got 2 classes and labels up to 2"),
        ({"class_names": "abc"}, r"class_names must be "),
        ({"class_names": ("a", "b", "a")}, r"must differ; got a more than once"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments, complaint):
    with pytest.raises(ConfigError, match=complaint):
        dataset_from(train=Pairs(), test=Pairs(), **arguments)


def test_a_class_that_only_the_test_set_has_is_refused_also_if_it_is_named():
    test = [(image, 5) for image in LEVELS]
    with pytest.raises(DataError, match=r"Every class of test.*only in test: 5"):
        dataset_from(train=Pairs(), test=test, num_classes=7)


def test_a_loader_or_an_iterable_says_what_to_give_instead():
    for part in ("train", "test", "validation"):
        whole: dict[str, Any] = {"train": Pairs(), "test": Pairs()}
        with pytest.raises(DataError, match=rf"DataLoader \({part}\).*loader\.dataset"):
            dataset_from(**{**whole, part: torch.utils.data.DataLoader(Pairs())})
        with pytest.raises(DataError, match=rf"generator \({part}\).*list\(…\)"):
            dataset_from(**{**whole, part: (pair for pair in Pairs())})
