"""The picture of a transfer matrix is complete, and drawing it changes nothing else."""

import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from records.matrices import matrix_of
from sparring.errors import ConfigError, RunError
from sparring.report import heat_map

MATRIX = matrix_of(
    [[[90, 51], [95, 0]], [[100, 43], [72, 14]], [[83, 44], [71, 15]]], steps=(1, 4, 8)
)


def test_the_picture_has_every_name_and_number(tmp_path: Path) -> None:
    heat_map(MATRIX, tmp_path / "transfer.svg")
    drawn = (tmp_path / "transfer.svg").read_text()
    words = ("90.0", "+5.0", "+51.0", "0.0", "100.0", "\u221228.0", "+29.0", "14.0")
    assert all(f">{text}</text>" in drawn for text in words)
    assert all(f">{name}</text>" in drawn for name in MATRIX.networks)
    assert all(f">{title}</text>" in drawn for title in ("1 step", "4 steps", "8 steps"))
    assert ">PGD within Linf 0.3, 100 images<" in drawn


def test_the_same_matrix_gives_the_same_file_and_leaves_matplotlib_as_it_was(
    tmp_path: Path,
) -> None:
    before = dict(matplotlib.rcParams)
    for name in ("one.svg", "other.svg"):
        heat_map(MATRIX, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(("name", "first"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF")])
def test_the_ending_decides_the_format(name: str, first: bytes, tmp_path: Path) -> None:
    heat_map(MATRIX, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(first)


def test_long_names_are_whole_in_several_lines(tmp_path: Path) -> None:
    long = "runs/" + "x" * 30 + "/run-a"
    heat_map(matrix_of([[[1, 2], [3, 4]]], networks=(long, "b"), steps=(1,)), tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert long[:24] in drawn
    assert long[24:] in drawn


def test_another_ending_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.svg, \.png, \.pdf.*got .*a\.gif"):
        heat_map(MATRIX, tmp_path / "a.gif")
    with pytest.raises(RunError, match="cannot write"):
        heat_map(MATRIX, tmp_path / "nowhere" / "a.svg")
    assert not list(tmp_path.iterdir())


def test_nothing_is_loaded_before_something_is_drawn() -> None:
    program = (
        "import sys, sparring.report\n"
        "sys.exit(' '.join({'torch', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
