"""What can go wrong for a user, as one tree.

    SparringError
    ├── ConfigError         a typed or stored setting cannot mean anything (also a ValueError)
    ├── DataError           a data set is missing, damaged or not what it claims to be
    ├── RunError            a run directory is missing, occupied, unwritable or not one
    ├── CheckpointError     a checkpoint cannot be read, or belongs to another run
    │   └── CheckpointNotWritten   it could not be written; the previous one is whole
    └── TrainingError       training cannot go on
        ├── NonFiniteLoss   the loss became infinite or NaN
        └── Interrupted     someone asked it to stop; the checkpoint is written

Every message says what must hold and why, what came instead and where, and what to do.
The command line prints it as one sentence: exit code 2 for what the user can mend in the
command or its input, 1 (`TrainingError`, `CheckpointNotWritten`) for a failed run, and 128 plus
the signal's number for one that was asked to stop.
"""

import shlex
from pathlib import Path
from signal import Signals


class SparringError(Exception):
    """Base of every error that sparring raises on purpose."""

    exit_code = 2
    """What the command line exits with."""


class ConfigError(SparringError, ValueError):
    """A setting, typed or stored, that cannot mean anything."""


class DataError(SparringError):
    """A data set that is missing, damaged or not what it claims to be."""


class RunError(SparringError):
    """A run directory that is missing, occupied, unwritable or not one."""


class CheckpointError(SparringError):
    """A checkpoint that cannot be read, or that belongs to another run."""


class CheckpointNotWritten(CheckpointError):
    """A checkpoint that could not be written; the previous one is whole."""

    exit_code = 1


class TrainingError(SparringError):
    """Training that cannot go on."""

    exit_code = 1


class NonFiniteLoss(TrainingError):
    """A loss that became infinite or NaN."""


class Interrupted(TrainingError):
    """Training that was asked to stop and did, with its checkpoint written."""

    def __init__(self, signal: Signals, step: int, run: Path) -> None:
        super().__init__(
            f"stopped at step {step} by {signal.name}; the checkpoint is written. "
            f"Go on with: sparring train --resume {shlex.quote(str(run))}"
        )
        self.exit_code = 128 + signal
