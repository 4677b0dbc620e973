import gzip
import shutil
from hashlib import md5

import pytest
import torch

from data.idx_files import pixels_of
from sparring.data import load_dataset
from sparring.data.idx import read_images, read_labels
from sparring.data.source import FOLDER, load_mnist
from sparring.errors import DataError

PUBLISHED_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@pytest.fixture(scope="module")
def mnist():
    return load_dataset("mnist")


@pytest.mark.parametrize(("name", "digest"), PUBLISHED_MD5.items())
def test_the_bundled_files_are_the_published_ones(name, digest):
    content = gzip.decompress((FOLDER / f"{name}.gz").read_bytes())
    assert md5(content, usedforsecurity=False).hexdigest() == digest


def test_mnist_has_its_known_numbers_of_images(mnist):
    assert (len(mnist.train), len(mnist.validation), len(mnist.test)) == (55_000, 5_000, 10_000)
    assert (mnist.name, mnist.image_shape, mnist.num_classes) == ("mnist", (1, 28, 28), 10)


def test_mnist_has_its_known_label_histograms(mnist):
    training = torch.cat([mnist.train.labels, mnist.validation.labels])
    assert training.bincount().tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert mnist.test.labels.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip


def test_mnist_begins_with_its_known_digits(mnist):
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_training_pixels_have_their_known_mean_and_deviation():
    pixels = read_images(FOLDER / "train-images-idx3-ubyte.gz").flatten()
    share = pixels.bincount(minlength=256).double() / len(pixels)
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = (share * level).sum()
    deviation = (share * (level - mean) ** 2).sum().sqrt()
    assert mean.item() == pytest.approx(0.1307, abs=5e-5)
    assert deviation.item() == pytest.approx(0.3081, abs=5e-5)


def test_validation_images_are_the_last_5000_for_training(mnist):
    labels = read_labels(FOLDER / "train-labels-idx1-ubyte.gz")
    assert torch.equal(mnist.train.labels, labels[:55_000])
    assert torch.equal(mnist.validation.labels, labels[55_000:])


def test_the_bundled_folder_is_readable_as_any_folder_is(mnist):
    assert torch.equal(pixels_of(load_dataset(str(FOLDER)).test), pixels_of(mnist.test))


def test_the_licence_and_origin_lie_beside_the_files():
    assert "ShareAlike 3.0" in (FOLDER / "LICENSE").read_text()
    readme = (FOLDER / "README.md").read_text()
    assert all(digest in readme for digest in PUBLISHED_MD5.values())


def test_a_changed_byte_of_the_bundled_files_is_noticed(tmp_path):
    name = "train-images-idx3-ubyte"
    content = bytearray(gzip.decompress((FOLDER / f"{name}.gz").read_bytes()))
    content[1000] ^= 1
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1))
    with pytest.raises(DataError, match=rf"{name}.gz is not MNIST as published.*Reinstall"):
        load_mnist(tmp_path)


def test_a_missing_bundled_file_is_named(tmp_path):
    shutil.copy(FOLDER / "train-images-idx3-ubyte.gz", tmp_path)
    with pytest.raises(DataError, match=r"there is no .*train-labels-idx1-ubyte\.gz\. Reinstall"):
        load_mnist(tmp_path)
