"""Damage the files that sparring reads, in thousands of ways: each must be refused in a sentence.

    python benchmarks/fuzz.py --mutations 20000

A small file of every format is made, changed at random (`mutations.py`) and read by the commands
that read it, in this process. A good answer is a result, or one short sentence without control
characters, within five seconds and a gigabyte; and a command that refuses leaves every file as it
was. Prints a table, and every answer that is not good; ends with 1 if there is any.
Each reader has a process of its own, because a damaged file may end one.
"""

import argparse
import contextlib
import gzip
import io
import json
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch._dynamo
from PIL import Image

import mutations as of
from sparring.attacks import PGD, Linf
from sparring.capacity import LEDGER
from sparring.cli.main import main as sparring
from sparring.errors import SparringError
from sparring.evaluation import Progress, evaluate_run, partial
from sparring.exporting.folder import exported_network
from sparring.models import SmallNetwork, begin_with
from sparring.prediction import predict as _loaded  # noqa: F401 - before there are children
from sparring.records import MetricsLog, Provenance, Row, RunDirectory, TransferMatrix, to_json
from sparring.studies import STUDIES
from sparring.studies.runner import StudyTable, judged_study
from sparring.training import Asynchronous, Stale, TrainConfig, Validation, train

FORK = multiprocessing.get_context("fork")
"""Children begin with everything loaded. PyTorch allows it while the parent computes nothing.
"""
SECONDS = 5
"""Processor seconds for one file."""
HANGING = 12
"""A wait this many times as long counts as a hang, also on a busy machine."""
MEMORY = 1 << 30
LONGEST = 2300
"""Characters of an answer: 2,000 of a message, and what stands before it."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class TooSlow(BaseException):
    """The time is over. No `except Exception` catches it."""


class Target(NamedTuple):
    """A file, how it is damaged, and what reads it."""

    file: str
    mutators: Sequence[of.Mutator]
    readers: Sequence[Callable[[Path], object]]

    def path(self, folder: Path) -> Path:
        """The file in a folder that has one."""
        return next(folder.glob(self.file))


def verb(*words: str) -> Callable[[Path], object]:
    """A command, with `@` for the folder."""

    def read(folder: Path) -> object:
        return sparring([word.replace("@", str(folder)) for word in words])

    return read


INSPECT = (verb("inspect", "@/run"), verb("inspect", "@/run", "--json"))
REPORT = (verb("report", "@/run", "-o", "@/page.html"),)
STUDY = (verb("report", "@/study", "-o", "@/page.html"),)
REPORTS, DRAWN = {*REPORT, *STUDY}, 0.2
"""Readers that draw for a second, and the share of mutations that they get."""
EVALUATE = (verb("evaluate", "@/run", "--suite", "pgd", "--images", "2", "--no-checks"),)
PREDICT = (verb("predict", "@/run", "@/one.png"),)
EXPORT = (verb("export", "@/run", "-o", "@/bundle"),)
RESUME = (verb("train", "--resume", "@/run"),)
REPLAY = (verb("replay", "@/run"),)
DATA = (verb("data", "@"),)
CONFIG = (verb("train", "--config", "@/settings.json", "--dry-run"),)


def setting(folder: Path) -> object:
    """A value of `--set`, as it stands in a file."""
    text = (folder / "value.json").read_text(errors="surrogateescape").replace("\0", "")
    return sparring(["train", "--data", str(folder / "data.npz"), "--set", text, "--dry-run"])


def started(folder: Path) -> object:
    """Weights to begin with."""
    network = resume_network(folder)
    return [begin_with(network, path) for path in folder.glob("init.*")]


def resume_network(folder: Path) -> torch.nn.Module:
    """A network of the kind that the run has."""
    return network_kind().build(0)


def tables(folder: Path) -> object:
    """What a study makes of its table, and of each measurement in it."""
    study, table = STUDIES["staleness"], StudyTable(folder / "table.jsonl")
    named = [Named(name) for name in table.names()]
    table.missing(named)
    table.seconds(named)
    where = table.environments(named)
    if not where:
        return None
    made = Provenance(command="", seeds=(0,), environment=where[0], others=where[1:])
    return judged_study(study, "paper", table.found(named), made, str(table.path))


class Named(NamedTuple):
    """A measurement of which only the name matters."""

    name: str
    subject: str = ""

    def __call__(self) -> Sequence[Row]:
        """Nothing is measured."""
        return []


def network_kind() -> SmallNetwork:
    """The smallest built-in network."""
    return SmallNetwork(channels=1, num_classes=3, width=2)


TARGETS = {
    "config.json": Target("run/config.json", (of.json_values, *of.ANY), INSPECT + RESUME + REPLAY),
    "config.json, used": Target("run/config.json", (of.json_values,), EVALUATE + PREDICT + EXPORT),
    "classes.json": Target("run/classes.json", (of.json_values, *of.ANY), PREDICT + RESUME),
    "data.json": Target("run/data.json", (of.json_values, *of.ANY), INSPECT + EVALUATE + RESUME),
    "environment.json": Target("run/environment.json", (of.json_values, *of.ANY), INSPECT + REPLAY),
    "metrics.jsonl": Target("run/metrics.jsonl", (of.json_lines, *of.ANY), INSPECT + REPLAY),
    "metrics.jsonl, others": Target("run/metrics.jsonl", (of.json_lines,), RESUME + REPORT),
    "metrics.jsonl of workers": Target("engine/metrics.jsonl", (of.json_lines, *of.ANY),
        (verb("inspect", "@/engine"), verb("inspect", "@/engine", "--json"))),
    "evaluation.json": Target("run/evaluation.json", (of.json_values, *of.ANY), INSPECT + EXPORT),
    "outcomes.json": Target("run/outcomes.json", (of.json_values, *of.ANY), REPORT),
    "examples.json": Target("run/examples.json", (of.json_values, *of.ANY), REPORT),
    "evaluations, drawn": Target("run/evaluation.json", (of.json_values,), REPORT),
    "weights.safetensors": Target("run/weights.safetensors", (of.safetensors_header, *of.ANY),
        INSPECT + PREDICT + REPLAY),
    "weights.safetensors, used": Target("run/weights.safetensors", (of.safetensors_header, *of.ANY),
        EVALUATE + EXPORT),
    "resume.pt": Target("run/resume.pt", (of.tensors, of.tensors, of.archive, *of.ANY), RESUME),
    "evaluation.partial.pt": Target("run/evaluation-*.partial.pt",
        (of.tensors, of.tensors, of.archive, *of.ANY), EVALUATE),
    "transfer.json": Target("transfer.json", (of.json_values, *of.ANY),
        (lambda folder: TransferMatrix.load(folder / "transfer.json"),)),
    "study.json": Target("study/study.json", (of.json_values, *of.ANY),
        STUDY),
    "table.jsonl": Target("table.jsonl", (of.json_lines, *of.ANY), (tables,)),
    "launch.json": Target("run/launch.json", (of.json_values, *of.ANY),
        (lambda folder: RunDirectory(folder / "run").launcher(),)),
    "model.json": Target("network/model.json", (of.json_values, *of.ANY),
        (lambda folder: exported_network(folder / "network"),)),
    "--config": Target("settings.json", (of.json_values, *of.ANY), CONFIG),
    "--set": Target("value.json", (of.json_values, *of.ANY), (setting,)),
    "--init, .pt": Target("init.pt", (of.tensors, of.archive, *of.ANY), (started,)),
    "npz": Target("data.npz", (of.archive, *of.ANY), (verb("data", "@/data.npz"),)),
    "idx": Target("idx/train-images-idx3-ubyte", (of.idx, *of.ANY), (verb("data", "@/idx"),)),
    "idx labels, gz": Target("idx/train-labels-idx1-ubyte.gz",
        (of.gzipped(of.idx), of.gzipped(of.bits), *of.ANY), (verb("data", "@/idx"),)),
    "png": Target("pictures/one/0.png", (of.png, *of.ANY), (verb("data", "@/pictures"),)),
    "jpeg": Target("pictures/one/1.jpg", of.ANY, (verb("data", "@/pictures"),)),
    "gif": Target("pictures/two/2.gif", of.ANY, (verb("data", "@/pictures"),)),
    "webp": Target("pictures/two/3.webp", of.ANY, (verb("data", "@/pictures"),)),
    "png, predicted": Target("one.png", (of.png, *of.ANY), PREDICT),
    "parquet": Target("parquet/train.parquet", of.ANY, (verb("data", "@/parquet"),)),
    "arrow": Target("saved/data.arrow", of.ANY, (verb("data", "@/saved"),)),
    "state.json": Target("saved/state.json", (of.json_values, *of.ANY), (verb("data", "@/saved"),)),
}  # fmt: skip


DATA_SETS = ("npz", "idx", "idx labels, gz", "png", "jpeg", "gif", "webp")
DATA_SETS += ("png, predicted", "parquet", "arrow", "state.json")
"""Targets that are data sets or pictures."""


def make(folder: Path) -> None:
    """A small file of every format."""
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (36, 12, 12), dtype=np.uint8)
    labels = np.arange(36, dtype=np.uint8) % 3
    parts = {"x_train": images, "y_train": labels, "x_test": images[:9], "y_test": labels[:9]}
    np.savez(folder / "data.npz", **parts)
    config = TrainConfig(
        data=str(folder / "data.npz"),
        model=network_kind(),
        threat=Linf(eps=0.1),
        attack=PGD(threat=Linf(eps=0.1), steps=1),
        batch_size=4,
        updates=3,
        precision="fp32",
        threads=1,
        source=Stale(staleness=1),
        validation=Validation(every=1, images=4, steps=1),
    )
    run = train(config, folder / "run", until=2).run
    run.write_launcher("launch")
    evaluate_run(run, suite="pgd", num_images=2, threads=1, checks=False)
    _partial(run)
    (folder / "settings.json").write_text(run.config.read_text())
    (folder / "value.json").write_text(json.dumps({"kind": "SmallNetwork", "width": 2}))
    torch.save(resume_network(folder).state_dict(), folder / "init.pt")
    shutil.copytree(run.path, folder / "engine")
    sparring(["export", str(run.path), "--out", str(folder / "network")])
    others = ["--images", "4", "--steps", "1", "--out", str(folder / "matrix")]
    sparring(["transfer", str(run.path), str(folder / "engine"), *others])
    _engine(RunDirectory(folder / "engine"))
    (folder / "matrix" / "transfer.json").rename(folder / "transfer.json")
    results = Path(__file__).parents[1] / "results" / "studies" / "paper" / "staleness"
    (folder / "study").mkdir()
    shutil.copy(results / "study.json", folder / "study")
    shutil.copy(results / "table.jsonl", folder)
    _pictures(folder, images, labels)
    _idx(folder / "idx", parts)
    _tables(folder)


def _partial(run: RunDirectory) -> None:
    """An evaluation that stopped in the middle."""

    def stop(progress: Progress) -> None:
        if run.partial_evaluations():
            raise KeyboardInterrupt

    every, partial.EVERY = partial.EVERY, 0.0
    with contextlib.suppress(KeyboardInterrupt):
        evaluate_run(run, suite="pgd", num_images=2, checks=False, progress=stop)
    partial.EVERY = every


def _engine(run: RunDirectory) -> None:
    """The log and settings of a run whose batches came from workers."""
    config = json.loads(run.config.read_text())
    config["source"] = to_json(TrainConfig(source=Asynchronous()))["source"]
    run.config.write_text(json.dumps(config))
    run.metrics.unlink()
    for step in range(1, 9):
        row = {"step": step, "loss": 1.0, "staleness": 1, "worker": "1+trainer", "workers": 2}
        names = ("attack", "update", "supply", "commit", "publish", "help", "wait")
        row |= {f"{name}_seconds": 0.01 for name in names}
        row |= {f"workers_{name}_seconds": 0.01 for name in ("attack", "overhead")}
        row |= {f"staleness_{name}": 1 for name in ("behind", "in_flight", "waiting")}
        MetricsLog(run.metrics).append(row | {"ready": 1, "leased": 2, **dict.fromkeys(LEDGER, 3)})


def _pictures(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Pictures of every format, in folders of classes."""
    Image.fromarray(images[0]).save(folder / "one.png")
    for name in ("one", "two"):
        for part in ("", "test"):
            (folder / "pictures" / part / name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "pictures" / "test")
    for number, image in enumerate(images):
        kind = ("png", "jpg", "gif", "webp")[number % 4]
        name = ("one", "two")[number // 2 % 2]
        Image.fromarray(image).convert("RGB").save(folder / "pictures" / name / f"{number}.{kind}")


def _idx(folder: Path, parts: dict[str, np.ndarray]) -> None:
    """IDX files, of which some are gzipped."""
    folder.mkdir()
    for name, part in (("train", "train"), ("t10k", "test")):
        images, labels = parts[f"x_{part}"], parts[f"y_{part}"]
        head = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        packed = gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + labels.tobytes())
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(packed)


