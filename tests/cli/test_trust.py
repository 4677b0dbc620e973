"""Code that a run names runs for its own user on its own machine; elsewhere only with consent."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processes import finished
from sparring.cli.main import main
from sparring.errors import ConfigError
from sparring.evaluation import transfer_runs
from sparring.evaluation.run import evaluate_run
from sparring.exporting import export
from sparring.exporting.folder import exported_network
from sparring.models import Imported, Normalised, trained_network
from sparring.prediction import predict
from sparring.records import RunDirectory, projects, to_json
from sparring.records.own_code import Code, seal, unsealed
from sparring.training import Custom, replay, resume, train
from sparring.training.presets import fast
from training.small_runs import Watching, small

NETS = """
import pathlib
from torch import nn
from torch.nn.functional import cross_entropy
from sparring.training import Loss

pathlib.Path(__file__).with_name("ran").touch()

def Net():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

class Objective:
    def __call__(self, logits_of, batch):
        logits = logits_of(batch.adversarial)
        return Loss(cross_entropy(logits, batch.labels), logits.argmax(1) == batch.labels)
"""


def trained_in(folder: Path) -> Path:
    """A run with code of its user's own."""
    (folder / "nets.py").write_text(NETS)
    model = Normalised(mean=(0.5,), std=(0.5,), network=Imported(factory=f"{folder}/nets.py:Net"))
    objective = Custom(factory=f"{folder}/nets.py:Objective")
    return train(small(model=model, objective=objective, updates=1), folder / "run").run.path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of this user."""
    return trained_in(tmp_path_factory.mktemp("mine"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of another user, and the file that it names."""
    folder = tmp_path_factory.mktemp("theirs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        trained_in(folder)
    return folder


@pytest.fixture
def ran(theirs: Path) -> Path:
    """Exists once the other user's file is imported, as if by a new process."""
    for name in [name for name in sys.modules if name.startswith(f"{projects.__name__}._")]:
        del sys.modules[name]
    marker = theirs / "ran"
    marker.unlink(missing_ok=True)
    return marker


@pytest.fixture
def foreign(theirs: Path, tmp_path: Path) -> Path:
    """The other user's run, as it came here."""
    return Path(shutil.copytree(theirs / "run", tmp_path / "run"))


VERBS: dict[str, Callable[[Path], list[str]]] = {
    "evaluate": lambda run: [
        *("evaluate", str(run), "--images", "2", "--no-checks", "--threads", "1")
    ],
    "predict": lambda run: ["predict", str(run), "--test", "2"],
    "export": lambda run: ["export", str(run), "-o", str(run.parent / "out")],
    "replay": lambda run: ["replay", str(run)],
    "transfer": lambda run: [
        *("transfer", str(run), str(shutil.copytree(run, run.parent / "twin"))),
        *("--steps", "1", "--images", "2", "--out", str(run.parent / "out")),
    ],
    "resume": lambda run: ["train", "--resume", str(run)],
    "train by the run": lambda run: ["train", "--config", str(run), "--dry-run"],
    "train by its file": lambda run: ["train", "--config", str(run / "config.json"), "--dry-run"],
}


def state_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("verb", VERBS)
def test_code_of_a_foreign_run_runs_only_with_consent(theirs, foreign, ran, verb, capsys):
    words = VERBS[verb](foreign)
    before = state_of(foreign.parent)
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for needed in ("config.json", "Net", str(theirs / "nets.py"), "--trust-code"):
        assert needed in message
    assert state_of(foreign.parent) == before
    assert not ran.exists()
    assert main([*words, "--trust-code"]) == 0
    assert ran.exists()


@pytest.mark.parametrize("words", [["inspect"], ["inspect", "--json"], ["report"]])
def test_to_look_at_a_foreign_run_runs_nothing(foreign, ran, words, monkeypatch):
    monkeypatch.chdir(foreign.parent)
    assert main([*words, str(foreign)]) == 0
    assert not ran.exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_of_this_user_needs_no_consent_wherever_it_is_moved(trained, tmp_path, verb):
    moved = Path(shutil.copytree(trained, tmp_path / "elsewhere" / "run"))
    assert main(VERBS[verb](moved)) == 0


def twin(run: RunDirectory) -> RunDirectory:
    path = run.path.with_name("twin")
    return RunDirectory(Path(shutil.copytree(run.path, path, dirs_exist_ok=True)))


IN_PYTHON: dict[str, Callable[..., object]] = {
    "trained_network": trained_network,
    "evaluate_run": lambda run, **more: evaluate_run(run, num_images=2, checks=False, **more),
    "predict": lambda run, **more: predict(run, test=2, **more),
    "export": lambda run, **more: export(run, run.path.parent / "out", **more),
    "transfer_runs": lambda run, **more: transfer_runs(
        [run, twin(run)], run.path.parent / "out", steps=(1,), num_images=2, **more
    ),
    "resume": lambda run, **more: resume(run.path, **more),
    "replay": lambda run, **more: replay(run.path, **more),
}


@pytest.mark.parametrize("ask", IN_PYTHON.values(), ids=IN_PYTHON)
def test_the_same_holds_in_python(foreign, ran, ask):
    with pytest.raises(ConfigError, match="trust_code=True"):
        ask(RunDirectory(foreign))
    assert not ran.exists()
    ask(RunDirectory(foreign), trust_code=True)
    assert ran.exists()


def test_a_bundle_is_trusted_as_its_run_is(trained, foreign, tmp_path):
    export(trained, tmp_path / "mine")
    exported_network(tmp_path / "mine")
    export(foreign, tmp_path / "theirs", trust_code=True)
    with pytest.raises(ConfigError, match=r"model.json names code .* --trust-code"):
        exported_network(tmp_path / "theirs")
    exported_network(tmp_path / "theirs", trust_code=True)


@pytest.mark.parametrize("changed", ["factory", "arguments", "objective"])
def test_a_run_whose_code_was_changed_is_foreign(trained, tmp_path, changed):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    if changed == "factory":
        config["model"]["network"]["factory"] += "2"
    elif changed == "arguments":
        config["model"]["network"]["arguments"] = ["width=3"]
    else:
        config["objective"]["arguments"] = ["width=3"]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="--trust-code"):
        resume(run)


