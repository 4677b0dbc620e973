"""What needs the whole machine has it: the law of the runner that timings rest on."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from sparring.records import MetricsLog
from sparring.records.environment import available_cores
from sparring.studies import TABLE, Measurements, StudyRun
from sparring.studies.runner import Training
from sparring.training import Asynchronous, Stale, TrainConfig
from studies.witnesses import Witnessed
from training.small_runs import small


@pytest.mark.process
@pytest.mark.usefixtures("forked_jobs")
def test_nothing_runs_beside_a_measurement_that_must_be_alone(tmp_path: Path) -> None:
    run = StudyRun(study=Witnessed(), scale="smoke", into=tmp_path, jobs=2)
    run.run(lambda job, share: None, lambda jobs: None)
    rows = [row for row in MetricsLog(run.folder / TABLE).rows() if "begun" in row]
    found = Measurements(rows=rows)
    begun, ended, threads = (found.column(name) for name in ("begun", "ended", "threads"))
    lonely = ["lonely" in name for name in found.names("measurement")]
    assert sorted(lonely) == [False, False, True, True]
    for one, other in combinations(range(4), 2):
        apart = max(begun[one], begun[other]) >= min(ended[one], ended[other])
        assert apart or not (lonely[one] or lonely[other])
    assert threads == tuple(available_cores() if alone else 1 for alone in lonely)


@pytest.mark.parametrize(
    ("config", "alone"),
    [
        (small(), False),
        (small(source=Stale(staleness=2)), False),
        (small(source=Asynchronous(workers=1)), True),
        (small(source=Asynchronous(workers=0)), True),
        (replace(small(), threads=2), True),
        (replace(small(), threads=0), True),
    ],
)
def test_trainings_on_more_than_one_core_are_alone(
    config: TrainConfig, alone: bool, tmp_path: Path
) -> None:
    training = Training(name="one", config=config, folder=tmp_path, until=1)
    assert training.alone is alone
