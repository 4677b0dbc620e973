"""The file of a partial evaluation, from which it is resumed."""

import io
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sparring.evaluation.evaluation_state import EvaluationState
from sparring.models.saved import Anything, Fields, Number, Text, read_saved
from sparring.records.files import run_errors, write_atomically

EVERY = 15.0
"""Seconds between two writes of a small state. The time grows in proportion for larger ones."""
SMALL = 2**24
"""Largest size of a small state, in bytes."""

_FORM = Fields({"owner": Text(), "survey": Anything(), "seconds": Number(least=0)})

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True, eq=False)
class Partial:
    """The file of a partial evaluation."""

    path: Path | None
    """`None` to keep nothing."""
    owner: str
    """Digest of model, images and settings."""
    _next: float = field(default_factory=lambda: time.monotonic() + EVERY)

    def restore(self, state: EvaluationState) -> float:
        """Restore the evaluation from the file; return its seconds so far, or 0 without a file.

        A file that is damaged or of another evaluation is ignored with a warning.
        """
        if self.path is None or not self.path.exists():
            return 0.0
        try:
            found: Any = read_saved(self.path)
            _FORM.check(found, "it")
            if found["owner"] == self.owner:
                state.schema(found["survey"]).check(found["survey"], "survey")
        except (OSError, ValueError) as error:
            log.warning(
                "%s cannot be used (%s): the evaluation starts from its beginning",
                self.path,
                getattr(error, "strerror", None) or error,
            )
            return 0.0
        if found["owner"] != self.owner:
            log.warning(
                "%s is of another evaluation (another suite, seed, model, batch size, number of "
                "images or threads): this one starts from its beginning",
                self.path,
            )
            return 0.0
        state.restore(found["survey"])
        return float(found["seconds"])

    def keep(self, state: EvaluationState, *, seconds: float) -> None:
        """Write the file, if it is time to. Raises `RunError` if it cannot be written."""
        if self.path is None or time.monotonic() < self._next:
            return
        buffer = io.BytesIO()
        torch.save({"owner": self.owner, "survey": state.state(), "seconds": seconds}, buffer)
        with run_errors("write", self.path):
            write_atomically(self.path, buffer.getvalue())
        self._next = time.monotonic() + EVERY * max(1.0, buffer.tell() / SMALL)
