"""`sparring VERB …`: find the verb, run it, and turn an error into a sentence.

Exit codes: 0 done; 2 a mistake that the user can correct; 1 a failed run, a replay that differs, or
results that cannot be printed; 130, 143 or 129 interrupted by SIGINT (Ctrl-C), SIGTERM or SIGHUP;
141 a closed pipe.

A closed or full standard output is an error, at the first result that is printed: what was trained,
evaluated or measured before is stored. Standard error, for progress, may fail silently.
"""

import errno
import importlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import FrameType, MappingProxyType
from typing import Any, NamedTuple

from sparring.errors import (
    ConfigError,
    OutputNotWritten,
    OwnCodeFailed,
    SparringError,
    printable,
)

BY_SIGNAL = 128
"""Added to the number of the signal that ended a process, as shells report it."""
PIPE_CLOSED = BY_SIGNAL + 13
"""SIGPIPE is 13."""
JSON = {"--json", "--dry-run"}
"""Flags with which standard output holds JSON alone."""
SPINS = "20000"
"""How often a PyTorch thread without work looks for some before it sleeps."""


class Verb(NamedTuple):
    """One word of the command line and the module that runs it."""

    module: str
    """Has `run(argv: list[str]) -> int`."""
    summary: str
    """One line of `sparring --help`."""


VERBS = MappingProxyType(
    {
        "train": Verb("sparring.cli.train", "train a robust classifier into a run directory"),
        "data": Verb("sparring.cli.data", "show the content and the problems of a data set"),
        "evaluate": Verb("sparring.cli.evaluate", "measure how robust a run's classifier is"),
        "predict": Verb(
            "sparring.cli.predict", "classify images, and say if that withstands attacks"
        ),
        "export": Verb(
            "sparring.cli.export", "put a run's network into a folder, to use or share it"
        ),
        "transfer": Verb("sparring.cli.transfer", "evaluate runs on attacks made on one another"),
        "study": Verb("sparring.cli.study", "make the paper's figures and tables again"),
        "report": Verb("sparring.cli.report", "put runs and studies on one page of HTML"),
        "bench": Verb("sparring.cli.bench", "measure the engine: overheads and speed-up"),
        "plan": Verb("sparring.cli.plan", "say how many trainers and workers to use, and why"),
        "inspect": Verb("sparring.cli.inspect", "show a run's settings, curves and results"),
        "replay": Verb("sparring.cli.replay", "compute a run's weights again, and compare them"),
    }
)

