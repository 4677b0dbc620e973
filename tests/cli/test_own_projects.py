"""Networks of the user's own by real processes: the command, `python -m`, workers, transfer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparring.cli.main import main

NETS = """
from layers import head
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.head = head(width)

    def forward(self, images):
        from parts import sign
        return sign.SIGN * self.head(images.flatten(1))
"""
LAYERS = """
from torch import nn

def head(width):
    return nn.Sequential(nn.Linear(784, width), nn.{0}(), nn.Linear(width, 10))
"""
QUICK = [
    *("--updates", "2", "--steps", "1", "--threads", "1", "--set", "batch_size=8"),
    *("--set", "validation.images=8", "--set", "validation.steps=1"),
]
EVALUATE = ["--images", "4", "--no-checks", "--threads", "1", "--json"]

pytestmark = pytest.mark.process


def project(folder: Path, activation: str, sign: int) -> Path:
    """A project, and a file that breaks every process that takes it for the installed module."""
    (folder / "parts").mkdir(parents=True)
    (folder / "nets.py").write_text(NETS)
    (folder / "layers.py").write_text(LAYERS.replace("{0}", activation))
    (folder / "parts" / "sign.py").write_text(f"SIGN = {sign}\n")
    (folder / "safetensors.py").write_text("raise SystemExit('the wrong safetensors')\n")
    return folder


@pytest.fixture(scope="module")
def launchers(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """`python -m sparring`, and a script in a folder of its own, as the installed command is."""
    script = tmp_path_factory.mktemp("bin") / "command"
    script.write_text("from sparring.cli.main import main\nraise SystemExit(main())\n")
    return [[sys.executable, "-m", "sparring"], [sys.executable, str(script)]]


def done(words: list[str], folder: Path) -> str:
    return printed(words, folder)[0]


def printed(words: list[str], folder: Path) -> tuple[str, str]:
    """Standard output and standard error of a command that succeeds."""
    ended = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


@pytest.mark.parametrize(
    ("first", "model"),
    [(0, "nets.py:Net"), pytest.param(1, "nets:Net", marks=pytest.mark.slow)],
)
def test_what_one_command_trains_the_other_evaluates_from_elsewhere(
    tmp_path, launchers, first, model
):
    home = project(tmp_path / "home", "ReLU", 1)
    words = [*launchers[first], "train", "--model", model, "--out", str(tmp_path / "run"), *QUICK]
    done([*words, "--model-args", "width=5"], home)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model"]["factory"] == f"{home.resolve()}/nets.py:Net"
    elsewhere = project(tmp_path / "elsewhere", "Tanh", -1)
    command = [*launchers[1 - first], "evaluate", str(tmp_path / "run"), *EVALUATE]
    assert json.loads(done(command, elsewhere))["num_images"] == 4


def test_what_workers_print_does_not_break_json(tmp_path, launchers):
    home = project(tmp_path / "home", "ReLU", 1)
    talking = NETS.replace(
        "    def forward",
        """    def forward(self, images):
        import os
        print("attacked by", os.getpid())
        return self.answer(images)

    def answer""",
    )
    (home / "nets.py").write_text(talking)
    words = ["train", "--model", "nets.py:Net", "--source", "async", "--workers", "1", "--json"]
    words += ["--set", "source.helps=false"]
    out, err = printed([*launchers[0], *words, *QUICK], home)
    assert json.loads(out)["updates"] == 2
    lines = {line for line in err.splitlines() if line.startswith("attacked by ")}
    assert len(lines) == 2  # the trainer and its worker


def test_workers_find_what_is_beside_the_file(tmp_path, launchers):
    home = project(tmp_path / "home", "ReLU", 1)
    words = ["train", "--model", "nets:Net", "--out", "run", "--source", "async"]
    done([*launchers[1], *words, "--workers", "1", *QUICK], home)


def test_runs_of_two_projects_are_compared_as_they_are(tmp_path, monkeypatch, capsys):
    found = {}
    for name, activation, sign in (("one", "ReLU", 1), ("two", "Tanh", -1)):
        monkeypatch.chdir(project(tmp_path / name, activation, sign))
        run = str(tmp_path / f"run-{name}")
        assert main(["train", "--model", "nets.py:Net", "--out", run, *QUICK]) == 0
        capsys.readouterr()
        assert main(["predict", run, "--test", "40", "--json"]) == 0
        found[run] = json.loads(capsys.readouterr().out)["found"]
    alone = [sum(one["top"][0]["name"] == one["true"] for one in each) for each in found.values()]
    out = str(tmp_path / "out")
    words = ["transfer", *found, "--steps", "1", "--images", "40", "--out", out, "--json"]
    assert main(words) == 0
    together = json.loads(capsys.readouterr().out)
    assert [natural["successes"] for natural in together["natural"]] == alone


def test_a_folder_that_is_gone_is_no_obstacle(tmp_path, launchers):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os, runpy, sys; os.rmdir({str(gone)!r}); sys.argv = ['x', '--version']; "
    code += "runpy.run_module('sparring', run_name='__main__', alter_sys=True)"
    assert done([sys.executable, "-P", "-c", code], gone).startswith("sparring ")