def _tables(folder: Path) -> None:
    """Parquet, and Arrow files as `save_to_disk` writes them."""
    import pyarrow
    from pyarrow import parquet

    found = sorted((folder / "pictures").glob("*/*.*"))
    pictures = [{"bytes": path.read_bytes(), "path": None} for path in found]
    table = pyarrow.table(
        {"image": pictures, "label": [number % 2 for number in range(len(found))]}
    )
    (folder / "parquet").mkdir()
    parquet.write_table(table, folder / "parquet" / "train.parquet")
    (folder / "saved").mkdir()
    with pyarrow.ipc.new_stream(folder / "saved" / "data.arrow", table.schema) as writer:
        writer.write_table(table)
    listed = {"_data_files": [{"filename": "data.arrow"}], "_split": "train"}
    (folder / "saved" / "state.json").write_text(json.dumps(listed))


@dataclass(kw_only=True, slots=True)
class Found:
    """The results of a target's mutations."""

    target: str
    mutations: int = 0
    refused: int = 0
    slowest: float = 0.0
    memory: int = 0
    wrong: list[str] = field(default_factory=list)


@contextlib.contextmanager
def time_limit(seconds: float) -> Any:
    """Raise `TooSlow` after this many seconds of computing, or `HANGING` times that of waiting."""

    def late(number: int, frame: object) -> None:
        raise TooSlow

    limits = (
        (signal.SIGPROF, signal.ITIMER_PROF, seconds),
        (signal.SIGALRM, signal.ITIMER_REAL, HANGING * seconds),
    )
    before = [signal.signal(number, late) for number, _, _ in limits]
    for _, timer, most in limits:
        signal.setitimer(timer, most)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(limits, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file and what it holds."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put_back(folder: Path, before: dict[Path, bytes]) -> list[Path]:
    """Restore the files; return those that had changed."""
    after = contents(folder)
    changed = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    for path in changed:
        if path in before:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(before[path])
        else:
            path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return changed


def answer(read: Callable[[Path], object], folder: Path) -> tuple[bool, list[str]]:
    """Whether a reader refused, and what is wrong with how it answered."""
    refused, raised, out, err = _read(read, folder)
    return refused, raised or _printed(refused, out, err)


def _read(read: Callable[[Path], object], folder: Path) -> tuple[bool, list[str], str, str]:
    """Whether a reader refused, what it raised that it should not, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    refused = False
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
            time_limit(SECONDS),
        ):
            warnings.simplefilter("ignore")
            try:
                # Exit code 1 is a result: a replay that differs, a run that diverged.
                refused = read(folder) == 2
            except SparringError as error:
                refused = error.exit_code == 2
                err.write(f"error: {error}\n")
    except SystemExit as leave:
        return True, [f"left with {leave.code}"], "", ""
    except TooSlow:
        return True, [f"took more than {SECONDS} s: {_place()}"], "", ""
    except BaseException as error:
        said = f"{type(error).__name__}: {str(error)[:150]!r} {_place()}"
        return True, [said], "", ""
    return refused, [], out.getvalue(), err.getvalue()


def _printed(refused: bool, out: str, err: str) -> list[str]:
    """What is wrong with what was printed."""
    wrong = []
    if refused and "error: " not in err:
        wrong.append("refused without a word")
    if refused and len(err.partition("error: ")[2]) > LONGEST:
        wrong.append(f"a message of {len(err)} characters: {err[:100]!r}")
    if found := CONTROL.search(err + out):
        wrong.append(f"a control character {found[0]!r} in {(err + out)[:150]!r}")
    try:
        (err + out).encode()
    except UnicodeEncodeError as error:
        wrong.append(f"cannot be encoded: {error}")
    return wrong


def _place() -> str:
    """Where in the project an error came from."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    own = [frame for frame in frames if "/sparring/" in frame.filename]
    last = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in (own[-1:] + frames[-1:])]
    return " < ".join(last)


