"""`sparring train`: a robust classifier in a run directory, also by several processes of torchrun.

No torch is loaded before the words are checked.
"""

import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from sparring.cli.arguments import Form
from sparring.cli.console import print_ending, print_json, print_result
from sparring.cli.train_flags import DEFAULT_PRESET, TrainFlags
from sparring.errors import ConfigError, FailedElsewhere, Interrupted, NonFiniteLoss, SparringError
from sparring.records import MetricsLog, Proportion, Row, RunDirectory, run_errors, to_json
from sparring.records.run import RUNS
from sparring.records.text import counted, duration_text

ABOUT = """Train a classifier to withstand adversarial examples, into a new run directory.

examples:
  sparring train
  sparring train --preset paper --source stale --staleness 64
  sparring train --data images/ --model small-cnn --eps 8/255
  sparring train --resume runs/fast-20300101-120000 --updates 2000
  torchrun --nproc-per-node 2 -m sparring train --out runs/two"""


FORM = Form(
    verb="train",
    flags=TrainFlags,
    about=ABOUT,
    otherwise=" Settings without a flag are written --set name=value.",
)


def run(argv: list[str]) -> int:
    """Start or resume a run; return the exit code."""
    with one_voice():
        return _run(argv)


def _run(argv: list[str]) -> int:
    flags, _ = FORM.read(argv)
    if flags.resume is not None:
        _refuse_settings(flags)
        return _resume(flags, flags.resume)
    # torch takes seconds to load: after the words are known to be right.
    from sparring.cli.settings import connected, resolved
    from sparring.training import train
    from sparring.training.config import opened
    from sparring.training.preparation import prepared

    config = resolved(flags)
    if flags.dry_run:
        config = prepared(config, opened(config))
        if leads():
            print_json(json.dumps(to_json(config), indent=2, ensure_ascii=False))
        return 0
    beginning = flags.config.stem if flags.config else flags.preset or DEFAULT_PRESET
    with (
        met(),
        connected(config.source, flags.ray_address),
        _destination(flags.out, beginning) as out,
    ):
        done = train(config, out, sinks=_own_sinks(flags), progress=True)
    _print_result(done.run, done.version, done.seconds, as_json=flags.json)
    return 0


def _resume(flags: TrainFlags, run: Path) -> int:
    from sparring.cli.settings import connected_as_before

    rows = MetricsLog(RunDirectory.open(run).metrics).rows() if leads() else []
    from sparring.training import resume

    with (
        met(),
        connected_as_before(run, flags.ray_address),
    ):
        done = resume(
            run,
            sinks=_own_sinks(flags),
            progress=True,
            updates=flags.updates,
            threads=flags.threads,
            trust_code=flags.trust_code,
        )
    if leads() and not flags.json and len(MetricsLog(done.run.metrics).rows()) == len(rows):
        print_result(f"{run} was complete, with {counted(done.version, 'update')}")
        print_ending("", f"sparring evaluate {shlex.quote(str(run))}")
        return 0
    _print_result(done.run, done.version, done.seconds, as_json=flags.json)
    return 0


def _own_sinks(flags: TrainFlags) -> list[Any]:
    """Sinks of `--sink`, made by their factories."""
    from sparring.records.custom import Custom

    return [Custom(factory=name).call() for name in flags.sink]


def _refuse_settings(flags: TrainFlags) -> None:
    given = [
        "--" + field.name.replace("_", "-")
        for field in fields(flags)
        if field.name not in RESUMED and getattr(flags, field.name) != field.default
    ]
    if given:
        raise ConfigError.expected(
            "--resume keeps the run's settings, except --updates and --threads",
            ", ".join(given),
            "Leave the others out, or start a new run with "
            f"--config {shlex.quote(str(flags.resume))}",
        )


RESUMED = ("resume", "sink", "updates", "threads", "json", "ray_address", "trust_code")
"""Flags that --resume allows."""


