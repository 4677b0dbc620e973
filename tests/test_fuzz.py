"""Every reader answers damaged files well: a few of the mutations that `make fuzz` makes."""

import shutil
from pathlib import Path

import pytest

import fuzz

MUTATIONS = 8


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