def fuzz(name: str, count: int, seed: int, folder: Path) -> Found:
    """Damage one file `count` times, and read it."""
    target, found = TARGETS[name], Found(target=name)
    chance = random.Random(f"{seed} {name}")
    before = contents(folder)
    path = target.path(folder)
    intact = before[path]
    for read in target.readers:  # what is loaded by the first use is no matter of the file
        answer(read, folder)
        put_back(folder, before)
    base = peak_memory()
    for number in range(count):
        mutate, read = chance.choice(target.mutators), chance.choice(target.readers)
        try:
            damaged = mutate(chance, intact)
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError):
            damaged = of.bits(chance, intact)  # there is no such damage to this file
        (folder.parent / "last").write_bytes(damaged)
        path.write_bytes(damaged)
        begun = time.process_time()
        refused, wrong = answer(read, folder)
        seconds = time.process_time() - begun
        found.slowest = max(found.slowest, seconds)
        found.memory = max(found.memory, peak_memory() - base)
        found.mutations, found.refused = number + 1, found.refused + refused
        expected = {**before, path: damaged}
        changed = [] if not refused else changed_in(folder, expected)
        wrong += [f"refused, and changed {', '.join(changed)}"] if changed else []
        if found.memory > MEMORY:
            wrong.append(f"took {found.memory >> 20} MiB")
            base = peak_memory()
            found.memory = 0
        found.wrong += [f"{number} {mutate.__name__}: {each}" for each in wrong]
        put_back(folder, before)
    return found


