"""The trace of a run: with which weights each batch was attacked, as metrics.jsonl tells it.

Ticket t is trained on by the weights of version t, at step t + 1, and was attacked with those of
version t - staleness.
"""

from typing import NamedTuple

from sparring.errors import RunError
from sparring.records import MetricsLog, Row, RunDirectory
from sparring.records.ranges import count_in
from sparring.records.refusal import shown

REMEDY = "Restore the file, or take another run."
"""What to do about a damaged trace: nothing else tells what it told."""


class Traced(NamedTuple):
    """What the trace says of one ticket."""

    staleness: int
    """Version of the weights that it was trained on minus the version it was attacked with."""
    loss: float
    """The objective's value when it was trained on."""
    of_trainers: tuple[int, ...] = ()
    """Of several trainers, each one's own staleness."""

    def staleness_of(self, rank: int) -> int:
        """That of the part of this trainer."""
        return self.of_trainers[rank] if rank < len(self.of_trainers) else self.staleness


def read_trace(run: RunDirectory, updates: int | None = None) -> list[Traced]:
    """The first so many tickets that were trained on, in order, or all.

    Raises `RunError` if there are fewer, or if steps are missing, repeated or cannot be meant.
    """
    rows = [row for row in MetricsLog(run.metrics).rows() if "loss" in row]
    if not rows:
        raise RunError(
            f"a run must have done an update to be replayed, because the row of each says with "
            f"which weights its batch was attacked; {run.metrics} has no such row. Train first, or "
            f"take another run."
        )
    trace = [_traced(run, row, step) for step, row in enumerate(rows, start=1)]
    if updates is not None and len(trace) < updates:
        raise RunError(
            f"{run.metrics} must have a row for each of the {updates} updates that the stored "
            f"weights have seen, because a replay follows them; it ends at step {len(trace)}. "
            f"{REMEDY}"
        )
    return trace[:updates]


def _traced(run: RunDirectory, row: Row, step: int) -> Traced:
    if row.get("step") != step:
        raise RunError(
            f"the steps in {run.metrics} must rise by one from 1, because each update starts from "
            f"the one before it; step {shown(row.get('step'))} is where step {step} must be. "
            f"{REMEDY}"
        )
    staleness, loss = row.get("staleness"), row["loss"]
    if not isinstance(staleness, int) or not 0 <= staleness < step:
        raise RunError(
            f"the staleness of step {step} must lie in 0 to {step - 1}, because there are no "
            f"weights before version 0 and none yet after version {step - 1}; {run.metrics} has "
            f"{shown(staleness)}. {REMEDY}"
        )
    if not isinstance(loss, int | float):
        raise RunError(
            f"the loss of step {step} must be a number, because a replay is compared with it; "
            f"{run.metrics} has {shown(loss)}. {REMEDY}"
        )
    return Traced(staleness=staleness, loss=loss, of_trainers=_of_trainers(run, row, step))


def _of_trainers(run: RunDirectory, row: Row, step: int) -> tuple[int, ...]:
    ages = row.get("staleness_of_trainers")
    if ages is None:
        return ()
    own = tuple(count_in(age) for age in str(ages).split("+") if age.isdecimal())
    if not own or max(own) != row["staleness"] or "+".join(map(str, own)) != ages:
        raise RunError(
            f"staleness_of_trainers of step {step} must be a number for each trainer, the largest "
            f"of them its staleness, because a replay attacks each one's part with that version; "
            f"{run.metrics} has {shown(ages)}. {REMEDY}"
        )
    return own
