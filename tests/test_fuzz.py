"""Every reader answers damaged files well: a few of the mutations that `make fuzz` makes."""

import os
import shutil
from pathlib import Path

import pytest

import fuzz  # pyright: ignore[reportMissingImports] - benchmarks/fuzz.py

MUTATIONS = 8
OTHERS = (*fuzz.DATA_SETS, "--set")
"""Readers of data have such a law of their own, and a flag is no file."""


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    fuzz.make(folder)
    return folder


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_damage_is_answered_well(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "files"
    shutil.copytree(whole, folder)
    monkeypatch.chdir(folder)
    found = fuzz.fuzz(name, MUTATIONS, 0, folder)
    assert found.mutations == MUTATIONS
    assert found.wrong == []


def no_file(path: Path, kind: str) -> None:
    """Something else in the place of a file."""
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "circle":
            path.symlink_to(path)
        case "folder":
            path.mkdir()
        case _:
            path.touch()
            os.truncate(path, 1 << 43)


@pytest.mark.parametrize("kind", ["pipe", "device", "circle", "folder", "huge"])
@pytest.mark.parametrize(
    "name", [name for name in fuzz.TARGETS if name not in (*fuzz.DATA_SETS, "--set")]
)
def test_what_is_no_file_of_a_sane_size_is_answered_at_once(
    name: str, kind: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "files"
    shutil.copytree(whole, folder)
    monkeypatch.chdir(folder)
    target = fuzz.TARGETS[name]
    no_file(target.path(folder), kind)
    for read in target.readers:
        _, wrong = fuzz.answer(read, folder)
        assert wrong == []
