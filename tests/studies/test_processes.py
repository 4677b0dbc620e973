"""Work side by side: every result comes once, and nothing is left behind whatever happens."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from sparring.errors import ConfigError, TrainingError
from sparring.studies.processes import Job, JobProcesses
from studies.jobs import REFUSED, Doubling, Dying, Failing, Waiting

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("forked_jobs")]


def test_every_job_is_done_once_however_many_there_are():
    jobs = [Doubling(number) for number in range(5)]
    told: list[float] = []
    with JobProcesses(report=lambda job, share: told.append(share)) as workers:
        assert dict(workers.results(jobs, at_once=2)) == {job: 2 * job.number for job in jobs}
        assert list(workers.results([], at_once=2)) == []
        again = list(workers.results([Doubling(9)], at_once=1, threads=2))
    assert again == [(Doubling(9), 18)]
    assert set(told) <= {0.5}


@pytest.mark.parametrize(
    ("job", "error", "words"),
    [
        (Failing(REFUSED), ConfigError, "it must not be so"),
        (Failing(ZeroDivisionError("nought")), TrainingError, "failing failed: .*nought"),
        (Dying(), TrainingError, "dying failed: .*ended with -9"),
    ],
)
def test_a_job_that_fails_stops_the_others(
    job: Job, error: type[Exception], words: str, tmp_path: Path
) -> None:
    waiting = Waiting(tmp_path / "pid")
    with pytest.raises(error, match=f"(?s){words}"):
        _until_waiting([waiting, job], tmp_path / "pid")
    _assert_gone(tmp_path / "pid")


def test_ending_early_stops_what_is_under_way(tmp_path):
    with JobProcesses() as workers:
        for _ in workers.results([Waiting(tmp_path / "pid"), Doubling(1)], at_once=2):
            _wait_for(tmp_path / "pid")
            break
    _assert_gone(tmp_path / "pid")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_parent_that_dies_takes_its_processes_with_it(how, tmp_path):
    program = (
        "from pathlib import Path\n"
        "from sparring.studies.processes import JobProcesses\n"
        "from studies.jobs import Waiting\n"
        "if __name__ == '__main__':\n"
        f"    job = Waiting(Path({str(tmp_path / 'pid')!r}))\n"
        "    list(JobProcesses().results([job], at_once=1))\n"
    )
    (tmp_path / "program.py").write_text(program)
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.getenv("PYTHONPATH"))))
    with subprocess.Popen(
        [sys.executable, tmp_path / "program.py"], env={**os.environ, "PYTHONPATH": paths}
    ) as parent:
        _wait_for(tmp_path / "pid")
        parent.send_signal(how)
    _assert_gone(tmp_path / "pid")


def _until_waiting(jobs: Sequence[Job], pid: Path) -> None:
    with JobProcesses() as workers:
        for _ in workers.results(jobs, at_once=2):
            _wait_for(pid)


def _wait_for(pid: Path) -> None:
    for _ in range(5000):
        if pid.exists() and pid.read_text():
            return
        time.sleep(0.1)
    raise TimeoutError(pid)


def _assert_gone(pid: Path) -> None:
    if not pid.exists():
        return  # it was stopped before it began
    for _ in range(5000):
        with suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)
            time.sleep(0.1)
            continue
        return
    raise AssertionError("it is still there")
