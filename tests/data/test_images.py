import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.pictures import write_pictures
from sparring.data import Dataset, ImageSet, StreamedSet, dataset_from, load_dataset, sample
from sparring.errors import ConfigError, DataError


def image_set(num_images: int = 6, num_classes: int = 3, columns: int = 5) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (num_images, 1, 4, columns), generator=generator)
    return ImageSet(
        pixels=pixels.to(torch.uint8),
        labels=torch.arange(num_images) % num_classes,
        num_classes=num_classes,
    )


def test_a_pixel_is_its_grey_level_over_255_rounded_once():
    levels = torch.arange(256).to(torch.uint8).reshape(256, 1, 1, 1)
    images = ImageSet(pixels=levels, labels=torch.arange(256), num_classes=256)
    batch = images.batch(torch.arange(256))
    exact = (torch.arange(256, dtype=torch.float64) / 255).to(torch.float32)
    assert torch.equal(batch.images.flatten(), exact)


def test_a_batch_has_the_images_asked_for_in_that_order():
    images = image_set()
    batch = images.batch(torch.tensor([4, 0, 4]))
    assert batch.labels.tolist() == [1, 0, 1]
    assert torch.equal(batch.images[0], batch.images[2])
    assert torch.equal((batch.images[1] * 255).round().to(torch.uint8), images.pixels[0])


def test_changing_a_batch_leaves_the_set_as_it_was():
    images = image_set()
    before = images.pixels.clone(), images.labels.clone()
    batch = images.batch(torch.tensor([0, 1]))
    batch.images.zero_()
    batch.labels.zero_()
    assert torch.equal(images.pixels, before[0])
    assert torch.equal(images.labels, before[1])


@pytest.mark.parametrize("count", [1, 7, 30, 299, 300, 1000])
def test_a_sample_of_a_set_sorted_by_class_shows_all_and_of_another_is_its_beginning(count):
    generator = torch.Generator().manual_seed(0)
    chance = torch.randperm(300, generator=generator)
    everyone = ImageSet(
        pixels=torch.arange(300).view(-1, 1, 1, 1).expand(300, 1, 2, 2).to(torch.uint8),
        labels=torch.arange(300) // 30,
        num_classes=10,
    )
    taken = sample(everyone, count)[1]
    assert len(taken) == min(count, 300)
    assert len(taken.unique()) == min(count, 10) or count < 10
    counts = taken.bincount(minlength=10)
    assert int(counts.max() - counts.min()) <= 1
    mixed = ImageSet(pixels=everyone.pixels, labels=everyone.labels[chance], num_classes=10)
    images, labels = sample(mixed, count)
    beginning = mixed.batch(torch.arange(min(count, 300)))
    assert torch.equal(images, beginning.images)
    assert torch.equal(labels, beginning.labels)


def test_neighbouring_subsets_make_up_the_set():
    images = image_set()
    first, rest = images.subset(0, 2), images.subset(2, 6)
    assert (len(first), len(rest)) == (2, 4)
    assert torch.equal(torch.cat([first.pixels, rest.pixels]), images.pixels)
    assert torch.equal(torch.cat([first.labels, rest.labels]), images.labels)
    assert first.num_classes == images.num_classes


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (-1, 3), (3, 3), (4, 2)])
def test_a_subset_lies_within_the_set(start, stop):
    with pytest.raises(DataError, match=rf"6 images.*got images {start} to {stop}"):
        image_set().subset(start, stop)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_named(label):
    with pytest.raises(DataError, match=rf"0 to 2.*got {label} for image 1"):
        ImageSet(
            pixels=torch.zeros(2, 1, 1, 1, dtype=torch.uint8),
            labels=torch.tensor([0, label]),
            num_classes=3,
        )


