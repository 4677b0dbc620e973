"""How studies judge and word what they found."""

from collections.abc import Callable, Iterable, Sequence

from sparring.records import Claim
from sparring.studies.study import Measurements, Scale, Study, command_words, planned

SECONDS_ONLY = "the scale smoke trains for seconds; take --scale short or paper"
"""Why smoke tells nothing."""
UNMEASURED = "not all that it takes has been measured"


def judged(paper: str, found: str, *, untold: str = "", holds: Callable[[], bool | None]) -> Claim:
    """A claim with its verdict, which is not asked for where something keeps it from being told."""
    verdict = None if untold else holds()
    return Claim(
        paper=paper,
        found=found,
        holds=verdict,
        untold=untold or (UNMEASURED if verdict is None else ""),
    )


def too_small(scale: Scale) -> str:
    """Why this scale cannot tell; empty if it can."""
    return SECONDS_ONLY if scale == "smoke" else ""


def lacking(study: Study, scale: Scale, found: Measurements, names: Sequence[str]) -> str:
    """Why nothing can be told of these networks, and what it takes; empty if something can.

    Each must have been measured, and trained as far as the study plans, at a scale that tells.
    """
    if reason := too_small(scale):
        return reason
    come = {name: _come(found, name) for name in names}
    if missing := [name for name, updates in come.items() if not updates]:
        command = " ".join(command_words([study.name], scale))
        return f"it takes {', '.join(missing)} as well: {command}"
    known = study.networks(scale)
    enough = {name: planned(study, scale, known[name]) for name in names}
    return ", ".join(
        f"{name} has seen {come[name]:,} of {enough[name]:,} updates"
        for name in names
        if come[name] < enough[name]
    )


def _come(found: Measurements, network: str) -> int:
    """Updates of the last snapshot that was measured."""
    rows = found.where(network=network).having("version")
    return int(max(rows.column("version"), default=0))


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all hold; none of them, or one that cannot be told, leaves it open."""
    seen = list(verdicts)
    if False in seen:
        return False
    return True if seen and None not in seen else None


def per_cent(share: float) -> str:
    """A share in [0, 1] for people; the number and its sign stay in one line."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
