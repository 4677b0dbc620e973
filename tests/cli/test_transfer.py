"""`sparring transfer` from its words to its tables, and what it says of wrong words."""

import json
import re
import time
from pathlib import Path

import pytest

from records.matrices import matrix_of
from sparring.cli.main import main
from sparring.cli.transfer import print_matrix
from sparring.models import save_weights
from sparring.records import RunDirectory, TransferMatrix
from training.small_runs import PAPERS, small

SMALL = ["--steps", "1", "2", "--images", "8", "--threads", "1"]

MISTAKES = {
    "": "at least two networks, because one is judged on what was made on another; got none.",
    "a": "at least two networks, because one is judged on what was made on another; got a.",
    "a a": "networks must differ",
    "a ./a": "networks must differ",
    "a nowhere": "nowhere does not exist.",
    "aa bb": "aa does not exist.",
    "a b --steps 0": "steps must be 1 or more",
    "a b --steps 8 -1": "steps must be 1 or more",
    "a b --steps x": '--steps must be integers; got "x".',
    "a b --steps 8 8": "steps must differ",
    "a b --steps": "--steps must be followed by a value or more; got nothing.",
    "a b --steps --json": "--steps must be followed by a value or more; got nothing.",
    "--steps 1 4 a b": 'got "a". Name runs before the flags: sparring transfer RUN RUN --steps',
    "a --steps 1 4 runs/b": 'got "runs/b". Name runs before the flags',
    "a b --step 1": "has no flag --step. Did you mean --steps?",
    "a b --images 0": "the number of images must lie in [1, 10000]",
    "a b --images many": '--images must be an integer; got "many".',
    "a b --threads -1": "threads must be 0 or more",
    "a b --out a": "a holds files. Choose another folder.",
    "a b --out a/config.json": "a file of this name is in the way",
    "a b --out": "--out must be followed by its value; got nothing.",
    "a untrained": "stopped before its first checkpoint?",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of networks that were never trained, and one without weights."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("a", "b", "untrained")):
        run = RunDirectory.create(folder / name)
        run.write_config(small(model=PAPERS))
        network = PAPERS.build(seed=seed)
        if name != "untrained":
            save_weights(network.state_dict(), run.weights)
    return folder


def listing(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_one_sentence_and_writes_nothing(line, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = listing(folder)
    assert main(["transfer", *line.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert MISTAKES[line] in shown.err
    assert listing(folder) == before


def test_runs_are_compared_in_tables_and_files(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda *_: "20300101-120000")
    words = [str(folder / "a"), str(folder / "b"), *SMALL]
    assert main(["transfer", *words]) == 0
    shown = capsys.readouterr()
    assert "error" not in shown.err
    lines = shown.out.splitlines()
    assert lines[0] == "PGD within Linf 0.3 on the first 8 test images"
    assert lines[-1] == f"next: sparring evaluate {folder / 'a'} --suite standard"
    out = Path("runs/transfer-20300101-120000")
    assert lines[-2].startswith(f"wrote {out}/transfer.json and transfer.svg in ")
    found = TransferMatrix.load(out / "transfer.json")
    assert (found.networks, found.steps, found.num_images) == (("a", "b"), (1, 2), 8)
    assert (out / "transfer.svg").read_text().startswith("<?xml")

    assert main(["transfer", *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == f"{out}-2"
    assert told["flags"] == []
    assert told["cells"][1][0][1]["right"] == found.cells[1][0][1].right


def test_tables_of_six_runs_with_long_names_fit_a_terminal(tmp_path, capsys):
    names = [f"a-quite-long-name-of-a-run-20300101-12000{number}" for number in range(6)]
    table = [[100] * 6 for _ in names]
    table[5][0] = 50
    found = matrix_of([table], networks=names, steps=(128,))
    print_matrix(found, [RunDirectory(Path(name)) for name in names], tmp_path)
    lines = capsys.readouterr().out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("128 steps"))
    assert max(map(len, lines[:-2])) <= 80
    assert re.split(r" +", lines[start])[-6:] == ["1", "2", "3", "4", "5", "6"]
    assert re.split(r" +", lines[start + 1])[2:] == ["*100.0", *["100.0"] * 4, "50.0"]
    assert re.split(r" +", lines[start + 6])[2:] == [*["100.0"] * 5, "*100.0"]
    said = " ".join(line.strip() for line in lines)
    assert said.count("flag: ") == 1
    assert f" flag: {names[0]} at 128 steps: the attack on {names[5]} leaves 50.0 %" in said
    assert lines[-1] == f"next: sparring evaluate {names[0]} --suite standard"


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (6, "6 images are too few to see whether an attack from elsewhere is stronger"),
        (7, "no attack from elsewhere was found to be stronger than the white-box one (sign tests"),
    ],
)
def test_too_few_images_are_not_taken_for_a_result(total, said, tmp_path, capsys):
    """Seven images that all break are the fewest by which chance is excluded: 1/128 < 0.01."""
    found = matrix_of([[[total] * 2] * 2], steps=(1,), total=total)
    print_matrix(found, [RunDirectory(Path(name)) for name in "ab"], tmp_path)
    assert said in " ".join(capsys.readouterr().out.split())


def test_more_sources_than_fit_go_into_tables_below_each_other(tmp_path, capsys):
    names = [str(number) for number in range(8)]
    found = matrix_of([[[10] * 8 for _ in names]], networks=names, steps=(1,))
    print_matrix(found, [RunDirectory(Path(name)) for name in names], tmp_path)
    lines = capsys.readouterr().out.splitlines()
    headings = [line for line in lines if line.startswith("1 step, per cent right")]
    assert [heading.split()[5:] for heading in headings] == [list("123456"), ["7", "8"]]