def test_a_run_of_another_user_is_foreign(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="--trust-code"):
        trained_network(RunDirectory(trained))
    assert not list(tmp_path.iterdir()), "nothing is kept of what was only looked at"


def test_code_of_settings_that_a_flag_replaces_needs_no_consent(foreign, ran):
    words = ["train", "--config", str(foreign), "--dry-run", "--model", "paper"]
    assert main(words) == 2  # there is still the objective
    assert main([*words, "--objective", "adversarial"]) == 0
    assert not ran.exists()


def test_other_arguments_make_foreign_code_no_code_of_ones_own(trained, foreign, ran):
    arguments = ["--set", 'model.network.arguments=["bias=true"]']
    objective = ["--objective", "adversarial", "--dry-run"]
    assert main(["train", "--config", str(foreign), *arguments, *objective]) == 2
    assert not ran.exists()
    own = ["train", "--config", str(trained), "--set", "model.network.arguments=[]", *objective]
    assert main(own) == 0


@pytest.mark.parametrize("place", ["threat", "threat and attack"])
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--eps", "0.2"],
        ["--threat", "linf", "--eps", "0.3"],
        ["--steps", "3"],
        ["--threat", "linf", "--attack", "pgd"],
    ],
)
def test_a_foreign_threat_does_not_run_to_be_replaced(place, words, tmp_path):
    """In a process without the tests' checks of types, which ask a threat for its size."""
    marker, code = tmp_path / "ran", tmp_path / "foreign.py"
    code.write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    named = {"kind": "CustomThreat", "factory": f"{code}:Darker"}
    settings: Any = to_json(fast())
    settings["attack"]["threat"] = settings["threat"] = named
    if place == "threat":
        settings["attack"] = {"kind": "Custom", "factory": f"{code}:attack"}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    program = "import sys; from sparring.cli.main import main; sys.exit(main(sys.argv[1:]))"
    file = tmp_path / "settings.json"
    done = finished(program, "train", "--config", file, "--dry-run", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "names code that would run" in done.stderr
    assert not marker.exists()


def test_consent_that_is_about_nothing_is_refused(capsys):
    assert main(["train", "--dry-run", "--trust-code"]) == 2
    assert "--trust-code needs --config or --resume" in capsys.readouterr().err


STANDARD = [
    ("os:system", "command=touch {}"),
    ("os.path:exists", "path={}"),
    ("subprocess:run", 'args=["touch","{}"]'),
    ("builtins:eval", "source=1"),
    ("shutil:rmtree", "path={}"),
    ("importlib:import_module", "name=theirs"),
    ("runpy:run_path", "path_name=theirs.py"),
    ("torch.hub:load", "repo_or_dir=theirs"),
    ("torch:load", "f={}"),
    ("sparring.cli.main:main", 'argv=["train"]'),
    ("sparring.__main__:main", "x=1"),
    (f"{os.__file__}:system", "command=touch {}"),
    (f"{shutil.__file__}:rmtree", "path={}"),
]


@pytest.mark.parametrize(("factory", "words"), STANDARD)
def test_no_name_of_the_standard_library_or_pytorch_is_ever_run(foreign, factory, words, capsys):
    victim = foreign.parent / "victim"
    config = json.loads((foreign / "config.json").read_text())
    config["model"]["network"] |= {"factory": factory, "arguments": [words.format(victim)]}
    (foreign / "config.json").write_text(json.dumps(config))
    before = state_of(foreign.parent)
    for consent in ([], ["--trust-code"]):
        assert main(["evaluate", str(foreign), "--images", "2", *consent]) == 2
        assert ("must not be" if consent else factory.rpartition(":")[2]) in capsys.readouterr().err
        assert state_of(foreign.parent) == before


@pytest.mark.parametrize("name", ["system", "evaluated", "removed", "made"])
def test_neither_are_such_names_that_a_file_passes_on(tmp_path, name):
    (tmp_path / "nets.py").write_text(
        "import functools, shutil\nfrom os import system\nfrom subprocess import run as made\n"
        "evaluated = eval\nremoved = functools.partial(shutil.rmtree, 'x')\n"
    )
    with pytest.raises(ConfigError, match="standard library"):
        Imported(factory=f"{tmp_path}/nets.py:{name}").build(0)


def test_trainings_that_begin_together_make_one_key(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    codes = (Code("nets.py:Net", ()),)
    folders = [tmp_path / str(number) for number in range(24)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda folder: seal(folder, codes), folders))
    assert all(unsealed(folder, codes) is None for folder in folders)
    assert [path.name for path in (tmp_path / "state" / "sparring").iterdir()] == ["trust.key"]


@settings(max_examples=60)
@given(text=st.one_of(st.binary(max_size=200), st.from_regex(rb'\[("[0-9a-f]{64}",?)*\]?')))
def test_no_seal_but_ones_own_is_believed(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("run")
    (folder / "trust.json").write_bytes(text)
    assert unsealed(folder, (Code("nets.py:Net", ()),)) is not None


@pytest.mark.parametrize("why", ["a file is in the way", "others may read it", "no folder"])
def test_training_goes_on_where_nothing_can_be_kept_and_says_so(tmp_path, monkeypatch, why):
    state = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    if why == "a file is in the way":
        state.write_text("")
    elif why == "no folder":
        monkeypatch.setenv("XDG_STATE_HOME", "/proc/nothing/here")
    else:
        (state / "sparring").mkdir(parents=True)
        (state / "sparring" / "trust.key").write_bytes(bytes(32))
        (state / "sparring" / "trust.key").chmod(0o644)
    (tmp_path / "nets.py").write_text(NETS)
    config = small(model=Imported(factory=f"{tmp_path}/nets.py:Net"), updates=1)
    watching = Watching()
    run = train(config, tmp_path / "run", sinks=[watching]).run
    assert any("other commands will need --trust-code" in each for each in watching.notices)
    with pytest.raises(ConfigError, match="--trust-code"):
        trained_network(run)
    trained_network(run, trust_code=True)


def test_a_key_is_made_for_code_alone_and_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    run = train(small(updates=1), tmp_path / "own").run
    assert (run.path / "trust.json").exists()
    key = tmp_path / "state" / "sparring" / "trust.key"
    assert [path for path in (tmp_path / "state").rglob("*") if path.is_file()] == [key]
    assert key.stat().st_mode & 0o777 == 0o600
    shutil.rmtree(tmp_path / "state")
    assert main(["train", "--updates", "1", "--steps", "1", "--out", "plain", *QUICK]) == 0
    assert not (tmp_path / "plain" / "trust.json").exists()
    assert not (tmp_path / "state").exists()


QUICK = [
    *("--set", "batch_size=8", "--set", "validation.every=0", "--threads", "1"),
    *("--set", "validation.images=8", "--set", "validation.steps=1"),
]
