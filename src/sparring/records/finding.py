"""What a check of an evaluation saw, and whether it speaks against the number."""

from dataclasses import dataclass


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