def changed_in(folder: Path, expected: dict[Path, bytes]) -> list[str]:
    """Names of files that are not what they were."""
    after = contents(folder)
    return [p.name for p in {**expected, **after} if expected.get(p) != after.get(p)]


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def limit_memory() -> None:
    """Let this process take a gigabyte more than it has, and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 2 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def carry_out(name: str, count: int, seed: int, made: Path) -> Found:
    """Fuzz one target in a process of its own, which a damaged file may end."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "files"
        shutil.copytree(made, folder)
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_child, args=(name, count, seed, folder, theirs))
        process.start()
        theirs.close()
        try:
            found = ours.recv()
        except EOFError:
            process.join()
            last, kept = folder.parent / "last", Path(tempfile.gettempdir()) / "fuzz-last"
            if last.exists():
                shutil.copy(last, kept)
            wrong = [f"its process ended with {process.exitcode}; the file is {kept}"]
            return Found(target=name, wrong=wrong)
        process.join()
        return found


def _make_quietly(folder: Path) -> None:
    sys.stdout = sys.stderr = io.StringIO()
    make(folder)


def _child(name: str, count: int, seed: int, folder: Path, to: Any) -> None:
    os.chdir(folder)
    limit_memory()
    to.send(fuzz(name, count, seed, folder))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=20_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], help=", ".join(TARGETS))
    return parser.parse_args()


