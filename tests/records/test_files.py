"""Files are written whole or not at all, and a failure is told in a sentence."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.errors import RunError
from sparring.records import read_json, run_errors, write_atomically, write_json
from sparring.records.files import DEEPEST_JSON, parse_json


def disk_full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(_: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("content", ["text é", b"\x00bytes"])
def test_the_new_content_replaces_the_old(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("failure", "error"), [(disk_full, OSError), (interrupted, KeyboardInterrupt)]
)
def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: object, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", failure)
    with pytest.raises(error):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_cannot_begin_raises_as_it_came(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        write_atomically(tmp_path / "file" / "inside", "x")
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "inside", "x")


def test_a_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "file", "x")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


REASONS = [
    (errno.EACCES, "permission was denied"),
    (errno.EROFS, "read-only"),
    (errno.ENOSPC, "the disk is full"),
    (errno.EDQUOT, "quota"),
    (errno.ENOTDIR, "is a file, not a folder"),
    (errno.EISDIR, "a folder of this name"),
    (errno.ENOENT, "does not exist"),
    (errno.ENAMETOOLONG, "too long"),
    (errno.EIO, os.strerror(errno.EIO)),
]


@pytest.mark.parametrize(("code", "reason"), REASONS)
def test_a_failure_of_the_file_system_names_the_path_and_the_reason(code: int, reason: str) -> None:
    with pytest.raises(RunError) as error, run_errors("write", Path("runs/a")):
        raise OSError(code, os.strerror(code))
    assert str(error.value).startswith("cannot write runs/a: ")
    assert reason in str(error.value)


def test_json_is_written_and_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": [1, 0.1, None]})
    assert read_json(tmp_path / "a.json") == {"é": [1, 0.1, None]}


def test_a_full_disk_is_a_run_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(RunError, match=r"cannot write .*a\.json: the disk is full"):
        write_json(tmp_path / "a.json", {})


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00"])
def test_damaged_json_is_a_run_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "circle", "large"])
def test_what_is_no_regular_file_of_a_sane_size_is_refused_at_once(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "file"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path = Path("/dev/zero")
        case "circle":
            path.symlink_to(path)
        case _:
            path.touch()
            os.truncate(path, 1 << 40)
    with pytest.raises(RunError, match=f"cannot read {path}: "):
        read_json(path)


@given(depth=st.integers(1, 200), kind=st.sampled_from(["[]", '{"a":}']))
def test_json_is_read_as_far_as_it_is_nested_sanely(depth: int, kind: str) -> None:
    text = kind[:-1] * depth + "0" + kind[-1] * depth
    if depth < DEEPEST_JSON:
        assert parse_json(text) == json.loads(text)
    else:
        with pytest.raises(ValueError, match="nested"):
            parse_json(text)


def test_json_without_end_is_no_recursion_error() -> None:
    with pytest.raises(ValueError, match="nested"):
        parse_json("[" * 1_000_000)
