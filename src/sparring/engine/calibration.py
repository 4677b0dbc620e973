"""What a batch costs, out of what was measured. Loads no torch. Units: seconds."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from sparring.engine.account import Account
from sparring.engine.speed import Costs
from sparring.errors import RunError
from sparring.records import Row
from sparring.records.metrics import number

if TYPE_CHECKING:
    from sparring.engine.overheads import Overheads

WARM = 5
"""Updates left out at the beginning, where caches are filled and kernels compiled."""


def costs_of(rows: Sequence[Row], where: str) -> Costs:
    """Of a run, from its log: of an asynchronous one with the engine's overheads, on average.

    Of others the medians of its attacks and updates, after the first five. Raises `RunError` if
    there is no update to tell from.
    """
    account = Account.of(rows, helps=True)
    if account is not None:
        return account.costs
    steps = [row for row in rows if "loss" in row][WARM:]
    if not steps or not all(number(row, "attack_seconds") for row in steps):
        raise RunError(
            f"a run must have more than {WARM} updates with attacks for its costs to be known; "
            f"{where} has not. Name another run, or leave it out to measure here."
        )
    return Costs(
        attack=median(number(row, "attack_seconds") for row in steps),
        update=median(number(row, "update_seconds") for row in steps),
    )


def with_overheads(costs: Costs, found: "Overheads") -> Costs:
    """The engine's own work added, as it was measured: a lease, a hand-over, a publication each."""
    micro = 1e-6
    return replace(
        costs,
        lease=micro * max(0.0, found.lease + found.batch + found.load),
        handover=micro * (found.handover + found.broker),
        publication=micro * found.publication,
    )
