"""What a training shows on stderr while it runs, as a bar and as lines."""

import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sparring.attacks import PGD, Linf
from sparring.records import RunDirectory, describe
from sparring.records.display import PROGRESS
from sparring.training import (
    EarlySteps,
    SessionStart,
    Step,
    TrainConfig,
    ValidationResult,
)
from sparring.training.presets import fast, paper
from sparring.training.sinks import POINTS, training_display, work_shares


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


def step(number: int) -> Step:
    return Step(
        step=number,
        loss=1.25,
        training_accuracy=0.5,
        learning_rate=1e-3,
        eps=0.3,
        staleness=0,
        attack_seconds=0.1,
        supply_seconds=0.1,
        update_seconds=0.1,
        images_per_second=640.0,
    )


def session(config: TrainConfig, version: int = 0) -> SessionStart:
    where = describe(threads=1, device="cpu", precision="fp32")
    return SessionStart(
        config=config, run=RunDirectory(Path("runs/x")), environment=where, version=version
    )


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


def validation(step: int) -> dict[str, Any]:
    found = ValidationResult(
        step=step, natural_accuracy=0.75, robust_accuracy=0.5, validation_images=16
    )
    return asdict(found)


def test_a_run_shows_loss_robust_accuracy_speed_and_notices(display, capsys):
    config = fast()
    with training_display() as sink:
        sink.start(session(config))
        for number in range(1, 11):
            sink.write("update", asdict(step(number)))
        sink.write("validation", validation(10))
        sink.write("notice", {"step": 10, "event": "dead start: look out"})
        shown = shown_until("robust 50.0 %", capsys)
    text = plain(shown)
    assert (
        f"runs/x: {config.updates:,} updates of {config.batch_size} images against Linf 0.3, "
        "on cpu with 1 thread\n" in text
    )
    assert all(part in text for part in ("loss 1.250", "robust 50.0 %", "640 images/s"))
    assert "\nnotice: dead start: look out\n" in text
    assert ("\x1b" in shown) == (display == "bar")
    if display == "lines":
        assert text.count("\n") == 3
        assert text.splitlines()[1].endswith(" left")


def test_the_time_left_of_a_resumed_run_counts_from_where_it_resumed(capsys, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    with training_display() as sink:
        sink.start(session(replace(paper(), updates=100), version=60))
        for number in range(61, 91):
            sink.write("update", asdict(step(number)))
        now += 30
        sink.write("validation", validation(90))
    assert capsys.readouterr().err.rstrip().endswith(", 10.0 s left")


def test_work_is_weighted_with_the_steps_of_its_attacks():
    config = replace(fast(), attack=PGD(threat=Linf(eps=0.3), steps=6))
    config = replace(config, early_steps=(EarlySteps(until=0.5, steps=2),))
    shares = work_shares(config)
    assert (shares[0], shares[-1]) == (0, pytest.approx(1))
    assert shares[POINTS // 2] == pytest.approx((2 + 2) / (2 + 2 + 6 + 2))
