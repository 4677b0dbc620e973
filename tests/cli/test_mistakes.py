"""Whatever is wrong with a command is told in one sentence, and nothing is written."""

import json
import os
from pathlib import Path

import pytest

from sparring.cli.main import main
from sparring.errors import ConfigError
from sparring.records import to_json
from sparring.records.custom import Custom
from sparring.training.presets import fast

EMPTY_RUN, STALE_FILE = "a-run", "settings.json"

MISTAKES = {
    "trian": "got trian. Did you mean train?",
    "xyz": "got xyz. See sparring --help.",
    "train --preset fsat": 'got "fsat". Did you mean fast?',
    "train --preset ''": "--preset must be one of fast",
    "train --sed 3": "has no flag --sed. Did you mean --seed?",
    "train --learning-rate 3": "Did you mean --lr?",
    "train --bs 3": "Did you mean --batch-size?",
    "train --set lr=3": "Did you mean optimizer.learning_rate?",
    "evaluate --lr 3": "has no flag --lr. See sparring evaluate --help.",
    "train --sed=3": "has no flag --sed. Did you mean --seed?",
    "train --batchsize 3": "Did you mean --batch-size?",
    "train -s 3": "has no flag -s.",
    "train fast": "no word beside its flags; got fast.",
    "train --dry-run=yes": "no word beside its flags; got yes.",
    "train --seed": "--seed must be followed by its value; got nothing.",
    "train --seed --json": "--seed must be followed by its value; got --json.",
    "train --dry_run --seed": "--seed must be followed by its value; got nothing.",
    "train --seed x": '--seed must be an integer; got "x".',
    "train --seed 1.5": '--seed must be an integer; got "1.5".',
    "train --seed None": '--seed must be an integer; got "None".',
    "train --source async --policy sharded": "policy sharded needs a number of workers",
    "train --seed -1": "seed must be 0 or more",
    "train --updates 6 --set updates=3": "got --updates 6 and --set updates=3. Leave one",
    "train --seed 0 --set seed=3": "seed must be given once",
    "train --init a-run": "a-run is a folder. Name the file of weights in it",
    "predict a-run --test 0": "--test must be 1 or more; got 0.",
    "train --updates 0": "updates must be 1 or more",
    "train --eps 0": "eps must lie in (0, 1]",
    "train --eps 2": "Did you mean 2/255?",
    "train --eps 8/0": "eps must be a number such as 0.3 or 8/255; got 8/0.",
    "train --eps nan": "eps must be a number",
    "train --eps -0.1": "eps must lie in (0, 1]",
    "train --steps -1": "steps must be 0 or more; got -1",
    "train --source stal": 'fresh, stale, reused, async; got "stal". Did you mean stale?',
    "train --staleness 3": "staleness needs the source stale",
    "train --source fresh --staleness 3": "staleness needs the source stale",
    "train --workers 2": "workers needs the source async",
    "train --source stale --workers 2": "workers needs the source async",
    "train --source stale --staleness 3 --workers 2": "workers needs the source async",
    "train --source async --staleness 3": "staleness needs the source stale",
    "train --source async --workers -1": "workers must be 0 or more",
    "train --lag 2": "lag needs the source async",
    "train --policy sync": "policy needs the source async",
    "train --source async --policy fixedlag": "Did you mean fixed-lag?",
    "train --source async --policy sync --lag 2": "lag needs the policy fixed-lag",
    "train --source async --policy sync --publish-every 9": "needs the policy fixed-lag or newest",
    "train --source async --lag -1": "lag must be 0 or more",
    "train --source async --publish-every 0": "period must be 1 or more",
    "train --source async --set source.policy.split=500": "source.policy.split must be at most",
    "train --source async --set source.patience=0": "source.patience must lie in (0, inf]",
    "train --source async --set attack.restarts=2": "source.fresh_steps must be 0 if",
    "bench attack": "the subject must be one of engine; got attack.",
    "bench engine --devices 0": "--devices must be 1 or more; got 0.",
    "bench engine --soak 3": "--soak must be 100 or more; got 3.",
    "plan --devices 0": "--devices must be 1 or more; got 0.",
    "plan --devices 100000": "a plan is for at most 10,000 devices",
    "plan --kappa 0": "--kappa must be 1 or more; got 0.",
    "plan --attack-ms 0": "--attack-ms must be finite and above 0; got 0.",
    "plan --update-ms inf": "--update-ms must be a number",
    "plan --latency-us -1": "--latency-us must lie in [0, inf); got -1.",
    "plan --price 1e308 --json": "--price must lie in [0, 1e9]; got 1e+308.",
    "plan --attack-ms 1e10": "--attack-ms must lie in [0, 1e9]; got 1e+10.",
    "plan --price nan": "--price must be a number",
    "plan --slow 0.6": "--slow must lie in [0, 0.5]; got 0.6.",
    "plan --allreduce-ms 3 --weights-mb 9": "--allreduce-ms and --weights-mb exclude each other",
    "plan --restart-s 3": "--restart-s needs --mtbf-hours",
    "plan a-run": "Try: sparring plan --calibrate a-run",
    "plan --calibrate a-rum": "Did you mean a-run?",
    "plan --calibrate a-run": "a run must have more than 5 updates with attacks",
    "plan --calibrate a-run --kappa 3": "--kappa and the run a-run exclude each other",
    "train --source stale --staleness -1": "staleness must be 0 or more",
    "train --precision bf61": "Did you mean bf16?",
    "train --threads -1": "threads must be 0 or more",
    "train --scaling none": "scaling needs several trainers",
    "train --scaling lin": '--scaling must be one of linear, none; got "lin"',
    "train --set trainers=0": "trainers must be 1 or more",
    "train --set trainers=2": "torchrun --nproc-per-node 2 -m sparring train",
    "train --set trainers=3": "batch_size must be a multiple of trainers",
    "train --set batch_siz=3": "Did you mean batch_size?",
    "train --set steps=3": "Did you mean attack.steps?",
    "train --set batch_size": "--set must be followed by name=value",
    "train --set data=mnits": "Did you mean mnist?",
    "train --set device=gpu9": "device 'gpu9' cannot be used",
    "train --out ''": "--out must be a path",
    "train --out a-run": "a new run needs an empty folder",
    "train --out settings.json": "cannot create the run directory",
    "train --out settings.json/run": "cannot create the run directory",
    "train --config nowhere.json": "cannot read nowhere.json",
    "train --config unknown.json": "unknown.json: batch_siz is not a setting of TrainConfig",
    "train --config torn.json": "torn.json must hold JSON",
    "train --config list.json": "list.json: the whole must be an object",
    "train --config settings.json --preset fast": "--preset and --config exclude each other",
    "train --resume nowhere": "nowhere does not exist",
    "train --resume a-rum": "Did you mean a-run?",
    "train --resume a-run --seed 1": "got --seed.",
    "train --resume a-run --eps 0.1 --set seed=2": "got --eps, --set.",
    "train --resume a-run --dry-run": "got --dry-run.",
    "evaluate": "there is no folder runs here",
    "evaluate nowhere": "nowhere does not exist",
    "evaluate a-run b-run": "one word, RUN, beside its flags; got a-run b-run.",
    "evaluate a-run --suite pdg": 'got "pdg". Did you mean pgd?',
    "evaluate a-run --images 0": "number of images",
    "evaluate a-run --images x": '--images must be an integer; got "x".',
    "evaluate a-run": "stopped before its first checkpoint?",
    "evaluate a-run --sute pgd": "Did you mean --suite?",
    "inspect": "there is no folder runs here",
    "inspect nowhere": "nowhere does not exist",
    **{
        f"{verb} ''": f"the words of sparring {verb} must not be empty; got ''. Is a variable"
        for verb in ("data", "evaluate", "export", "inspect", "plan", "predict", "replay", "report")
    },
    "transfer a-run ''": "the words of sparring transfer must not be empty; got a-run ''.",
    "inspect --jsno": "Did you mean --json?",
    "inspect settings.json": "has no config.json",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run that never began and some files to trip over."""
    monkeypatch.chdir(tmp_path)
    settings = to_json(fast())
    (tmp_path / EMPTY_RUN).mkdir()
    for name in (f"{EMPTY_RUN}/config.json", "settings.json"):
        (tmp_path / name).write_text(json.dumps(settings))
    (tmp_path / "unknown.json").write_text(json.dumps({**settings, "batch_siz": 3}))
    (tmp_path / "torn.json").write_text(json.dumps(settings)[:50])
    (tmp_path / "list.json").write_text("[]")
    return tmp_path


def listing(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_one_sentence_and_writes_nothing(line, here, capsys):
    before = listing(here)
    assert main([word.replace("''", "") for word in line.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("error:") == 1
    assert shown.err.count("\n") == 1
    assert MISTAKES[line] in shown.err
    assert listing(here) == before


OWN = """
def attack(model, images, labels, *, threat): return images
def schedule(share): return 1.0
def objective(batch): return 0.0
def sink(kind, row): pass
"""


@pytest.mark.parametrize(
    ("setting", "needs"),
    [
        ("attack", "model, images, labels and 1 more"),
        ("schedule", "share"),
        ("objective", "batch"),
        ("sink", "kind, row"),
    ],
)
def test_an_object_in_place_of_what_returns_it_is_told(setting, needs, here, capsys):
    (here / "own.py").write_text(OWN)
    assert main(["train", f"--{setting}", f"own.py:{setting}"]) == 2
    told = capsys.readouterr().err
    rule = "must be a class or a function that returns the object; got one that also needs"
    assert f"own.py:{setting} {rule} {needs}. " in told
    assert "write a function without arguments that returns it" in told
    assert not (here / "runs").exists()


def test_where_own_code_failed_is_for_the_command_line_to_show(here, capsys):
    (here / "failing.py").write_text("def optimizer(weights): raise OSError('no room')\n")
    words = ["--optimizer", "failing.py:optimizer"]
    assert main(["train", *words]) == 2
    assert capsys.readouterr().err.endswith("failed: OSError: no room. --debug shows where.\n")
    with pytest.raises(ConfigError, match=r"failed: OSError: no room\.$"):
        Custom(factory="failing.py:optimizer").call([])


def test_several_wrong_settings_are_told_one_a_line(here, capsys):
    (here / "both.json").write_text(json.dumps({"sed": 1, "updatse": 2}))
    assert main(["train", "--config", "both.json"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("mean ")[2] for line in lines] == ["seed?", "updates?"]


def test_a_file_in_place_of_the_folder_of_runs_is_told(here, capsys):
    (here / "runs").touch()
    assert main(["train", "--updates", "1"]) == 2
    assert "a file of this name is in the way" in capsys.readouterr().err
    assert (here / "runs").read_bytes() == b""


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_told(here, capsys):
    (here / "closed").mkdir(mode=0o500)
    assert main(["train", "--out", "closed/run"]) == 2
    assert "permission was denied" in capsys.readouterr().err


def test_a_folder_that_was_there_before_outlives_a_mistake(here, capsys):
    (here / "runs").mkdir()
    assert main(["train", "--set", "data=mnits"]) == 2
    assert (here / "runs").is_dir()
    assert capsys.readouterr().err.startswith("error: ")
