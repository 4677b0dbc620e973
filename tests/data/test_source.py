import pytest

import sparring.data
from data.idx_files import small_arrays, write_folder
from sparring.data import load_dataset
from sparring.errors import DataError


@pytest.mark.parametrize("name", ["MNIST", "mnits", "minst", "Mnist"])
def test_a_misspelt_name_is_answered_with_the_right_one(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=rf"^there is no file or folder {name}\. Did you mean mnist\?"
    ):
        load_dataset(name)


def test_a_misspelt_path_is_answered_with_the_nearest_one(tmp_path):
    (tmp_path / "digits.npz").touch()
    with pytest.raises(DataError, match=r"Did you mean .*/digits\.npz\?"):
        load_dataset(str(tmp_path / "digit.npz"))


def test_a_path_to_nowhere_says_where_it_counts_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no file or folder x/y\. The folder x cannot be read"):
        load_dataset("x/y")
    with pytest.raises(DataError, match=rf"folder pictures\. Paths are relative to {tmp_path}"):
        load_dataset("pictures")


@pytest.mark.parametrize("source", ["", "a\0b", "~nobody-of-that-name/x", "x" * 5000])
def test_what_cannot_be_a_path_is_a_data_error(source):
    with pytest.raises(DataError, match=r"Data are mnist"):
        load_dataset(source)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").touch()
    with pytest.raises(
        DataError, match=r"is neither an \.npz nor a \.parquet file\. Of IDX files give the folder"
    ):
        load_dataset(str(tmp_path / "train-images-idx3-ubyte"))


def test_the_bundled_name_wins_and_a_dot_names_the_folder(tmp_path, monkeypatch):
    write_folder(tmp_path / "mnist", small_arrays())
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("./mnist").test) == 6
    assert len(load_dataset("mnist").test) == 10_000


def test_the_public_names_are_sorted_and_exist():
    assert sparring.data.__all__ == sorted(sparring.data.__all__)
    assert all(hasattr(sparring.data, name) for name in sparring.data.__all__)
