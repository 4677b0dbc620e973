"""A display in a pipe, a terminal and a notebook."""

import re
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from sparring.records.display import EVERY, PROGRESS, displayed


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.seconds)
    return now


def test_a_pipe_gets_a_line_at_times_with_the_time_left(clock, capsys):
    with displayed("evaluate") as display:
        for second in range(41):
            clock.seconds = 100 + second
            display.show(0.5 + second / 100, "apgd-t", "robust 45.2 %")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 40 // EVERY
    assert lines[0] == "evaluate 60%, apgd-t, robust 45.2 %, 40.0 s left"
    assert lines[-1] == "evaluate 90%, apgd-t, robust 45.2 %, 10.0 s left"


def test_the_time_left_may_be_given(clock, capsys):
    with displayed("evaluate") as display:
        clock.seconds += EVERY
        display.show(0.1, left=125)
    assert capsys.readouterr().err == "evaluate 10%, 2 min 5 s left\n"


def test_a_terminal_gets_a_bar_and_lines_above_it(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(PROGRESS, "is_interactive", True)
    with displayed("evaluate") as display:
        display.show(0.25, "apgd-t", "robust 45.2 %", left=90)
        display.say("notice: look out")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "notice: look out\n" in text
    assert re.search(r"apgd-t .* 25% robust 45.2 % 1 min 30 s left", text)


def test_a_notebook_changes_one_output(clock, monkeypatch):
    shown: list[dict[str, str]] = []

    class Handle:
        def update(self, data: dict[str, str], *, raw: bool) -> None:
            shown[-1] = data

    def show(data: dict[str, str], **_: Any) -> Handle:
        shown.append(data)
        return Handle()

    monkeypatch.setattr(PROGRESS, "is_jupyter", True)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=show))
    with displayed("evaluate") as display:
        for share in (0.25, 0.5, 0.75):
            clock.seconds += 1
            display.show(share, "<apgd>", left=3)
    (found,) = shown
    assert found["text/plain"] == "evaluate 75%, <apgd>, 3.0 s left"
    assert 'value="0.7500"' in found["text/html"]
    assert "&lt;apgd&gt;" in found["text/html"]
