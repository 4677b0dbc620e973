"""How studies judge and word what they found."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from sparring.records import Claim
from sparring.studies.study import Measurements, Scale, Study, command_words, planned

SECONDS_ONLY = "the scale smoke trains for seconds; take --scale short or paper"
"""Why smoke tells nothing."""
UNMEASURED = "not all that it takes has been measured"


class Standing(NamedTuple):
    """What stands between a study and a verdict."""

    untold: str = ""
    """Why there is no verdict, and what it takes; empty if there is one."""
    so_far: str = ""
    """Which networks are not trained to the end, and how far they are; empty if all are."""


def judged(
    paper: str, found: str, *, standing: Standing, holds: Callable[[], bool | None]
) -> Claim:
    """A claim with its verdict; `holds` is called only where there is one."""
    verdict = None if standing.untold else holds()
    return Claim(
        paper=paper,
        found=found,
        holds=verdict,
        untold=standing.untold or (UNMEASURED if verdict is None else ""),
        so_far=standing.so_far,
    )


def too_small(scale: Scale) -> Standing:
    """That the scale smoke gives no verdict."""
    return Standing(untold=SECONDS_ONLY if scale == "smoke" else "")


def standing(study: Study, scale: Scale, found: Measurements, names: Sequence[str]) -> Standing:
    """What a verdict on these networks lacks: each must have been measured, at a scale that tells.

    Networks that the study has not trained to the end give a verdict so far.
    """
    if scale == "smoke":
        return too_small(scale)
    come = {name: _come(found, name) for name in names}
    if missing := [name for name, updates in come.items() if not updates]:
        command = " ".join(command_words([study.name], scale))
        return Standing(untold=f"it takes {', '.join(missing)} as well: {command}")
    known = study.networks(scale)
    enough = {name: planned(study, scale, known[name]) for name in names}
    under_way = (
        f"{name}: {come[name]:,} of {enough[name]:,} updates"
        for name in names
        if come[name] < enough[name]
    )
    return Standing(so_far=", ".join(under_way))


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