def main() -> int:
    """Fuzz every target; the exit code."""
    torch.set_num_threads(1)
    flags = arguments()
    names = flags.only or list(TARGETS)
    with tempfile.TemporaryDirectory() as made:
        maker = FORK.Process(target=_make_quietly, args=(Path(made),))
        maker.start()
        maker.join()
        shares = {name: DRAWN if REPORTS & {*TARGETS[name].readers} else 1.0 for name in names}
        each = flags.mutations / sum(shares.values())
        total = Found(target="all")
        print(f"{'file':<28}{'mutations':>10}{'refused':>9}{'slowest s':>11}{'MiB':>6}{'wrong':>7}")
        for name in names:
            count = math.ceil(each * shares[name])
            found = carry_out(name, count, flags.seed, Path(made))
            show(found)
            total.mutations += found.mutations
            total.refused += found.refused
            total.slowest = max(total.slowest, found.slowest)
            total.memory = max(total.memory, found.memory)
            total.wrong += found.wrong
        show(total, wrong=False)
    return 1 if total.wrong else 0


def show(found: Found, *, wrong: bool = True) -> None:
    """One row, and below it what was wrong."""
    print(
        f"{found.target:<28}{found.mutations:>10,}{found.refused:>9,}{found.slowest:>11.2f}"
        f"{found.memory >> 20:>6}{len(found.wrong):>7}",
        flush=True,
    )
    kinds: dict[str, list[str]] = {}
    for each in found.wrong if wrong else ():
        kinds.setdefault(re.sub(r"^\d+ \S+: |\d+", "", each), []).append(each)
    for alike in kinds.values():
        print(f"    {len(alike)} x {alike[0]}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
