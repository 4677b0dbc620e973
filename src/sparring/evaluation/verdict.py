"""The result of an evaluation in Python: accuracies, outcomes image by image, attacked images."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from typing_extensions import override

from sparring.records import (
    ClassAccuracy,
    Evaluation,
    Examples,
    Outcomes,
    Proportion,
    to_json,
)
from sparring.records.typed import typed_record


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
    end of the last search. `None` for an evaluation with `resume`."""

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