def test_an_empty_set_is_refused():
    with pytest.raises(DataError, match=r"at least one image.*got 0 images and 0 labels"):
        ImageSet(
            pixels=torch.zeros(0, 1, 1, 1, dtype=torch.uint8),
            labels=torch.zeros(0, dtype=torch.int64),
            num_classes=2,
        )


def test_one_class_is_no_classification():
    with pytest.raises(DataError, match=r"num_classes must be 2 or more; got 1"):
        image_set(num_classes=1)


def test_the_sets_of_a_data_set_have_one_shape_and_one_set_of_classes():
    fitting = Dataset(name="toy", train=image_set(), validation=image_set(), test=image_set())
    assert fitting.image_shape == (1, 4, 5)
    assert fitting.num_classes == 3
    with pytest.raises(DataError, match=r"one shape.*test: 1 x 4 x 6, 3 classes.*'toy'"):
        Dataset(name="toy", train=image_set(), validation=image_set(), test=image_set(columns=6))
    with pytest.raises(DataError, match=r"the same classes.*validation: 1 x 4 x 5, 2 classes"):
        Dataset(
            name="toy", train=image_set(), validation=image_set(num_classes=2), test=image_set()
        )


@pytest.fixture(params=["held", "streamed"])
def images(request, tmp_path) -> ImageSet | StreamedSet:
    memory = 1 << 30 if request.param == "held" else 0
    found = load_dataset(write_pictures(tmp_path, {"train": 4, "test": 1}), data_memory=memory)
    assert isinstance(found.train, ImageSet if memory else StreamedSet)
    return found.train


def test_items_are_those_of_a_batch(images):
    whole = images.batch(torch.arange(len(images)))
    assert (images[-1][0].shape, type(images[-1][1])) == ((3, 6, 5), int)
    for number, (image, label) in enumerate(images):
        assert torch.equal(image, whole.images[number])
        assert torch.equal(images[np.int64(number)][0], image)
        assert label == images[torch.tensor(number)][1] == whole.labels[number]


@pytest.mark.parametrize(
    ("index", "places"),
    [
        (slice(1, 7, 3), [1, 4]),
        (slice(None, None, -4), [8, 4, 0]),
        (slice(3, 3), []),
        ([2, -1], [2, 8]),
        ([], []),
        (np.array([5, 0]), [5, 0]),
        (torch.tensor([7, 7], dtype=torch.uint8), [7, 7]),
        (torch.arange(9) > 6, [7, 8]),
    ],
    ids=str,
)
def test_slices_numbers_and_masks_give_batches(images, index, places):
    found, wanted = images[index], images.batch(torch.tensor(places, dtype=torch.int64))
    assert torch.equal(found.images, wanted.images)
    assert torch.equal(found.labels, wanted.labels)


def test_an_index_outside_or_of_another_kind_is_refused():
    images = image_set()
    for outside in (6, -7, [0, 6]):
        with pytest.raises(IndexError, match=r"there is no image (6|-7): the set has 6"):
            images[outside]
    for wrong in ("0", 1.5, None, [0.5], [[0]]):
        with pytest.raises(ConfigError, match=r"must be a whole number, a slice, or a list or arr"):
            images[wrong]  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_data_loader_and_dataset_from_take_a_set(images):
    found = [batch for batch, _ in DataLoader(images, batch_size=4)]
    assert torch.equal(torch.cat(found), images[:].images)
    again = dataset_from(train=images, test=images, validation=images).test
    assert isinstance(again, ImageSet)
    assert torch.equal(again[:].images, images[:].images)


def test_sets_show_what_they_hold_in_a_line(images):
    data = Dataset(name="pets", train=images, validation=images, test=images)
    about = "3x6x5, 3 classes)"
    assert repr(images) == f"{type(images).__name__}(9 images {about}"
    assert repr(data) == f"Dataset(pets: 9 training, 9 validation, 9 test images {about}"
    assert 'src="data:image/png;base64,' in images._repr_html_()
    assert "<p>Classes: 0, 1, 2</p>" in data._repr_html_()
