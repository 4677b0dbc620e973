import gzip

import numpy as np
import pytest
import torch

from data.idx_files import STANDARD, idx_bytes, pixels_of, small_arrays, write_folder
from sparring.data import load_dataset
from sparring.errors import DataError

DOTTED = {key: name.replace("-idx", ".idx") for key, name in STANDARD.items()}
EMNIST = {
    key: f"emnist-balanced-{name.replace('t10k', 'test')}.gz" for key, name in STANDARD.items()
}
GZIPPED = {key: f"{name}.gz" for key, name in STANDARD.items()}


@pytest.mark.parametrize("names", [STANDARD, GZIPPED, DOTTED, EMNIST])
def test_the_same_images_are_read_under_every_naming(tmp_path, names):
    arrays = small_arrays()
    data = load_dataset(str(write_folder(tmp_path / "toy", arrays, names)))
    assert (data.name, data.image_shape, data.num_classes) == ("toy", (1, 4, 5), 3)
    assert (len(data.train), len(data.validation), len(data.test)) == (22, 2, 6)
    assert np.array_equal(pixels_of(data.train)[:, 0].numpy(), arrays["x_train"][:22])
    assert np.array_equal(pixels_of(data.validation)[:, 0].numpy(), arrays["x_train"][22:])
    assert np.array_equal(data.validation.labels.numpy(), arrays["y_train"][22:])
    assert np.array_equal(pixels_of(data.test)[:, 0].numpy(), arrays["x_test"])


@pytest.mark.parametrize(("num_train", "held_out"), [(4, 1), (23, 1), (24, 2), (60, 5)])
def test_the_last_twelfth_is_held_out_and_at_least_one_image(tmp_path, num_train, held_out):
    data = load_dataset(str(write_folder(tmp_path / "toy", small_arrays(num_train))))
    assert (len(data.train), len(data.validation)) == (num_train - held_out, held_out)


@pytest.mark.parametrize("copies", [1, 2])
def test_sorted_classes_are_refused_where_validation_would_show_few_of_them(tmp_path, copies):
    """Ten classes, of which the last twelfth shows one or two."""
    arrays = small_arrays(num_train=600)
    arrays["y_train"] = np.tile(np.repeat(np.arange(10), 60 // copies), copies)
    shuffled = arrays | {"y_train": np.random.default_rng(0).permutation(arrays["y_train"])}
    known = load_dataset(str(write_folder(tmp_path / "shuffled", shuffled)))
    assert len(known.validation) == 50
    with pytest.raises(
        DataError, match=r"last 50 of the 600.*show [12] of 10 classes.*x_validation"
    ):
        load_dataset(str(write_folder(tmp_path / "sorted", arrays)))


def test_a_file_beside_its_own_gzipped_copy_counts_once(tmp_path):
    folder = write_folder(tmp_path / "toy", small_arrays())
    once = load_dataset(str(folder))
    write_folder(folder, small_arrays(), GZIPPED)
    assert torch.equal(pixels_of(load_dataset(str(folder)).train), pixels_of(once.train))


def test_a_file_beside_another_gzipped_file_of_its_name_is_ambiguous(tmp_path):
    folder = write_folder(tmp_path / "toy", small_arrays())
    name = STANDARD["y_test"]
    (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(np.array([1, 2, 0, 1, 2, 0]))))
    with pytest.raises(DataError, match=rf"several data sets: {name}, {name}.gz"):
        load_dataset(str(folder))


def test_two_data_sets_in_one_folder_are_ambiguous(tmp_path):
    folder = write_folder(tmp_path / "toy", small_arrays())
    write_folder(folder, small_arrays(), EMNIST)
    with pytest.raises(DataError, match=r"several data sets: emnist-balanced-.*own"):
        load_dataset(str(folder))


def test_files_of_two_data_sets_do_not_make_one(tmp_path):
    mixed = STANDARD | {key: EMNIST[key] for key in ("x_test", "y_test")}
    folder = write_folder(tmp_path / "toy", small_arrays(), mixed)
    with pytest.raises(DataError, match=r"several data sets: .*train-labels-idx1-ubyte"):
        load_dataset(str(folder))


def test_a_missing_file_is_named_with_what_was_found(tmp_path):
    folder = write_folder(tmp_path / "toy", small_arrays())
    (folder / STANDARD["y_test"]).rename(folder / "t10k-labels")
    (folder / "raw").mkdir()
    with pytest.raises(
        DataError,
        match=r"t10k-labels-idx1-ubyte \(.gz or not\) is missing in .*; it holds raw/, t10k-",
    ):
        load_dataset(str(folder))


def test_a_folder_of_many_other_files_is_listed_in_part(tmp_path):
    for number in range(30):
        (tmp_path / f"{number:02d}.png").touch()
    with pytest.raises(DataError, match=r"it holds 00\.png, .*19\.png, and 10 more\. Give the"):
        load_dataset(str(tmp_path))


def test_an_empty_folder_holds_nothing(tmp_path):
    with pytest.raises(
        DataError, match=r"no data set in .*; it holds nothing\. .*each class.*four IDX files"
    ):
        load_dataset(str(tmp_path))


def test_labels_of_another_number_than_images_are_refused(tmp_path):
    arrays = small_arrays() | {"y_test": np.array([0, 1, 2])}
    with pytest.raises(
        DataError, match=r"3 labels in .*t10k-labels-idx1-ubyte for 6 images in .*t10k-images"
    ):
        load_dataset(str(write_folder(tmp_path / "toy", arrays)))


def test_test_labels_outside_the_training_classes_are_refused(tmp_path):
    arrays = small_arrays() | {"y_test": np.array([0, 1, 2, 0, 9, 2])}
    with pytest.raises(DataError, match=r"0 to 2.*got 9 for image 4 \(.*t10k-labels-idx1-ubyte"):
        load_dataset(str(write_folder(tmp_path / "toy", arrays)))


def test_a_class_without_training_images_is_refused(tmp_path):
    arrays = small_arrays() | {"y_train": np.arange(24) % 3 * 2}
    with pytest.raises(DataError, match=r"from 0 to 4.*without any: 1, 3 \(.*train-labels-idx1"):
        load_dataset(str(write_folder(tmp_path / "toy", arrays)))
