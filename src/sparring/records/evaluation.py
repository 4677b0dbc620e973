"""What an evaluation found, complete enough to be judged without the model."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sparring.errors import ConfigError
from sparring.records.codec import from_json, to_json
from sparring.records.environment import Environment
from sparring.records.files import read_json, write_json
from sparring.records.finding import Finding
from sparring.records.interval import Proportion
from sparring.records.typed import typed
from sparring.records.wording import counted

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

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless there is one entry for each image."""
        lengths = {len(getattr(self, name)) for name in self.__slots__}
        if len(lengths) > 1:
            raise ConfigError(
                "outcomes must have one entry for each image in every column; got columns of "
                f"{', '.join(map(str, sorted(lengths)))} entries."
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
    """Images that provably nothing within the threat can break; none if that was not asked for."""
    caveats: tuple[str, ...] = ()
    """What was other than usual about the suite, a sentence each."""
    findings: tuple[Finding, ...] | None = None
    """What the checks for gradient masking and a broken evaluation saw. `None`: they were not
    asked for. Empty: they had no image to look at."""
    checked_images: int | None = None
    """Images that the checks looked at; `None` if they were not asked for."""
    weights: str = ""
    """Digest of the run's weights that were judged; empty outside a run."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless the counts can belong to one evaluation."""
        counts = (self.natural, *(attack.robust for attack in self.attacks), self.robust)
        if self.certified is not None:
            counts = (*counts, self.certified)
        if any(count.total != self.num_images for count in counts):
            raise ConfigError(
                f"all accuracies must be shares of the same {self.num_images} images; got shares "
                f"of {', '.join(str(count.total) for count in counts)}."
            )
        if any(after.successes > before.successes for before, after in pairwise(counts)):
            raise ConfigError(
                "each attack can only lower the number of robust images; got "
                f"{', '.join(str(count.successes) for count in counts)} (natural, attacks, robust, "
                "and certified if it is there, which is their lower bound)."
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
