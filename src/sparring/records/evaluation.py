"""The result of an evaluation: counts with their intervals, findings, outcomes and example images.

It is complete enough to be judged without the model.
"""

from base64 import b64decode
from binascii import Error as NotBase64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import eq
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import override

from sparring.errors import ConfigError
from sparring.records.codec import from_json, to_json
from sparring.records.environment import Environment
from sparring.records.files import read_json, write_json
from sparring.records.proportion import Proportion
from sparring.records.text import count_text, counted, data_frame, html_table
from sparring.records.typed import typed

NAMED_SUITES = ("pgd", "pgd-40", "pgd-100x5", "standard")
"""Names of the suites of this package, the weakest first."""
MOST_CLASSES = 2**16
"""Classes that outcomes may name."""


def _check_classes(of: str, numbers: Sequence[int]) -> None:
    """Raise `ConfigError` for a number that no class has."""
    if numbers and not 0 <= min(numbers) <= max(numbers) < MOST_CLASSES:
        raise ConfigError.expected(
            f"the classes of {of} must lie in 0 to {MOST_CLASSES - 1}",
            min(numbers) if min(numbers) < 0 else max(numbers),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One measured quantity."""

    what: str
    """Its name, with the unit where it has one."""
    value: float
    """What it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check for gradient masking or a broken evaluation."""

    check: str
    """Name of the check."""
    flagged: bool
    """Whether it gives a reason not to believe the robust accuracy."""
    sentence: str
    """What was seen and, if flagged, what follows, for a person."""
    evidence: tuple[Reading, ...] = ()
    """The numbers behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One test image, and the version of it that the evaluation ended with."""

    label: int
    """Its true class."""
    natural: int
    """What the network says of the clean image."""
    adversarial: int
    """What it says of the other version."""
    broken_by: str | None
    """The attack that broke it; null if it is robust, or wrong when clean."""
    clean: str
    """Pixels row by row from the top, channels together, a byte each (0 to 255), in base64."""
    attacked: str
    """The image that broke it; else where the last search ended; clean where there was none."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a number that no class has."""
        _check_classes("an example image", (self.label, self.natural, self.adversarial))


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Images of one size, in the order of the test set."""

    height: int
    """Rows of each."""
    width: int
    """Pixels of a row."""
    channels: int
    """1 for grey, 3 for red, green and blue."""
    images: tuple[Example, ...]
    """The images."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless all images are of the size."""
        if self.channels not in (1, 3):
            raise ConfigError.expected("example images must have 1 or 3 channels", self.channels)
        check_size("example images", self.height, self.width)
        size = self.height * self.width * self.channels
        for number, image in enumerate(self.images):
            for pixels in (image.clean, image.attacked):
                if (length := bytes_in(pixels)) != size:
                    rule = f"example image {number} must hold {size} bytes in base64"
                    raise ConfigError.expected(rule, length)

    def save(self, path: Path) -> None:
        """Write examples.json atomically. Raises `RunError` if it cannot be written."""
        write_json(path, to_json(self), indent=None)

    @classmethod
    @typed
    def load(cls, path: Path | str) -> "Examples":
        """Read examples.json. Raises `RunError` or `ConfigError` if it is missing or damaged."""
        return from_json(cls, read_json(Path(path)), where=str(path))


def check_size(what: str, height: int, width: int) -> None:
    """Raise `ConfigError` unless both are 1 or more."""
    if min(height, width) < 1:
        rule = f"the height and width of {what} must be 1 or more"
        raise ConfigError.expected(rule, f"{height} and {width}")


def bytes_in(text: str) -> int:
    """How many bytes some base64 stands for; -1 if it is none."""
    try:
        return len(b64decode(text, validate=True))
    except (NotBase64, ValueError):
        return -1


FEW = 32
"""Images below which a check sees only blatant masking: a sign test needs ten that differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackResult:
    """One attack of a suite, run on the images that those before it left robust."""

    name: str
    """The attack and what distinguishes it in the suite."""
    robust: Proportion
    """Images still robust after it, of all images."""
    seconds: float
    """Wall-clock time it took."""


class ClassAccuracy(NamedTuple):
    """Accuracies of the images of one class."""

    label: int
    """The class."""
    natural: Proportion
    """Classified correctly when clean."""
    robust: Proportion
    """Broken by no attack."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """What became of every image of an evaluation, in the order of the test set."""

    labels: tuple[int, ...]
    """The true classes."""
    natural: tuple[int, ...]
    """What the network says of the clean images."""
    broken_by: tuple[str | None, ...]
    """The attack that broke each image; null for those robust, and those wrong when clean."""
    adversarial: tuple[int, ...]
    """What it says of the image that broke it; of the clean image where none did."""
    proved: tuple[bool, ...] | None = None
    """Whether each image was proved robust before the attacks; `None` without a certificate."""
    unfinished: tuple[bool, ...] | None = None
    """Whether the budget of the proofs ended before each image was bounded in full."""

    @property
    def _columns(self) -> dict[str, tuple[object, ...]]:
        columns = {name: getattr(self, name) for name in self.__slots__}
        return {name: column for name, column in columns.items() if column is not None}

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless each column has one entry an image, and class numbers."""
        lengths = {len(column) for column in self._columns.values()}
        if len(lengths) > 1:
            raise ConfigError(
                "outcomes must have one entry for each image in every column; got columns of "
                f"{', '.join(map(str, sorted(lengths)))} entries."
            )
        _check_classes("outcomes", (*self.labels, *self.natural, *self.adversarial))

    def per_class(self) -> tuple[ClassAccuracy, ...]:
        """Natural and robust accuracy of each class that has images, by its number."""
        totals = Counter(self.labels)
        natural, robust = (
            Counter(label for label, said in zip(self.labels, column, strict=True) if said == label)
            for column in (self.natural, self.adversarial)
        )
        return tuple(
            ClassAccuracy(
                label,
                Proportion(successes=natural[label], total=totals[label]),
                Proportion(successes=robust[label], total=totals[label]),
            )
            for label in sorted(totals)
        )

    def fits(self, found: "Evaluation") -> bool:
        """Whether they can be those of this evaluation, by the numbers of images."""
        natural, robust = (
            sum(map(eq, self.labels, column)) for column in (self.natural, self.adversarial)
        )
        counts = (found.num_images, found.natural.successes, found.robust.successes)
        return (len(self.labels), natural, robust) == counts

    @property
    def num_classes(self) -> int:
        """One more than the largest class that occurs."""
        return max((*self.labels, *self.natural, *self.adversarial), default=-1) + 1

    def confusion(self, *, attacked: bool = True) -> tuple[tuple[int, ...], ...]:
        """How many images of each class were taken for each, as [true class][predicted class].

        Of the `attacked` images, where one that no attack broke counts as it is when clean, or of
        the clean ones. There are `num_classes` rows and columns.
        """
        said = self.adversarial if attacked else self.natural
        counts = Counter(zip(self.labels, said, strict=True))
        classes = range(self.num_classes)
        return tuple(tuple(counts[true, taken] for taken in classes) for true in classes)

    def to_frame(self) -> Any:
        """A `pandas.DataFrame` with a row for each image."""
        return data_frame(
            [
                dict(zip(self._columns, row, strict=True))
                for row in zip(*self._columns.values(), strict=True)
            ]
        )

    def save(self, path: Path) -> None:
        """Write outcomes.json atomically. Raises `RunError` if it cannot be written."""
        write_json(path, to_json(self), indent=None)

    @classmethod
    @typed
    def load(cls, path: Path | str) -> "Outcomes":
        """Read outcomes.json. Raises `RunError` or `ConfigError` if it is missing or damaged."""
        return from_json(cls, read_json(Path(path)), where=str(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Natural and robust accuracy of a model under a named suite."""

    suite: str
    """Name of the suite, without which robust accuracy means nothing."""
    threat: str
    """The threat in words, such as Linf 0.3 or Linf 8/255."""
    natural: Proportion
    """Clean images classified correctly."""
    attacks: tuple[AttackResult, ...]
    """What each attack left, in order of running."""
    robust: Proportion
    """Images that no attack of the suite broke."""
    num_images: int
    """Images of the test set that were evaluated."""
    seed: int
    """Seed of everything random in the attacks."""
    precision: str
    """Number format the attacks searched in, such as bf16 or fp32."""
    seconds: float
    """Wall-clock time of the whole evaluation."""
    environment: Environment
    """What it was computed with."""
    certified: Proportion | None = None
    """Images proved robust, a part of `robust`; `None` without a certificate."""
    certified_seconds: float | None = None
    """Time of the proofs; `None` without a certificate, or if it came after the attacks."""
    caveats: tuple[str, ...] = ()
    """What was other than usual about the suite, a sentence each."""
    findings: tuple[Finding, ...] | None = None
    """What the checks saw. `None`: not asked for. Empty: they had no image to look at."""
    checked_images: int | None = None
    """Images that the checks looked at; `None` if they were not asked for."""
    check_seconds: float | None = None
    """Time of the checks; `None` if they were not asked for, or were not timed."""
    own_threat: bool = True
    """Whether the threat is the run's own."""
    classes: tuple[int, ...] | None = None
    """The only classes whose images were taken; `None` for all."""
    weights: str = ""
    """Digest of the run's weights that were judged; empty outside a run."""
    judged: str = ""
    """Digest of images, labels and threat; empty in earlier versions."""
    method: str = ""
    """Digest of the attacks if some are of your own, else empty."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless the counts can belong to one evaluation, and its classes."""
        if self.classes is not None:
            if not self.classes:
                rule = "the classes of an evaluation must be one or more, or null for all"
                raise ConfigError.expected(rule, "none")
            _check_classes("an evaluation", self.classes)
        counts = (self.natural, *(attack.robust for attack in self.attacks), self.robust)
        if self.certified is not None:
            counts = (*counts, self.certified)
        if any(count.total != self.num_images for count in counts):
            totals = ", ".join(str(count.total) for count in counts)
            rule = f"all accuracies must be shares of the same {self.num_images} images"
            raise ConfigError.expected(rule, f"shares of {totals}")
        if any(after.successes > before.successes for before, after in pairwise(counts)):
            got = ", ".join(str(count.successes) for count in counts)
            rule = "numbers of natural, robust after each attack, robust and certified cannot rise"
            raise ConfigError.expected(rule, got)

    @property
    def withstood(self) -> Proportion | None:
        """Images that are not proved, and that no attack broke; `None` without a certificate."""
        if self.certified is None:
            return None
        left = self.robust.successes - self.certified.successes
        return Proportion(successes=left, total=self.num_images)

    @property
    def bracket(self) -> str:
        """The bounds of the true robust accuracy on these images; empty without a certificate."""
        if self.certified is None:
            return ""
        low, high = 100 * self.certified.share, 100 * self.robust.share
        return f"certified {low:.1f} % ≤ true ≤ {high:.1f} % attacked"

    @property
    def proofs(self) -> str:
        """Two sentences on the robust images that are proved; empty without a certificate."""
        if self.certified is None:
            return ""
        robust, proved = self.robust.successes, self.certified.successes
        return (
            f"Robust accuracy on these images: {self.bracket}. "
            f"Of {counted(robust, 'robust image')}, {count_text(proved)} are proved and "
            f"{count_text(robust - proved)} withstood every attack without a proof."
        )

    @property
    def checks(self) -> str:
        """One sentence on what the checks for gradient masking looked at, and what they flagged."""
        if self.findings is None:
            return "The checks for gradient masking were not run."
        if not self.findings:
            return (
                "The checks for gradient masking could not look at anything: they need images that "
                "the network classifies correctly, and there is none."
            )
        looked_at = self.checked_images
        on = "" if looked_at is None else f" on {counted(looked_at, 'image')}"
        few = "" if looked_at is None or looked_at >= FEW else ", too few to rule it out"
        flagged = f"{len(self.flags)} flagged" if self.flags else f"nothing flagged{few}"
        return f"{len(self.findings)} checks for gradient masking{on}: {flagged}."

    @property
    def title(self) -> str:
        """Under what the accuracies were measured."""
        return f"suite {self.suite}, {self.threat}, {counted(self.num_images, 'image')}"

    @override
    def __repr__(self) -> str:
        flags = "".join(f"\n  flag, {one.check}: {one.sentence}" for one in self.flags)
        words = [f"natural {self.natural}", f"robust {self.robust}", self.bracket]
        return f"{', '.join(filter(None, words))} ({self.title}){flags}"

    def _repr_html_(self) -> str:
        """The accuracies as a table, for a notebook."""
        rows = [(name, str(share)) for name, share in self._stages()]
        return html_table(f"{self.title}. {self.checks}", ("", "accuracy [95 % interval]"), rows)

    def _stages(self) -> list[tuple[str, Proportion]]:
        attacks = [(f"after {attack.name}", attack.robust) for attack in self.attacks]
        parts = [("certified", self.certified), ("withstood attacks only", self.withstood)]
        proved = [(name, share) for name, share in parts if share is not None]
        return [("natural", self.natural), *attacks, ("robust", self.robust), *proved]

    def to_dict(self) -> dict[str, Any]:
        """What evaluation.json holds."""
        return to_json(self)

    def to_frame(self) -> Any:
        """A `pandas.DataFrame` with a row for each accuracy: natural, after each attack, robust."""
        return data_frame(
            [
                {"images": name, "accuracy": share.share, **share.interval._asdict()}
                for name, share in self._stages()
            ]
        )

    @property
    def flags(self) -> tuple[Finding, ...]:
        """The findings that give a reason not to believe the robust accuracy."""
        return tuple(finding for finding in self.findings or () if finding.flagged)

    def save(self, path: Path) -> None:
        """Write evaluation.json atomically. Raises `RunError` if it cannot be written."""
        write_json(path, to_json(self))

    @classmethod
    @typed
    def load(cls, path: Path | str) -> "Evaluation":
        """Read evaluation.json. Raises `RunError` or `ConfigError` if it is missing or damaged."""
        return from_json(cls, read_json(Path(path)), where=str(path))
