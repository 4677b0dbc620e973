"""The known name that somebody probably meant."""

import difflib
from collections.abc import Iterable

from sparring.records.kinds import setting_types, settings_below

SIMILAR = 0.6
"""Least similarity of a suggestion: two swapped letters in a word of five still pass."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Known name most like `name`, whatever the case; `None` if none is similar."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=SIMILAR)
    return by_folded[close[0]] if close else None


def nearest_setting(name: str, cls: type) -> str | None:
    """Setting of that very name deeper inside a record class, else its own setting most like it."""
    same = (below for below in settings_below(cls) if below.rpartition(".")[2] == name)
    return next(same, None) or nearest(name, setting_types(cls))


def did_you_mean(suggestion: str | None) -> str:
    """Closing sentence of a message, with the space before it; empty without a suggestion."""
    return "" if suggestion is None else f" Did you mean {suggestion}?"
