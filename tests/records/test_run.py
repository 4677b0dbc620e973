"""Run directories: made empty, found again, read section by section."""

import errno
import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sparring.errors import ConfigError, RunError
from sparring.records import RunDirectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    steps: int = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Stale:
    staleness: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    data: str = "mnist"
    attack: Attack = field(default_factory=Attack)
    source: Fresh | Stale = field(default_factory=Stale)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory.create(tmp_path / "runs" / "a")
    run.write_config(Config())
    return run


def test_a_run_is_created_with_the_folders_above_it_and_opened_again(run: RunDirectory) -> None:
    assert RunDirectory.open(str(run.path)) == run


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_anything_is_refused_untouched(run: RunDirectory) -> None:
    before = run.config.read_text()
    with pytest.raises(RunError, match="empty folder"):
        RunDirectory.create(run.path)
    assert run.config.read_text() == before


def test_a_run_cannot_be_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(RunError, match="cannot create"):
            RunDirectory.create(path)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_to_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(RunError, match="cannot write into the run directory"):
        RunDirectory.create(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_folder_is_a_run_error(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(RunError, match="permission was denied"):
        RunDirectory.create(tmp_path / "new")


def test_a_missing_run_is_refused_with_the_nearest_one(run: RunDirectory) -> None:
    beside = run.path.with_name("A")
    with pytest.raises(RunError, match=r"does not exist\. Did you mean .*/runs/a\?"):
        RunDirectory.open(beside)


def test_a_folder_without_settings_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(RunError, match=r"config\.json"):
            RunDirectory.open(path)


def test_a_section_is_read_without_knowing_the_others(run: RunDirectory) -> None:
    assert run.section("data", str) == "mnist"
    assert run.section("attack", Attack) == Attack()
    assert run.section("source", Fresh | Stale) == Stale()


def test_a_missing_section_is_refused_with_the_nearest_one(run: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=r"it holds data, attack, source\. Did you mean attack\?"):
        run.section("atack", Attack)


def test_a_mistake_in_a_section_is_named_by_file_and_place(run: RunDirectory) -> None:
    run.config.write_text('{"attack": {"steps": "x", "step": 1}}')
    with pytest.raises(ConfigError) as error:
        run.section("attack", Attack)
    assert f'{run.config}: attack.steps must be an integer; got "x".' in str(error.value)
    assert "Did you mean attack.steps?" in str(error.value)


@pytest.mark.parametrize("content", ["[1]", "{", "null"])
def test_a_damaged_config_is_a_run_error(run: RunDirectory, content: str) -> None:
    run.config.write_text(content)
    with pytest.raises(RunError):
        run.section("data", str)


@pytest.mark.parametrize("count", [0, -3, 10**12])
def test_a_number_of_updates_that_no_run_has_is_refused(run: RunDirectory, count: int) -> None:
    run.config.write_text(f'{{"updates": {count}}}')
    with pytest.raises(ConfigError, match=r"updates in .*/config\.json must be .* (more|less)"):
        print(run.updates)


def test_only_files_that_a_run_wrote_are_its_snapshots(run: RunDirectory) -> None:
    run.snapshot(0).parent.mkdir()
    foreign = ("._00000004", "copy of 00000004", "4", "0000000\u0664", "00000004 (1)")
    for name in (*foreign, "00000004", "100000000"):
        (run.snapshot(0).parent / f"{name}.safetensors").touch()
    assert run.snapshots() == [4, 100_000_000]


def test_the_latest_run_is_the_one_whose_settings_were_written_last(run: RunDirectory) -> None:
    parent = run.path.parent
    for name, seconds in (("b", 300), ("c", 200)):
        other = RunDirectory.create(parent / name)
        other.write_config(Config())
        os.utime(other.config, (seconds, seconds))
    os.utime(run.config, (100, 100))
    (parent / "no run").mkdir()
    assert RunDirectory.latest(parent).path.name == "b"


def test_a_folder_without_runs_has_no_latest(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds none"):
        RunDirectory.latest(tmp_path)
    with pytest.raises(RunError, match="cannot look for runs"):
        RunDirectory.latest(tmp_path / "missing")


def test_every_file_of_a_run_lies_in_its_folder(run: RunDirectory) -> None:
    files = [run.config, run.environment, run.metrics, run.weights, run.resume]
    files += [run.evaluation, run.outcomes, run.examples]
    assert {file.parent for file in files} == {run.path}
    assert [file.name for file in files] == [
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "weights.safetensors",
        "resume.pt",
        "evaluation.json",
        "outcomes.json",
        "examples.json",
    ]
