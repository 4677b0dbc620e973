"""How studies judge and word what they found."""

from collections.abc import Iterable


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all hold; none of them, or one that cannot be told, leaves it open."""
    seen = list(verdicts)
    if False in seen:
        return False
    return True if seen and None not in seen else None


def per_cent(share: float) -> str:
    """A share in [0, 1] for people; the number and its sign stay in one line."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
