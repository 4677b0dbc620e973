"""`sparring data`: what it says of good data sets and of broken ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.idx_files import small_arrays
from data.pictures import picture, write_pictures
from sparring.cli.main import main
from sparring.errors import ConfigError
from sparring.records.checks import choice


def asked(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    assert main(["data", *words]) == code
    shown = capsys.readouterr()
    return shown.out, shown.err


def as_json(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    return json.loads(asked(capsys, *words, "--json", code=code)[0])


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "my pets", {"train": 13, "test": 2})


def test_a_good_folder_is_described_with_what_to_type_next(pets, capsys):
    lines = asked(capsys, str(pets))[0].splitlines()
    assert lines[0] == f"{pets}: class folders, 3 classes, 45 images"
    assert [line.split() for line in lines[2:7]] == [
        ["class", "train", "validation", "test"],
        ["cat", "12", "1", "2"],
        ["dog", "12", "1", "2"],
        ["ähre", "12", "1", "2"],
        ["all", "36", "3", "6"],
    ]
    assert "45 images: colour, 5 x 6 pixels" in lines
    assert "3.96KiB of pixels: held in memory, up to 4GiB" in lines
    assert "0 test images in the training set too" in lines
    assert lines[-1] == f"next: sparring train --data '{pets}' --model small-cnn"
    assert max(map(len, lines)) <= 140


def test_what_is_neither_a_file_nor_a_folder_is_called_so(tmp_path, capsys):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in ("/dev/null", str(tmp_path / "link")):
        told = asked(capsys, path, code=2)[1]
        assert f"data must be a folder or a regular file; {path} is neither." in told
        assert "Did you mean" not in told


def test_pixels_are_summed_up_by_channel(pets, capsys):
    stored = np.stack([np.asarray(Image.open(path)) for path in pets.glob("*/*/*")]) / 255
    found = as_json(capsys, str(pets))["pixels"]
    assert len(found) == 3
    for channel, pixels in enumerate(found):
        levels = stored[..., channel]
        expected = (levels.min(), levels.max(), levels.mean(), levels.std())
        got = [pixels[name] for name in ("least", "largest", "mean", "std")]
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_a_size_and_a_limit_of_memory_go_into_the_next_command(pets, capsys):
    found = as_json(capsys, str(pets), "--image-size", "4", "--data-memory", "2KiB")
    assert (found["streamed"], found["pixel_bytes"]) == (True, 45 * 48)
    assert found["next"].endswith("--set image_size=4 --set data_memory=2KiB")
    out, _ = asked(capsys, str(pets), "--data-memory", "2KiB")
    assert "3.96KiB of pixels: streamed, because data_memory is 2KiB" in out


def test_images_that_are_there_twice_are_found_by_their_pixels(pets, capsys):
    Image.open(pets / "train/cat/000.png").save(pets / "test/cat/again.bmp")
    shutil.copy(pets / "train/dog/014.png", pets / "train/cat/copy.png")
    twice = as_json(capsys, str(pets))["duplicates"]
    assert (twice["train_test"], twice["contradicting"]) == (1, 1)
    assert twice["train_test_examples"] == ["test/cat/again.bmp is train/cat/000.png"]
    (example,) = twice["contradicting_examples"]
    assert "train/cat/copy.png (cat)" in example
    assert "train/dog/014.png (dog)" in example


def test_training_images_in_the_validation_set_are_not_taken_for_test_images(tmp_path, capsys):
    root = write_pictures(tmp_path, {"train": 3, "validation": 1, "test": 1})
    shutil.copy(root / "train/cat/000.png", root / "validation/cat/again.png")
    assert as_json(capsys, str(root))["duplicates"]["train_test"] == 0


def test_every_problem_is_listed_and_the_exit_code_is_2(pets, capsys):
    (pets / "train" / "bird").mkdir()
    (pets / "old").mkdir()
    (pets / "train/cat/notes.txt").touch()
    (pets / "train/cat/broken.png").write_bytes(b"hello")
    (pets / "train/cat/gone.png").symlink_to("/nowhere.png")
    picture(5, rows=8, channels=1).save(pets / "train/cat/grey.png")
    out, err = asked(capsys, str(pets), code=2)
    problems = [line for line in out.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 4
    for part in ("without any: bird", "broken.png is no whole", "gone.png cannot be read"):
        assert any(part in problem for problem in problems)
    assert any("1 grey, 5 x 8 (train/cat/grey.png)" in problem for problem in problems)
    assert "2 names left aside, no pictures by ending or place: old, train/cat/notes.txt" in out
    assert "wrote nothing" not in out
    assert err.startswith(f"error: {pets} cannot be trained on: 4 problems, first: ")
    found = as_json(capsys, str(pets), code=2)
    assert len(found["problems"]) == 4
    assert [of_class["train"] for of_class in found["classes"]] == [0, 13, 12, 12]


def test_with_channels_a_mixture_of_grey_and_colour_is_no_problem(pets, capsys):
    picture(5, channels=1).save(pets / "train/cat/grey.png")
    found = as_json(capsys, str(pets), "--channels", "rgb")
    assert [kind["channels"] for kind in found["kinds"]] == [3]
    assert found["next"].endswith("--channels rgb")


def test_classes_of_too_few_pictures_and_without_test_images_are_told(tmp_path, capsys):
    root = write_pictures(tmp_path / "set", {"train": 1, "test": 1})
    assert "so it needs at least 2" in asked(capsys, str(root), code=2)[1]
    picture(90).save(root / "train/cat/90.png")
    shutil.rmtree(root / "test/dog")
    assert "without a test image: dog" in asked(capsys, str(root), code=2)[0]


def test_an_array_file_is_described_too(tmp_path, capsys):
    arrays = small_arrays()
    arrays["x_test"][0] = arrays["x_train"][3]
    np.savez(tmp_path / "toy.npz", allow_pickle=False, **arrays)
    found = as_json(capsys, str(tmp_path / "toy.npz"))
    assert (found["kind"], found["problems"]) == (".npz file", [])
    assert found["classes"][0] == {"name": "0", "train": 8, "validation": 0, "test": 2}
    assert found["kinds"] == [{"channels": 1, "rows": 4, "columns": 5, "images": 30}]
    assert found["duplicates"]["train_test_examples"] == ["test image 0 is train image 3"]


def test_of_hundreds_of_classes_the_first_are_shown(tmp_path, capsys):
    names = tuple(f"class {number:03d}" for number in range(150))
    root = write_pictures(tmp_path, {"": 3}, classes=names, rows=2, columns=2)
    out, _ = asked(capsys, str(root))
    assert "class 019" in out
    assert "class 020" not in out
    assert "130 more (--json)" in out
    assert len(as_json(capsys, str(root))["classes"]) == 150


def test_what_to_type_next_is_a_command_that_is_right(tmp_path, capsys):
    """The paper's network where it fits, and another one where it does not."""
    for channels, classes, model in (
        (1, ("a", "b"), ""),
        (3, ("a", "b"), " --model small-cnn"),
        (1, tuple(map(str, range(11))), " --model small-cnn"),
    ):
        root = tmp_path / f"{channels}-{len(classes)}"
        write_pictures(root, {"": 3}, classes=classes, rows=28, columns=28, channels=channels)
        command = as_json(capsys, str(root))["next"]
        assert command == f"sparring train --data {root}{model}"
        assert main([*command.split()[1:], "--dry-run"]) == 0
        capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "sparring data needs a folder or a file"),
        (["nowhere"], "there is no file or folder nowhere"),
        (["mnits"], "Did you mean mnist?"),
        (["empty"], "there is no data set in"),
        (["words.txt"], "neither an .npz nor"),
        (
            ["mnist", "--image-size", "9"],
            "convert picture files only; mnist holds arrays",
        ),
        (["pets", "--image-size", "0"], "image_size must be 1 or more"),
        (["mnist", "--data-memory", "lots"], "must be a number of bytes such as 4096, 64MiB"),
        (["one", "two"], "takes one word, PATH,"),
    ],
)
def test_wrong_input_is_answered_in_a_sentence(words, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.txt").touch()
    write_pictures(tmp_path / "pets", {"": 3})
    out, err = asked(capsys, *words, code=2)
    assert complaint in err
    assert err.count("\n") == 1
    assert not out


def test_a_name_of_several_lines_stays_in_its_row(tmp_path, capsys):
    root = write_pictures(tmp_path, {"": 3}, classes=("cat\ndog", "bird"), rows=2, columns=2)
    out, _ = asked(capsys, str(root))
    assert "cat\\ndog" in out
    assert "\ndog" not in out.replace("\\ndog", "")
    with pytest.raises(ConfigError, match="must be one of cat dog, bird"):
        choice("class", "fish", ("cat\ndog", "bird"))
