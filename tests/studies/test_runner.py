"""A study goes on where it was stopped, and measures everything exactly once."""

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparring.errors import ConfigError, Interrupted
from sparring.models import PaperCNN, trained_network
from sparring.records import MetricsLog, RunDirectory, StudyResult, Trained
from sparring.studies import RESULT, SCALES, STUDIES, TABLE, Scale, StudyRun, runner
from sparring.studies.processes import Job
from sparring.studies.study import Study
from sparring.training import train
from studies.jobs import TinyStudy
from training.small_runs import assert_same_bits, weights_of

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("forked_jobs")]

ROWS = [("one", version) for version in (0, 2, 4, 6, 8)] + [("other", v) for v in (0, 4, 8)]


def carried_out(study: StudyRun) -> tuple[StudyResult, list[str]]:
    """What came of it, and the names of all jobs that it took."""
    names: list[str] = []

    def begins(jobs: Sequence[Job]) -> None:
        names.extend(job.name for job in jobs)

    return study.run(lambda job, share: None, begins), names


def measured(study: StudyRun) -> list[tuple[object, object]]:
    rows = MetricsLog(study.folder / TABLE).rows()
    return sorted((row["network"], row["version"]) for row in rows if "seconds" not in row)


def test_a_study_is_carried_out_once_and_then_left_alone(tmp_path):
    study = StudyRun(study=TinyStudy(), scale="smoke", into=tmp_path, jobs=2)
    found, names = carried_out(study)
    assert sorted(names) == ["one", "other", "weighing one@8", "weighing other@8"]
    assert measured(study) == sorted(ROWS)
    assert found.claims[0].found == str(len(ROWS))
    assert found.networks == tuple(
        Trained(name=name, updates=8, planned=8, seed=0) for name in ("one", "other")
    )
    assert StudyResult.load(study.folder / RESULT) == found
    again, names = carried_out(study)
    assert names == []
    assert again.claims == found.claims
    alone = train(TinyStudy().networks("smoke")["one"], tmp_path / "alone").network
    kept = trained_network(RunDirectory(study.network_folder("one")))
    assert_same_bits(weights_of(kept), weights_of(alone))


def test_a_part_of_the_updates_and_of_the_networks_and_then_the_rest(tmp_path):
    whole = StudyRun(study=TinyStudy(), scale="smoke", into=tmp_path, jobs=2)
    part = replace(whole, only=("one",), until=4)
    found, names = carried_out(part)
    assert names == ["one", "weighing one@4"]
    assert found.networks == (Trained(name="one", updates=4, planned=8, seed=0),)
    assert "--only one --until 4" in found.provenance.command
    everything, names = carried_out(whole)
    assert sorted(names) == ["one", "other", "weighing one@8", "weighing other@8"]
    assert everything.claims[0].found == str(len(ROWS))  # those of one@4 are not counted again
    other, names = carried_out(replace(whole, only=("other",)))
    assert (names, other.claims[0].found) == ([], "3")


def test_after_a_failure_only_what_is_missing_is_done(tmp_path):
    obstacle = tmp_path / "obstacle"
    obstacle.touch()
    study = StudyRun(study=TinyStudy(obstacle=obstacle), scale="smoke", into=tmp_path / "s")
    with pytest.raises(ConfigError, match="it must not be so"):
        carried_out(study)
    obstacle.unlink()
    _, names = carried_out(study)
    assert names == ["weighing one@8", "weighing other@8"]
    assert measured(study) == sorted(ROWS)


def test_another_network_under_the_same_name_is_refused(tmp_path):
    study = StudyRun(study=TinyStudy(), scale="smoke", into=tmp_path, only=("other",))
    carried_out(study)
    with pytest.raises(ConfigError, match="holds a network with other settings"):
        carried_out(replace(study, study=TinyStudy(seed=1)))


def test_an_unknown_network_is_refused():
    with pytest.raises(ConfigError, match="must be among one, other; got third"):
        StudyRun(study=TinyStudy(), scale="smoke", into=Path("nowhere"), only=("third",))


def test_a_stop_while_the_duration_is_estimated_names_no_run_that_is_gone(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise Interrupted(signal.SIGINT, 2, tmp_path / "gone")

    monkeypatch.setattr(runner, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        StudyRun(study=TinyStudy(), scale="short", into=tmp_path).forecast()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_the_network_of_a_study_is_the_one_that_its_run_stores(study: Study, scale: Scale) -> None:
    """Else a second call of the study would take the run for another network's."""
    data = PaperCNN.image_shape, PaperCNN.num_classes
    for config in study.networks(scale).values():
        model: Any = config.model
        assert model.fitted(*data) == model
