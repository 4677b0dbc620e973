"""`~` at the beginning of a path is the home folder, for every file that is read or written."""

from pathlib import Path
from typing import Any

import pytest

from sparring.cli.main import main
from sparring.errors import ConfigError
from sparring.exporting import export, exported_network
from sparring.models import load_weights
from sparring.records import RunDirectory
from sparring.records.files import from_home
from sparring.report import read_story, write_page
from sparring.training import resume, train
from training.small_runs import small


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("home", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


def test_python_functions_know_the_home_folder(home: Path) -> None:
    run = train(small(updates=1), "~/runs/x").run
    assert run.path == home / "runs" / "x"
    assert resume("~/runs/x").run == RunDirectory.open("~/runs/x") == run
    exported = export("~/runs/x", "~/exported")
    assert exported.folder == home / "exported"
    network = exported_network("~/exported")
    load_weights(network, "~/exported/weights.safetensors")
    write_page([read_story("~/runs/x")], Path("~/report.html"))
    assert (home / "report.html").is_file()
    assert list(Path().iterdir()) == []


def test_commands_know_it_where_the_shell_does_not(home: Path, capsys: Any) -> None:
    words = ["--updates", "1", "--batch-size", "8", "--threads", "1", "--set", "validation.every=0"]
    assert main(["train", "--model", "small-cnn", "--out=~/x", *words]) == 0
    assert (home / "x" / "weights.safetensors").is_file()
    assert main(["report", "~/x", "-o=~/page.html"]) == 0
    assert main(["inspect", "~/x"]) == 0
    assert (home / "page.html").is_file()
    assert list(Path().iterdir()) == []
    assert main(["train", "--out", "~no-such-user/x"]) == 2
    assert "name of a user of this machine" in capsys.readouterr().err


def test_a_file_of_that_name_can_be_named(home: Path) -> None:
    assert from_home("a/~") == Path("a/~")
    assert from_home("~/a") == home / "a"
    assert from_home(home / "~") == home / "~"
    with pytest.raises(ConfigError, match="got ~no-such-user/weights"):
        train(small(updates=1, init="~no-such-user/weights.pt"), home / "run")
    assert not (home / "run").exists()
    with pytest.raises(ConfigError, match="must name a user's home folder; got ~no-such-user"):
        RunDirectory(Path("~no-such-user/x"))