@contextmanager
def _destination(out: Path | None, beginning: str) -> Iterator[Path]:
    """The folder for a new run; without --out, it is removed again if it stays empty.

    Of several trainers, the leader chooses.
    """
    if not leads():
        yield out or RUNS
        return
    if out is not None:
        yield out
        return
    runs_are_new = not RUNS.exists()
    made = _fresh_folder(f"{beginning}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        yield made
    finally:
        with suppress(OSError):
            made.rmdir()
            if runs_are_new:
                RUNS.rmdir()


def _fresh_folder(name: str) -> Path:
    """A new folder, which no other process writes to."""
    number = 1
    while True:
        candidate = RUNS / (name if number == 1 else f"{name}-{number}")
        with run_errors("create the run directory", candidate):
            try:
                RUNS.mkdir(exist_ok=True)
                candidate.mkdir()
            except FileExistsError:
                if not candidate.exists():
                    raise
                number += 1
            else:
                return candidate


def _print_result(run: RunDirectory, updates: int, seconds: float, *, as_json: bool) -> None:
    if not leads():
        return
    rows = MetricsLog(run.metrics).rows()
    looks = [row for row in rows if "robust_accuracy" in row]
    staleness = [age for row in rows if isinstance(age := row.get("staleness"), int)]
    last = looks[-1] if looks else {}
    if as_json:
        found = {
            "run": str(run.path),
            "updates": updates,
            "seconds": seconds,
            "natural_accuracy": last.get("natural_accuracy"),
            "robust_accuracy": last.get("robust_accuracy"),
            "certified_accuracy": last.get("certified_accuracy"),
            "validation_images": last.get("validation_images"),
        }
        print_json(json.dumps(found, indent=2))
        return
    print_result(f"trained for {counted(updates, 'update')} in {duration_text(seconds)}")
    if any(staleness):
        mean = sum(staleness) / len(staleness)
        print_result(f"staleness {mean:.1f} on average, {max(staleness)} at most")
    _print_look(run, last)
    written = ", ".join(sorted(file.name for file in run.path.iterdir()))
    print_ending(f"{run.path}: {written}", f"sparring evaluate {shlex.quote(str(run.path))}")


def _print_look(run: RunDirectory, look: Row) -> None:
    from sparring.attacks.plausible import threat_text
    from sparring.attacks.threat import stored_threat
    from sparring.training import Validation

    threat = stored_threat(run, trust_code=True)  # it was just trained with
    attack = f"PGD of {run.section('validation', Validation).steps} steps"
    size = threat_text(threat)
    ways = {"natural": "", "robust": f", {attack}, {size}", "certified": f", intervals, {size}"}
    for title, way in ways.items():
        share, total = look.get(f"{title}_accuracy"), look.get("validation_images")
        if isinstance(share, float) and isinstance(total, int):
            accuracy = Proportion(successes=round(share * total), total=total)
            print_result(f"{title} accuracy {accuracy}: {total:,} validation images{way}")


COMMON = (FailedElsewhere, Interrupted, NonFiniteLoss)
"""Errors that all trainers raise and one reports."""


def asked_for() -> bool:
    """Whether torchrun's environment variables name several processes."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def leads() -> bool:
    """Whether this process prints and writes."""
    return not asked_for() or os.environ["RANK"] == "0"


@contextmanager
def one_voice() -> Iterator[None]:
    """Report once an error that all trainers raise; exit codes are the same for all.

    Before trainers are connected, each machine reports an error once; afterwards, the trainer with
    the error and the leader do.
    """
    if not asked_for():
        yield
        return
    try:
        yield
    except SparringError as error:
        if _is_told_by_another(error):
            raise SystemExit(error.exit_code) from error
        raise


@contextmanager
def met() -> Iterator[None]:
    """Stay connected to the other trainers, if there are any, while the block lasts."""
    from sparring.training import joined

    try:
        with joined():
            yield
    finally:
        if asked_for():
            # After the first one, torchrun ends the others: they keep their own exit codes.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _is_told_by_another(error: SparringError) -> bool:
    import torch.distributed as dist

    if isinstance(error, COMMON):
        return not leads()
    return not dist.is_initialized() and os.environ.get("LOCAL_RANK", "0") != "0"
