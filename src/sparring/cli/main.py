"""`sparring VERB …`: find the verb, run it, and turn what goes wrong into a sentence.

Exit codes: 0 done; 2 something the user can mend; 1 a failed run, one whose replay differs, or
results that cannot be printed; 130 interrupted; 141 the reader of a pipe left.
"""

import importlib
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple

from sparring.cli.streams import flush_errors, leave, standard_streams, tell
from sparring.errors import ConfigError, OutputNotWritten, SparringError, printable

INTERRUPTED, PIPE_CLOSED = 130, 141
"""128 plus the signal's number, as shells report it: SIGINT is 2, SIGPIPE 13."""


class Verb(NamedTuple):
    """One word of the command line and the module that runs it."""

    module: str
    """Has `run(argv: list[str]) -> int`."""
    summary: str
    """One line of `sparring --help`."""


VERBS = MappingProxyType(
    {
        "train": Verb("sparring.cli.train", "train a robust classifier into a run directory"),
        "data": Verb("sparring.cli.data", "say what a data set is, and what is wrong with it"),
        "evaluate": Verb("sparring.cli.evaluate", "measure how robust a run's classifier is"),
        "predict": Verb(
            "sparring.cli.predict", "say what images show, and if that withstands attacks"
        ),
        "export": Verb(
            "sparring.cli.export", "put a run's network into a folder to be used or shared"
        ),
        "transfer": Verb("sparring.cli.transfer", "judge runs on attacks made on one another"),
        "study": Verb("sparring.cli.study", "ask again what the paper asks, figure by figure"),
        "report": Verb("sparring.cli.report", "put runs and studies on one page of HTML"),
        "bench": Verb("sparring.cli.bench", "measure the engine: overheads and speed-up"),
        "plan": Verb("sparring.cli.plan", "say how many trainers and workers to take, and why"),
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
        "  --help     this page; sparring VERB --help for a verb's own",
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
    with standard_streams():
        try:
            return _answered([word for word in words if word != "--debug"], debug)
        except KeyboardInterrupt:
            _ignore_interrupts(argv)
            _tell("interrupted.", debug)
            return INTERRUPTED
        finally:
            _ignore_interrupts(argv)
            flush_errors()


def _ignore_interrupts(argv: Sequence[str] | None) -> None:
    """Let another Ctrl-C change neither the last words nor the exit code of this process."""
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
        _tell(str(error), debug)
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
    return importlib.import_module(VERBS[first].module).run(rest)


def _unknown(word: str) -> ConfigError:
    from sparring.records.spelling import did_you_mean, nearest

    hint = did_you_mean(nearest(word, VERBS)) or " See sparring --help."
    return ConfigError(f"the first word must be one of {', '.join(VERBS)}; got {word}.{hint}")


def _tell(message: str, debug: bool) -> None:
    if debug:
        tell(traceback.format_exc())
    tell(f"error: {printable(message)}")


def _code(leave: SystemExit) -> int:
    """What a parser wanted to exit with."""
    if leave.code is None:
        return 0
    if isinstance(leave.code, int):
        return leave.code
    _tell(str(leave.code), debug=False)
    return 1
