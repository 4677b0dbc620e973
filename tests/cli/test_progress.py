"""What stderr shows while a run goes on, as a bar and as lines."""

import re
import time

import pytest

from sparring.cli.console import PROGRESS
from sparring.cli.progress import watched_evaluation
from sparring.evaluation import Progress


@pytest.fixture(params=["bar", "lines"])
def display(request, monkeypatch) -> str:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(PROGRESS, "is_interactive", request.param == "bar")
    if request.param == "bar":
        monkeypatch.setenv("FORCE_COLOR", "1")
    else:
        monkeypatch.delenv("FORCE_COLOR", raising=False)
    return request.param


def shown_until(part: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Stderr so far, once it holds `part`: a bar is drawn ten times a second."""
    text, until = "", time.monotonic() + 10
    while part not in text and time.monotonic() < until:
        shown = capsys.readouterr()
        assert shown.out == ""
        text += shown.err
        time.sleep(0.01)
    return text


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")


def test_an_evaluation_shows_the_attack_and_what_is_still_robust(display, capsys):
    with watched_evaluation() as observer:
        for share in (0.5, 1.0):
            observer(
                Progress(
                    attack="pgd-10 margin",
                    number=1,
                    of=2,
                    share=share,
                    robust=15,
                    total=40,
                )
            )
        text = plain(shown_until("37.5 %", capsys))
    assert "pgd-10 margin" in text
    assert "37.5 %" in text
    if display == "lines":
        assert text.count("\n") == 1
