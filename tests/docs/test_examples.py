"""The examples and the notebook, run with tiny settings."""

import json
import subprocess
import sys

import pytest

from docs.blocks import ROOT, Block
from docs.running import run_command, run_page

NOTEBOOK = ROOT / "examples" / "robustness.ipynb"
TINY = "UPDATES, WIDTH, IMAGES = 300, 16, 500"


@pytest.mark.parametrize(
    "words",
    [
        ["examples/own_model.py", "--updates", "2", "--images", "12"],
        ["examples/own_objective.py", "--updates", "2", "--images", "12", "--width", "2"],
    ],
    ids=lambda words: words[0],
)
def test_an_example_trains_and_says_how_robust_it_is(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = run_command(["python", *words], words[0])
    assert "natural accuracy" in said
    assert "suite pgd" in said


@pytest.mark.process
@pytest.mark.parametrize(
    "name", ["own_loop", pytest.param("lightning_loop", marks=pytest.mark.slow)]
)
def test_a_loop_of_ones_own_trains_on_batches_that_a_loader_makes(name, tmp_path):
    """In a process of its own: workers import the script."""
    words = [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--updates", "3"]
    done = subprocess.run([*words, "--images", "12"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "natural accuracy" in done.stdout
    assert "suite pgd" in done.stdout


def test_the_notebook_runs_and_keeps_no_outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    programs = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in programs)
    assert TINY in programs[0]["source"][-1]
    blocks = [
        Block(
            page=NOTEBOOK,
            line=number,
            language="python",
            text="".join(cell["source"]).replace(TINY, "UPDATES, WIDTH, IMAGES = 2, 2, 12"),
        )
        for number, cell in enumerate(programs, 1)
    ]
    assert len(run_page(blocks)["run"]) == len(programs)
