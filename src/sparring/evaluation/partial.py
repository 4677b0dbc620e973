"""An evaluation that is under way, on disk: killed at any moment, it can go on.

Units: seconds are wall-clock.
"""

import io
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sparring.evaluation.survey import Survey
from sparring.models.saved import Anything, Fields, Number, Text, read_saved
from sparring.records.files import run_errors, write_atomically

EVERY = 15.0
"""Seconds between two writes: some megabytes each."""

_FORM = Fields({"owner": Text(), "survey": Anything(), "seconds": Number(least=0)})

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True, eq=False)
class Partial:
    """The file of one evaluation; with no path nothing is kept."""

    path: Path | None
    """Where it is."""
    owner: str
    """Of what: model, images and settings, as a digest."""
    _kept: float = field(default_factory=time.monotonic)

    def restore(self, survey: Survey) -> float:
        """Put a survey where the file left it; returns the seconds spent before, 0 if none.

        A file that is damaged or belongs to another evaluation is passed over with a warning.
        """
        if self.path is None or not self.path.exists():
            return 0.0
        try:
            found: Any = read_saved(self.path)
            _FORM.check(found, "it")
            if found["owner"] == self.owner:
                survey.schema(found["survey"]).check(found["survey"], "survey")
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
        survey.restore(found["survey"])
        return float(found["seconds"])

    def keep(self, survey: Survey, *, seconds: float) -> None:
        """Write the file if it is time again. Raises `RunError` if it cannot be written."""
        if self.path is None or time.monotonic() - self._kept < EVERY:
            return
        buffer = io.BytesIO()
        torch.save({"owner": self.owner, "survey": survey.state(), "seconds": seconds}, buffer)
        with run_errors("write", self.path):
            write_atomically(self.path, buffer.getvalue())
        self._kept = time.monotonic()