HELP = "\n".join(
    [
        "usage: sparring [--debug] VERB ...",
        "",
        "Train image classifiers robust to adversarial examples, fast, and say honestly",
        "how robust they are.",
        "",
        *(f"  {name:<10} {verb.summary}" for name, verb in VERBS.items()),
        "",
        "  --help     this page; sparring VERB --help for a verb",
        "  --version  the version",
        "  --debug    show the whole traceback of an error",
        "",
        "Start with: sparring train",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (by default the process's own) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    if argv is None:
        _wait_asleep()
        _hear_signals(words)
    with standard_streams():
        try:
            return _answered([word for word in words if word != "--debug"], debug)
        except KeyboardInterrupt as asked:
            _ignore_interrupts(argv)
            _tell("interrupted.", debug)
            return BY_SIGNAL + (asked.number if isinstance(asked, _Asked) else signal.SIGINT)
        finally:
            _ignore_interrupts(argv)
            flush_errors()


def _wait_asleep() -> None:
    """Let PyTorch's threads sleep while they have no work, unless the environment says how to wait.

    By default they spin for milliseconds. Where another program wants a core, the thread that has
    work waits for the one that spins: docs/how-to/how-long.md. For OpenMP of GCC, which
    reads this when PyTorch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _hear_signals(words: Sequence[str]) -> None:
    """Let the signals that ask to stop, and would end the process, interrupt it.

    `train` takes SIGTERM and SIGHUP while it trains. Before and after, a trainer may wait for
    others, where only a signal without a handler ends it at once.
    """
    ends = {signal.SIGINT: signal.default_int_handler}
    if words[:1] != ["train"]:
        ends |= dict.fromkeys((signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL)
    for number, handler in ends.items():
        if signal.getsignal(number) is handler:
            signal.signal(number, _interrupt)


class _Asked(KeyboardInterrupt):
    """A signal has asked the process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _interrupt(number: int, _: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`; while PyTorch is imported, which it would abort, end at once."""
    spec = getattr(sys.modules.get("torch"), "__spec__", None)
    if getattr(spec, "_initializing", False):
        tell("error: interrupted.")
        os._exit(BY_SIGNAL + number)
    raise _Asked(number)


def _ignore_interrupts(argv: Sequence[str] | None) -> None:
    """Ignore another Ctrl-C while this process ends."""
    if argv is None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _answered(words: list[str], debug: bool) -> int:
    """Run the verb; its exit code, or that of what went wrong."""
    try:
        try:
            code = _dispatch(words)
        except SystemExit as end:
            code = _code(end)
        sys.stdout.flush()
    except SparringError as error:
        is_own = isinstance(error, OwnCodeFailed)
        _tell(f"{error}{' --debug shows where.' * is_own}", debug)
        code = error.exit_code
        with suppress(OSError, OutputNotWritten):
            sys.stdout.flush()
            return code
        leave(sys.stdout)
    except BrokenPipeError:
        leave(sys.stdout)
        return PIPE_CLOSED
    return code


def _dispatch(words: list[str]) -> int:
    first, *rest = words or ["--help"]
    if first in ("--help", "-h", "help"):
        sys.stdout.write(HELP + "\n")
        return 0
    if first == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"sparring {version('sparring')}\n")
        return 0
    if first not in VERBS:
        raise _unknown(first)
    with _only_json(rest):
        return importlib.import_module(VERBS[first].module).run(rest)


def _only_json(words: Sequence[str]) -> AbstractContextManager[None]:
    """Keep other prints out of standard output if the words ask for JSON."""
    given = {word.replace("_", "-") for word in words}
    if not given & JSON or given & {"--help", "-h"}:
        return nullcontext()
    from sparring.cli.console import only_json

    return only_json()


def _unknown(word: str) -> ConfigError:
    from sparring.records.text import did_you_mean, nearest

    hint = did_you_mean(nearest(word, VERBS)) or " See sparring --help."
    return ConfigError(f"the first word must be one of {', '.join(VERBS)}; got {word}.{hint}")


def _tell(message: str, debug: bool) -> None:
    if debug:
        tell(traceback.format_exc())
    tell(f"error: {printable(message)}")


def _code(leave: SystemExit) -> int:
    """The exit code of a `SystemExit`."""
    if leave.code is None:
        return 0
    if isinstance(leave.code, int):
        return leave.code
    _tell(str(leave.code), debug=False)
    return 1


@contextmanager
def standard_streams() -> Iterator[None]:
    """Check writes to standard output while the block lasts.

    Characters outside the encoding are escaped. The null device takes closed descriptors, so that
    no other file gets their numbers.
    """
    given = sys.stdout, sys.stderr, logging.lastResort
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _take_closed_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = _Checked(sys.stdout or _Closed())
    sys.stderr = sys.stderr or io.StringIO()
    logging.lastResort = _Warnings(logging.WARNING)
    try:
        yield
    finally:
        sys.stdout, sys.stderr, logging.lastResort = given


def tell(message: str) -> None:
    """A line on standard error, if that can be written."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


def leave(stream: Any) -> None:
    """Discard the buffer; otherwise Python would report an error at exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def flush_errors() -> None:
    """Write the buffer of standard error, or discard it."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        leave(sys.stderr)


class _Closed(io.StringIO):
    """A stream with a closed descriptor."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class _Checked:
    """A stream whose failure raises `OutputNotWritten`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _failures():
            return self._stream.write(text)

    def flush(self) -> None:
        with _failures():
            self._stream.flush()


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputNotWritten(
            f"standard output cannot be written: {error.strerror or error}. "
            "Send it to an open file or pipe with room, or leave the redirection out."
        ) from error


class _Warnings(logging.Handler):
    """Prints warnings of the library that no other handler takes."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(printable(record.getMessage()))


def _take_closed_descriptors() -> None:
    """Open the null device in place of closed descriptors 0 to 2."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
