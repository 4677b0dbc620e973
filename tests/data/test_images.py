import pytest
import torch

from sparring.data import Dataset, ImageSet
from sparring.errors import DataError


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
    with pytest.raises(DataError, match=r"at least two classes.*num_classes = 1"):
        image_set(num_classes=1)


def test_the_sets_of_a_data_set_have_one_shape_and_one_set_of_classes():
    fitting = Dataset(name="toy", train=image_set(), validation=image_set(), test=image_set())
    assert fitting.image_shape == (1, 4, 5)
    assert fitting.num_classes == 3
    with pytest.raises(DataError, match=r"one shape.*test: 1 x 4 x 6, 3 classes.*'toy'"):
        Dataset(name="toy", train=image_set(), validation=image_set(), test=image_set(columns=6))
    with pytest.raises(DataError, match=r"one set of classes.*validation: 1 x 4 x 5, 2 classes"):
        Dataset(
            name="toy", train=image_set(), validation=image_set(num_classes=2), test=image_set()
        )
