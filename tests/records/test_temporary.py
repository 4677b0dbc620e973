"""What killed processes left is removed; what a live process works on is not."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sparring.records import write_atomically
from sparring.records.files import clear_abandoned, new_file, temporary_file, temporary_folder

HOLDING = """
import sys, time
from pathlib import Path
from sparring.records.files import new_file, temporary_file, temporary_folder
kept = [new_file(Path(sys.argv[1]), ".result."), temporary_file()]
with temporary_folder() as folder:
    (folder / "inside").touch()
    print("ready", flush=True)
    time.sleep(100)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")


def holding(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_temporary_files_last_as_long_as_their_process(tmp_path: Path) -> None:
    with holding(tmp_path) as process:
        assert len(left(tmp_path)) == 3
        write_atomically(tmp_path / "result", "whole")
        clear_abandoned(tmp_path)
        assert len(left(tmp_path)) == 3
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(left(tmp_path)) == 3
    write_atomically(tmp_path / "result", "whole")
    assert left(tmp_path) == []
    assert (tmp_path / "result").read_text() == "whole"


def test_what_others_call_nearly_so_is_left_alone(tmp_path: Path) -> None:
    names = [
        "sparring-notes",
        "sparring-0123abcd",
        "notes.0123abcd.tmp",
        ".a.0123abcd.tmp.gz",
        "x.tmp",
    ]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / ".a.0123abcd.tmp").symlink_to(tmp_path / "x.tmp")
    os.mkfifo(tmp_path / ".b.0123abcd.tmp")
    clear_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= set(names)


def test_a_temporary_folder_ends_with_its_block_and_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt), temporary_folder() as folder:
        (folder / "inside").mkdir()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    file, path = temporary_file()
    with file:
        assert left(tmp_path) == [path.name]


def test_a_file_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparring.records import files

    taken: list[Path] = []

    def late(place: int, *, wait: bool = False) -> bool:
        if not taken:
            (path,) = tmp_path.iterdir()
            path.unlink()
            taken.append(path)
        return True

    monkeypatch.setattr(files, "locked", late)
    file, path = new_file(tmp_path, ".a.")
    with file:
        assert path.exists()
        assert path != taken[0]
