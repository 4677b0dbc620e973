"""Processes that start in a moment: forked from one that has already imported PyTorch.

For what a process computes, prints and leaves behind. Where the start itself is tested, a test
starts Python.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

CONTEXT = multiprocessing.get_context("forkserver")
# The first optimizer of a process imports torch._dynamo, which takes longer than all else.
CONTEXT.set_forkserver_preload(["torch._dynamo", "sparring.training", "sparring.evaluation"])


class Ended(NamedTuple):
    """The end of a process and what it printed."""

    returncode: int | None
    stdout: str
    stderr: str


def started(
    program: str,
    *words: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    printed: Path | None = None,
) -> ForkServerProcess:
    """A process that runs `program` with these words in `sys.argv[1:]`.

    What it prints goes to `stdout` and `stderr` in the folder `printed`, if there is one.
    """
    texts = [str(word) for word in words]
    arguments = (program, texts, cwd or Path.cwd(), {**(env or os.environ)}, printed)
    process = CONTEXT.Process(target=_run, args=arguments)
    process.start()
    return process


def finished(program: str, *words: object, cwd: Path | None = None) -> Ended:
    """The same once it has ended."""
    with TemporaryDirectory() as folder:
        printed = Path(folder)
        process = started(program, *words, cwd=cwd, printed=printed)
        process.join()
        texts = [(printed / stream).read_text() for stream in ("stdout", "stderr")]
        return Ended(process.exitcode, *texts)


def _run(
    program: str, words: list[str], cwd: Path, env: dict[str, str], printed: Path | None
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if printed is not None:
        for number, stream in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(printed / stream, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["-c", *words]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
