"""Finding a verb, the pages of help, and what a process exits with."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparring.cli.inspect import STRONGEST
from sparring.cli.main import VERBS, _interrupt, main
from sparring.evaluation import SUITES
from sparring.records import RunDirectory
from sparring.training import adapting
from sparring.training.presets import PRESETS

FLAGS = {
    "train": "preset config out resume seed updates epochs batch-size lr optimizer momentum "
    "weight-decay schedule augmentation data channels model model-args mean std init attack "
    "objective threat eps steps source staleness workers transport ray-address policy lag "
    "publish-every scaling precision device threads sink set dry-run trust-code json",
    "data": "image-size channels data-memory json",
    "evaluate": "suite images data classes threat eps model init model-args mean std set out "
    "save-adversarial seed device threads batch-size precision no-checks trust-code json",
    "predict": "test attack seed resize threads batch-size trust-code json",
    "export": "to out trust-code json",
    "transfer": "steps images seed threads out trust-code json",
    "study": "scale only until jobs into",
    "report": "out",
    "bench": "devices steps step-ms soak json",
    "plan": "devices kappa attack-ms update-ms batch allreduce-ms weights-mb bandwidth-gbit "
    "latency-us max-staleness fresh-steps publish-every max-trainers slow mtbf-hours restart-s "
    "price trainer-waits calibrate seed json",
    "inspect": "json",
    "replay": "trust-code json",
}


WORDS = {
    "train": "",
    "data": "PATH ",
    "predict": "RUN [IMAGE ...] ",
    "transfer": "RUN RUN ... ",
    "study": "[list|show|run [NAME ...]] ",
    "report": "[RUN ...] ",
    "bench": "[engine] ",
}
"""Words between verb and flags in the usage line; `[RUN]` for other verbs."""
NEEDING_WORDS = ("data", "predict", "transfer", "study")


def page(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_without_a_verb_the_help_names_every_verb(words, capsys):
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)
    assert "sparring train" in shown


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"sparring \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_fits_a_screen_and_gives_examples(verb, capsys):
    lines = page(verb, capsys).splitlines()
    assert len(lines) <= {"train": 60, "evaluate": 50}.get(verb, 40)
    assert max(map(len, lines)) <= 80
    assert lines[0] == f"usage: sparring {verb} {WORDS.get(verb, '[RUN] ')}[--FLAG ...]"
    examples = lines[lines.index("examples:") + 1 :]
    assert examples[0].startswith(f"  sparring {verb}")
    assert (examples[0] == f"  sparring {verb}") == (verb not in NEEDING_WORDS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_these_flags_and_no_others(verb, capsys):
    listed = re.findall(
        r"^  (?:-h, |-o [A-Z]+, )?--([a-z-]+)", page(verb, capsys), flags=re.MULTILINE
    )
    assert listed == ["help", *FLAGS[verb].split()]


NAMED = (PRESETS, adapting.MODELS, adapting.OBJECTIVES, adapting.OPTIMIZERS, adapting.SCHEDULES)
NAMED += (adapting.AUGMENTATIONS, adapting.ATTACKS, adapting.NORMS, adapting.SOURCES)
NAMED += (adapting.POLICIES, adapting.TRANSPORTS)


def test_the_help_names_all_that_can_be_chosen_by_name(capsys):
    train, evaluate = (page(verb, capsys) for verb in ("train", "evaluate"))
    names = [name for known in NAMED for name in known]
    assert [name for name in names if not re.search(rf"\b{name}\b", train)] == []
    assert all(re.search(rf"\b{re.escape(name)}\b", evaluate) for name in SUITES)
    assert STRONGEST in SUITES


QUICK = {
    "--help": "torch tyro rich numpy matplotlib",
    "trian": "torch tyro rich matplotlib",
    "transfer a-run": "torch matplotlib",
    "report nowhere": "torch matplotlib",
    "train --help": "torch",
    "train --sed 3": "torch",
    "evaluate --images many": "torch",
    "data": "torch",
    "plan --devices 1": "torch",
    "export --to onxx": "torch",
    "predict --tset 3": "torch",
    "predict": "torch",
    "data x --data-memory lots": "torch",
    "replay nowhere": "torch",
}
"""Commands whose answers need none of these packages."""


def test_an_answer_that_needs_no_torch_does_not_wait_for_it(tmp_path):
    code = (
        "import sys\n"
        "from sparring.cli.main import main\n"
        f"for line, unneeded in {QUICK!r}.items():\n"
        "    main(line.split())\n"
        "    if imported := set(unneeded.split()) & set(sys.modules):\n"
        "        sys.exit(f'{line}: {imported}')\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_pytorchs_threads_wait_asleep_unless_the_environment_says_how(given, spins):
    code = (
        "import os, sys; from sparring.cli.main import main; sys.argv = ['sparring', '--version'];"
        "main(); print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"
    )
    ways = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    clean = {name: value for name, value in os.environ.items() if name not in ways}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=clean | given, capture_output=True, text=True, timeout=500)
    assert done.stdout.splitlines()[1:] == [f"False {spins}"]


def test_debug_shows_where_an_error_came_from(capsys):
    assert main(["--debug", "trian"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-1].startswith("error: the first word must be one of")


def test_an_internal_error_is_not_reported_as_a_mistake_of_the_user(monkeypatch, tmp_path):
    def fail(_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(RunDirectory, "chosen", fail)
    with pytest.raises(RuntimeError, match="ours"):
        main(["inspect", str(tmp_path)])


def test_ctrl_c_before_there_is_anything_to_save_prints_one_line(monkeypatch, capsys):
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "chosen", interrupt)
    assert main(["inspect"]) == 130
    assert capsys.readouterr().err == "error: interrupted.\n"


def test_a_closed_pipe_ends_the_command_without_output(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-m", "sparring", "train", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=500) == 141


def test_ctrl_c_while_pytorch_is_imported_ends_the_process_at_once(monkeypatch, capsys) -> None:
    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", ended)
    spec = SimpleNamespace(_initializing=True)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__spec__=spec))
    with pytest.raises(SystemExit, match="130"):
        _interrupt(signal.SIGINT, None)
    assert capsys.readouterr().err == "error: interrupted.\n"
    spec._initializing = False
    with pytest.raises(KeyboardInterrupt):
        _interrupt(signal.SIGINT, None)
