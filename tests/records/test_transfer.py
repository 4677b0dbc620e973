"""A transfer matrix is stored whole, cannot contradict itself, and says what is suspicious."""

from dataclasses import replace
from pathlib import Path

import pytest

from records.matrices import matrix_of
from sparring.errors import ConfigError, RunError
from sparring.records import Cell, TransferMatrix

RIGHT = [[[90, 50], [95, 30]], [[85, 40], [70, 10]]]


@pytest.fixture(scope="module")
def matrix() -> TransferMatrix:
    return matrix_of(RIGHT)


def test_a_matrix_comes_back_from_its_file(matrix: TransferMatrix, tmp_path: Path) -> None:
    matrix.save(tmp_path / "transfer.json")
    assert TransferMatrix.load(tmp_path / "transfer.json") == matrix
    with pytest.raises(RunError, match="cannot read"):
        TransferMatrix.load(tmp_path / "nowhere.json")


def test_an_accuracy_is_asked_for_by_steps_source_and_target(matrix: TransferMatrix) -> None:
    found = matrix.accuracy(1, 0, 1)
    assert (found.successes, found.total) == (40, 100)


def test_the_widest_interval_is_that_of_the_share_nearest_to_half(matrix: TransferMatrix) -> None:
    low, high = matrix.accuracy(0, 0, 1).interval
    assert matrix.widest == high - low


def test_a_transferred_attack_that_is_stronger_than_the_white_box_one_is_flagged(
    matrix: TransferMatrix,
) -> None:
    assert matrix.flagged == ((1, 1, 0),)
    (said,) = matrix.flags
    assert said.startswith("fast-0 at 8 steps: the attack on natural leaves 70.0 % right, ")
    assert "the white-box one 85.0 % (p = 3e-05)" in said


@pytest.mark.parametrize(("only_transferred", "flagged"), [(6, False), (7, True)])
def test_six_images_of_six_may_be_chance_and_seven_are_not(
    only_transferred: int, flagged: bool
) -> None:
    found = matrix_of([[[50, 100], [50 - only_transferred, 10]]], steps=(4,))
    assert bool(found.flags) == flagged  # 2**-6 > 0.01 > 2**-7


def test_images_that_fall_to_one_attack_each_speak_against_a_flag() -> None:
    found = matrix_of([[[50, 100], [43, 10]]], steps=(4,))
    cell = Cell(right=43, only_transferred=17, only_white_box=10)
    balanced = replace(found, cells=((found.cells[0][0], (cell, found.cells[0][1][1])),))
    assert not balanced.flags


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"networks": ("fast-0",)}, "needs at least two networks"),
        ({"networks": ("fast-0", "fast-0")}, "networks must differ.*got fast-0 twice"),
        ({"networks": ("a", "b", "c")}, "3 networks and 2 numbers of steps"),
        ({"steps": ()}, "steps must be 1 or more.*got none"),
        ({"steps": (0, 8)}, "steps must be 1 or more.*got 0, 8"),
        ({"steps": (8, 8)}, "steps must differ.*got 8 twice"),
        ({"steps": (1, 4, 8)}, "2 networks and 3 numbers of steps"),
        ({"natural": ()}, "natural accuracy; got another number"),
        ({"num_images": 101}, "shares of the 101 images"),
    ],
)
def test_what_cannot_belong_together_is_refused(
    matrix: TransferMatrix, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        replace(matrix, **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("place", "cell"),
    [
        ((0, 1), Cell(right=50, only_transferred=0, only_white_box=0)),  # 30 white-box
        ((0, 1), Cell(right=50, only_transferred=-1, only_white_box=19)),
        ((0, 1), Cell(right=50, only_transferred=51, only_white_box=71)),  # 101 images
        ((1, 1), Cell(right=30, only_transferred=1, only_white_box=1)),  # the diagonal itself
    ],
)
def test_counts_that_cannot_be_of_the_same_images_are_refused(
    matrix: TransferMatrix, place: tuple[int, int], cell: Cell
) -> None:
    table = [list(row) for row in matrix.cells[0]]
    table[place[0]][place[1]] = cell
    cells = (tuple(tuple(row) for row in table), matrix.cells[1])
    with pytest.raises(ConfigError, match="same images"):
        replace(matrix, cells=cells)
