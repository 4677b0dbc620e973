"""The log of a run under crashes: every whole row is kept, no torn one is seen."""

import math
import os
from pathlib import Path

import pytest

from sparring.errors import RunError
from sparring.records import MetricsLog, metrics

ROWS = [{"step": step, "loss": 1 / (step + 1), "phase": "warm é"} for step in range(4)]


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for row in ROWS:
        log.append(row)
    return log


def test_rows_are_read_as_they_were_written(log: MetricsLog) -> None:
    assert log.rows() == ROWS
    assert log.path.read_bytes().count(b"\n") == len(ROWS)


def test_a_log_that_was_never_written_has_no_rows(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.rows() == []
    log.truncate(3)
    assert not log.path.exists()


def test_a_log_cut_at_any_byte_gives_the_rows_before_the_cut_and_goes_on(log: MetricsLog) -> None:
    content = log.path.read_bytes()
    ends = [place for place, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content) + 1):
        whole = sum(cut >= end for end in ends)
        log.path.write_bytes(content[:cut])
        assert log.rows() == ROWS[:whole]
        log.append({"step": 99})
        assert log.rows() == [*ROWS[:whole], {"step": 99}]


@pytest.mark.parametrize("step", [-1, 0, 2, 9])
def test_truncation_keeps_the_rows_up_to_the_step(log: MetricsLog, step: int) -> None:
    log.append({"note": "no step"})
    log.truncate(step)
    assert log.rows() == [*ROWS[: step + 1], {"note": "no step"}]


def test_truncation_drops_a_torn_row(log: MetricsLog) -> None:
    with log.path.open("ab") as file:
        file.write(b'{"step": 1, "lo')
    log.truncate(9)
    assert log.path.read_bytes().endswith(b"}\n")
    assert log.rows() == ROWS


def test_numbers_that_json_lacks_are_stored_as_null(log: MetricsLog) -> None:
    log.append({"step": 4, "loss": math.nan, "norm": math.inf})
    assert log.rows()[-1] == {"step": 4, "loss": None, "norm": None}


def test_a_damaged_line_in_the_middle_is_named(log: MetricsLog) -> None:
    lines = log.path.read_text().splitlines()
    log.path.write_text("\n".join([lines[0], "{oops", lines[2], ""]))
    with pytest.raises(RunError, match="line 2 is damaged"):
        log.rows()


def test_a_log_that_cannot_be_written_or_read_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        MetricsLog(tmp_path / "missing" / "metrics.jsonl").append({"step": 0})
    with pytest.raises(RunError, match="folder of this name"):
        MetricsLog(tmp_path).append({"step": 0})
    with pytest.raises(RunError, match="folder of this name"):
        MetricsLog(tmp_path).rows()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_a_run_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "open_regular", lambda path, _, mode: path.open(mode))
    with pytest.raises(RunError, match="the disk is full"):
        MetricsLog(Path("/dev/full")).append({"step": 0})


@pytest.mark.parametrize(
    "row",
    [
        "[" * 100_000,
        '{"a": [1]}',
        '{"a": {}}',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        '{"a": 123456789012345678901234567890}',
        '{"a": ' + "9" * 5000 + "}",
        "\xff",
    ],
)
def test_a_row_that_was_not_written_is_refused(tmp_path: Path, row: str) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.path.write_bytes(row.encode("latin-1") + b'\n{"step": 1}\n')
    with pytest.raises(RunError, match="line 1 is damaged"):
        log.rows()


def test_a_log_that_is_no_regular_file_is_neither_read_nor_written(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    os.mkfifo(log.path)
    for work in (log.rows, lambda: log.append({"step": 1}), lambda: log.truncate(1)):
        with pytest.raises(RunError, match="must be a regular file"):
            work()
