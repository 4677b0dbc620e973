"""What an environment says, and what it keeps to itself."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from sparring.records import Environment, describe, from_json, to_json
from sparring.records.environment import _commit
from sparring.records.text import hardware_text


def here() -> Environment:
    return describe(threads=2, device="cpu", precision="bf16")


def test_it_says_what_the_caller_and_the_machine_know() -> None:
    environment = here()
    assert (environment.threads, environment.device, environment.precision) == (2, "cpu", "bf16")
    assert environment.python == platform.python_version()
    assert 1 <= environment.cores <= (os.cpu_count() or 1)
    assert environment.memory_bytes > 2**20
    assert all(getattr(environment, field.name) != "" for field in fields(environment))
    assert from_json(Environment, to_json(environment)) == environment


def test_it_names_no_host_no_user_and_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "HOSTNAME", "HOME"):
        monkeypatch.setenv(name, "/somebody")
    monkeypatch.setattr(platform, "node", lambda: "somebody")
    text = json.dumps(to_json(here()))
    assert "somebody" not in text
    assert all(part not in text for part in (str(Path.home()), str(Path.cwd()), sys.prefix))
    assert '"/' not in text


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_checkout_and_says_if_it_was_changed(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert _commit(tmp_path) is None
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "First")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert _commit(tmp_path) == head
    (tmp_path / "file").write_text("b")
    assert _commit(tmp_path) == f"{head}-dirty"


def test_a_checkout_further_up_is_another_project(tmp_path: Path) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "First")
    (tmp_path / "installed").mkdir()
    assert _commit(tmp_path / "installed") is None


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _commit(tmp_path) is None


def test_reading_records_needs_no_torch() -> None:
    script = "import sys, sparring.records; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_hardware_is_shown_without_names_of_the_code() -> None:
    where = describe(
        threads=1, device="cpu", precision="bf16 shadow, channels-last, then fp32 direct"
    )
    assert ", 1 thread, bf16, then fp32, torch " in hardware_text(where)
