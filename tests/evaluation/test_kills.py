"""Evaluations of a real process that is killed at random, gone on with by another."""

import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from processes import started
from sparring.attacks import Linf
from sparring.evaluation import evaluate_run
from sparring.records import Evaluation, Examples, Outcomes, RunDirectory
from sparring.training import train
from training.small_runs import small

pytestmark = pytest.mark.process

PROGRAM = """
import sys
from sparring.evaluation import evaluate_run, partial
from sparring.records import RunDirectory
partial.EVERY = 0.0
run = RunDirectory.open(sys.argv[1])
evaluate_run(run, suite="pgd-100x5", num_images=40, threads=1, checks=False)
"""


def without_times(found: Evaluation) -> Evaluation:
    attacks = tuple(replace(attack, seconds=0.0) for attack in found.attacks)
    return replace(found, seconds=0.0, attacks=attacks)


def test_an_evaluation_that_was_killed_three_times_is_the_same_but_for_times(tmp_path: Path):
    run = train(small(updates=2, batch_size=64, threat=Linf(eps=0.005)), tmp_path / "run").run
    whole = evaluate_run(run, suite="pgd-100x5", num_images=40, threads=1, checks=False)
    outcomes, examples = Outcomes.load(run.outcomes), Examples.load(run.examples)
    assert not run.partial_evaluations()
    run.evaluation.unlink()
    chance = random.Random(4)
    for _ in range(3):
        process = started(PROGRAM, run.path)
        deadline = time.monotonic() + 500
        seen = changed(run)
        while changed(run) == seen and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.4))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert not run.evaluation.exists(), "it was through before it was killed"
    assert run.partial_evaluations()
    found = evaluate_run(run, suite="pgd-100x5", num_images=40, threads=1, checks=False)
    assert without_times(found) == without_times(whole)
    assert Outcomes.load(run.outcomes) == outcomes
    assert Examples.load(run.examples) == examples
    assert not run.partial_evaluations()
    left = [path.name for path in run.path.iterdir() if path.name.endswith(".tmp")]
    assert len(left) <= 3


def changed(run: RunDirectory) -> int:
    """When the partial evaluation was last written; 0 if it never was."""
    try:
        return max(path.stat().st_mtime_ns for path in run.partial_evaluations())
    except (FileNotFoundError, ValueError):
        return 0


KILLED_AT = """
import os, sys
from sparring.evaluation import evaluate_run, strength
from sparring.records import RunDirectory
left = int(sys.argv[2])
def dying(work):
    def call(*given, **named):
        global left
        if given[0].name.startswith(("evaluation", "outcomes", "examples")):
            left -= 1
            if left < 0:
                os._exit(137)
        return work(*given, **named)
    return call
strength._promote.__globals__["write_atomically"] = dying(strength.write_atomically)
type(strength.Path()).unlink = dying(type(strength.Path()).unlink)
run = RunDirectory.open(sys.argv[1])
evaluate_run(run, suite="pgd-100x5", num_images=20, threads=1, checks=False)
"""


@pytest.mark.parametrize("writes", range(9))
def test_a_kill_while_the_verdict_changes_mixes_no_two_evaluations(writes: int, tmp_path: Path):
    """One that is run again after the kill finds and leaves two whole evaluations."""
    run = train(small(updates=2, batch_size=64, threat=Linf(eps=0.01)), tmp_path / "run").run
    settings = {"num_images": 20, "threads": 1, "checks": False}
    quick = evaluate_run(run, suite="pgd", **settings)
    first = [path.read_bytes() for path in run.evaluation_files()]
    process = started(KILLED_AT, run.path, writes)
    process.join()
    assert process.exitcode == 137
    strong = evaluate_run(run, suite="pgd-100x5", **settings)
    verdict, *others = (Evaluation.load(path) for path in run.evaluations())
    assert without_times(verdict) == without_times(strong)
    assert others == [quick]
    (aside,) = (path for path in run.evaluations() if path != run.evaluation)
    name = aside.stem.removeprefix("evaluation-")
    assert [path.read_bytes() for path in run.evaluation_files(name)] == first
    shares, outcomes = Evaluation.load(run.evaluation), Outcomes.load(run.outcomes)
    right = [at == said for at, said in zip(outcomes.labels, outcomes.adversarial, strict=True)]
    assert shares.robust.successes == sum(right)
    assert {image.broken_by for image in Examples.load(run.examples).images} <= {
        *outcomes.broken_by
    }
