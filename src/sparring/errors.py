"""What can go wrong for a user, as one tree.

    SparringError
    ├── ConfigError         a typed or stored setting cannot mean anything (also a ValueError)
    │   ├── NonFiniteLogits        a model returned NaN or infinity for some images
    │   └── OwnCodeFailed          code of the user's own raised an exception
    ├── DataError           a data set is missing, damaged or not what it claims to be
    ├── RunError            a run directory is missing, occupied, unwritable or not one
    │   └── NoRoom          a file cannot be written, because its disk is full
    ├── CheckpointError     a checkpoint cannot be read, or belongs to another run
    │   ├── CheckpointNotWritten   it could not be written; the previous one is whole
    │   └── OtherNetwork           the rebuilt network is not the one that was trained
    ├── OutputNotWritten    standard output is closed, or what it goes to is full
    ├── FailedElsewhere     another trainer of the same run failed
    └── TrainingError       training cannot continue
        ├── NonFiniteLoss   the loss became infinite or NaN
        ├── TrainerLost     another trainer of the same run ended, or cannot be reached
        └── Interrupted     asked to stop; the checkpoint is written

A message says what must hold, what came instead and where, and what to do. The exit code is 2 for
what can be mended in the command or its input, and 1 (`TrainingError`, `CheckpointNotWritten`,
`NoRoom`, `OutputNotWritten`) for a failed run or results that cannot be written or printed. It is
128 plus the signal's number after a stop; for `FailedElsewhere` that of the other trainer's error.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from signal import Signals, raise_signal
from typing import TypeVar

LONGEST = 2000
"""Characters of a message, about a screen."""
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but tab and newline, what reverses the direction of text, lone surrogates."""


Raised = TypeVar("Raised", bound="SparringError")


def printable(text: str, most: int | None = LONGEST) -> str:
    """Text with control characters and lone surrogates escaped, cut to `most` characters."""
    escaped = UNPRINTABLE.sub(_escaped, text if most is None else text[: most + 1])
    return escaped if most is None or len(escaped) <= most else f"{escaped[: most - 1]}…"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class SparringError(Exception):
    """Base of every error that sparring raises on purpose."""

    exit_code = 2
    """Of the command line."""

    @classmethod
    def expected(cls: type[Raised], rule: str, got: object, do: str = "") -> Raised:
        """The error "`rule`; got `got`. `do`": what must hold, what came instead, what to do."""
        shown = f"{got:g}" if isinstance(got, float) else str(got)
        return cls(f"{rule}; got {shown}. {do}".rstrip())

    def __str__(self) -> str:
        """The message, without control characters that a file or another library put there."""
        return printable(super().__str__(), None)


class ConfigError(SparringError, ValueError):
    """A setting, typed or stored, that cannot mean anything."""


class NonFiniteLogits(ConfigError):
    """Logits that are NaN or infinite, which are no prediction."""

    def __init__(self, rows: Sequence[int | str], total: int, images: str = "images") -> None:
        super().__init__(rows, total, images)
        self.rows = tuple(rows)
        """Numbers or names of these images."""
        self.total = total
        """Images in all."""

    def __str__(self) -> str:
        rows, total, images = self.args
        first = rows[0] if isinstance(rows[0], str) else f"image {rows[0]} (counted from 0)"
        return (
            f"the logits of {len(rows)} of {total} {images} are NaN or infinite, first those of "
            f"{first}. Look at the model's weights, and at divisions, roots, logarithms and "
            "exponentials in it."
        )

    def among(self, places: Sequence[int | str], images: str = "images") -> "NonFiniteLogits":
        """The same error with these numbers or names of the images."""
        rows = [places[row] if isinstance(row, int) else row for row in self.rows]
        return NonFiniteLogits(rows, self.total, images)


class OwnCodeFailed(ConfigError):
    """An exception of the user's own code; the command line adds how to see where."""


class DataError(SparringError):
    """A data set that is missing, damaged or not what it claims to be."""


class RunError(SparringError):
    """A run directory that is missing, occupied, unwritable or not one."""


class NoRoom(RunError):
    """A file that cannot be written because its disk is full; earlier files are whole."""

    exit_code = 1


class CheckpointError(SparringError):
    """A checkpoint that cannot be read, or that belongs to another run."""


class CheckpointNotWritten(CheckpointError):
    """A checkpoint that could not be written; the previous one is whole."""

    exit_code = 1


class OtherNetwork(CheckpointError):
    """A network that was rebuilt and is not the one that was trained."""


class OutputNotWritten(SparringError):
    """Standard output that cannot be written; what was done stays done."""

    exit_code = 1


class FailedElsewhere(SparringError):
    """An error of another trainer of the same run."""

    def __init__(self, rank: int, message: str, exit_code: int) -> None:
        super().__init__(f"trainer {rank} failed, and the others need it: {message}")
        self.exit_code = exit_code


class TrainingError(SparringError):
    """Training that cannot continue."""

    exit_code = 1


class NonFiniteLoss(TrainingError):
    """A loss that became infinite or NaN."""


class TrainerLost(TrainingError):
    """Another trainer that ended, or cannot be reached, in the middle of a run."""

    def __init__(self, reason: str, remedy: str = "then start all of them again") -> None:
        super().__init__(
            f"another trainer of this run is gone or cannot be reached ({reason}). See its last "
            f"message, {remedy}."
        )
        self.reason = reason


class Interrupted(TrainingError):
    """Training that was asked to stop and did, with its checkpoint written."""

    def __init__(self, signal: Signals, step: int, run: Path, trainers: int = 1) -> None:
        super().__init__(
            f"stopped at step {step} by {signal.name}; the checkpoint is written. "
            f"Resume with: {resume_command(run, trainers)}"
        )
        self.exit_code = 128 + signal
        self._signal = signal

    def again(self) -> None:
        """Raise the signal again, where the run is gone that the message says how to resume."""
        raise_signal(self._signal)


def cause(error: BaseException) -> str:
    """An error of other code as a part of a sentence: its type and first line.

    If that ends in a colon, the next line as well.
    """
    first, *rest = str(error).strip().splitlines() or [""]
    said = " ".join(f"{first} {rest[0] if rest and first.endswith(':') else ''}".split())
    said = said[:200].rstrip(".:")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def resume_command(run: Path | str, trainers: int = 1) -> str:
    """The command that resumes a run; of several trainers, all on one machine."""
    return f"{launcher(trainers)} train --resume {shlex.quote(str(run))}"


def launcher(trainers: int) -> str:
    """The beginning of a command line of `trainers` processes on one machine."""
    return "sparring" if trainers == 1 else f"torchrun --nproc-per-node {trainers} -m sparring"
