"""The result of an evaluation in Python: accuracies, outcomes image by image, attacked images."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from sparring.errors import ConfigError
from sparring.records import (
    ClassAccuracy,
    Evaluation,
    Examples,
    Outcomes,
    Proportion,
    to_json,
)
from sparring.records.files import from_home, run_errors, write_atomically
from sparring.records.typed import typed, typed_record

ENDINGS = (".npz", ".pt")
"""Of files of adversarial images."""


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The result of an evaluation, as shares and image by image."""

    evaluation: Evaluation
    """Natural and robust accuracy, attack by attack."""
    outcomes: Outcomes
    """The outcome of every image."""
    examples: Examples | None = None
    """The first images, clean and attacked, where they are pictures."""
    adversarial: Tensor | None = field(default=None, compare=False)
    """All images as attacked [N, *S], on the CPU: misclassified if an attack succeeded, else the
    end of the last search, clean if none was needed. `None` for an evaluation with `resume` unless
    they were to be kept."""

    images: Tensor | None = field(default=None, compare=False)
    """The clean images, in memory of their own."""

    @typed
    def save_adversarial(self, path: Path | str) -> None:
        """Write images, labels, adversarial images and predictions to a .npz or .pt file.

        `predicted` holds the classes of the adversarial images. Raises `ConfigError` for another
        ending, and without `adversarial`; `RunError` if the file cannot be written.
        """
        path = from_home(path)
        if path.suffix not in ENDINGS:
            raise ConfigError.expected(
                "adversarial images go into a .npz or .pt file", path.name, "Change its ending."
            )
        if self.adversarial is None or self.images is None:
            raise ConfigError("this verdict has no adversarial images. Evaluate without resume.")
        found = {
            "images": self.images.detach().cpu(),
            "labels": torch.tensor(self.outcomes.labels),
            "adversarial": self.adversarial,
            "predicted": torch.tensor(self.outcomes.adversarial),
        }
        buffer = io.BytesIO()
        if path.suffix == ".pt":
            torch.save(found, buffer)
        else:
            arrays: dict[str, Any] = {name: value.numpy() for name, value in found.items()}
            np.savez(buffer, **arrays)
        with run_errors("write", path):
            write_atomically(path, buffer.getvalue())

    @property
    def natural(self) -> Proportion:
        """Clean images classified correctly."""
        return self.evaluation.natural

    @property
    def robust(self) -> Proportion:
        """Images that no attack of the suite broke."""
        return self.evaluation.robust

    def per_class(self) -> tuple[ClassAccuracy, ...]:
        """Natural and robust accuracy of each class that has images."""
        return self.outcomes.per_class()

    def confusion(self, *, attacked: bool = True) -> tuple[tuple[int, ...], ...]:
        """Numbers of images as [true class][predicted class]."""
        return self.outcomes.confusion(attacked=attacked)

    def to_dict(self) -> dict[str, Any]:
        """The content of evaluation.json and outcomes.json."""
        return {**self.evaluation.to_dict(), "outcomes": to_json(self.outcomes)}

    def to_frame(self) -> Any:
        """A `pandas.DataFrame` with a row for each image."""
        return self.outcomes.to_frame()

    @override
    def __repr__(self) -> str:
        return repr(self.evaluation)

    def _repr_html_(self) -> str:
        """The accuracies as a table, for a notebook."""
        return self.evaluation._repr_html_()
