"""What the log of an asynchronous run tells of its engine: who waited for whom, and why.

Reads rows and loads no torch. Units: staleness in updates, times in seconds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from sparring.engine.lease import Ledger
from sparring.engine.speed import Costs
from sparring.records import Row
from sparring.records.metrics import number

LEDGER = tuple(item.name for item in fields(Ledger) if item.name != "staleness")
"""Names of the totals in a row, as the ledger has them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Account:
    """An asynchronous run's time and staleness, over all of its updates."""

    steps: Sequence[Row]
    """A row an update, oldest first; at least one."""
    ledger: Mapping[str, int]
    """The ledger's totals at the last checkpoint, all sittings together; empty before it."""
    helps: bool
    """Whether the trainer attacks too."""
    fresh: float = 0.0
    """Share of an attack that waits for the update before it."""
    parts: int = 1
    """Parts of a ticket, which may be attacked at once."""

    @classmethod
    def of(
        cls, rows: Sequence[Row], *, helps: bool, fresh: float = 0.0, parts: int = 1
    ) -> "Account | None":
        """The account in a run's log; none if it has no times of updates from an engine."""
        steps = [row for row in rows if all(name in row for name in ("loss", "worker", "workers"))]
        totals = [row for row in rows if all(name in row for name in LEDGER)]
        ledger = {name: int(number(totals[-1], name)) for name in LEDGER} if totals else {}
        if not steps or not all(
            sum(number(row, f"{what}_seconds") for row in steps) > 0
            for what in ("attack", "update")
        ):
            return None
        return cls(steps=steps, ledger=ledger, helps=helps, fresh=fresh, parts=parts)

    @property
    def staleness(self) -> Counter[int]:
        """Updates by staleness."""
        return Counter(int(number(row, "staleness")) for row in self.steps)

    @property
    def sources_of_staleness(self) -> dict[str, float]:
        """Its mean, split: weights old when leased, updates in flight, updates waiting."""
        names = ("behind", "in_flight", "waiting")
        return {name: self.mean(f"staleness_{name}") for name in names}

    @property
    def workers(self) -> int:
        """Workers that were up at one time, at most."""
        return int(max(number(row, "workers") for row in self.steps))

    @property
    def attacked_by(self) -> Counter[str]:
        """Tickets, or parts of them, by who attacked them."""
        return Counter(name for row in self.steps for name in str(row["worker"]).split("+"))

    @property
    def trainer_shares(self) -> dict[str, float]:
        """Where the trainer's time went, as shares of it; looks and checkpoints are left out."""
        spent = {
            "updating": self.mean("update_seconds"),
            "attacking": self.mean("help_seconds"),
            "publishing": self.mean("publish_seconds"),
            "waiting": self.mean("wait_seconds"),
        }
        spent["handing over"] = max(0.0, self.seconds_per_update - sum(spent.values()))
        return {what: seconds / self.seconds_per_update for what, seconds in spent.items()}

    @property
    def busy_workers(self) -> float:
        """Share of their time that workers spent on leases, once they were up."""
        attended = sum(number(row, "workers") * _trainer_seconds(row) for row in self.steps)
        spent = self.mean("workers_attack_seconds") + self.mean("workers_overhead_seconds")
        return min(1.0, spent * len(self.steps) / attended) if attended else 0.0

    @property
    def seconds_per_update(self) -> float:
        """The trainer's time for one update and the wait for its batch."""
        return sum(map(_trainer_seconds, self.steps)) / len(self.steps)

    @property
    def costs(self) -> Costs:
        """What a batch took here, on average."""
        by_workers = sum(number(row, "workers_attack_seconds") for row in self.steps)
        overhead = sum(number(row, "workers_overhead_seconds") for row in self.steps)
        attack = self.mean("attack_seconds")
        costs = Costs(
            attack=attack,
            update=self.mean("update_seconds"),
            lease=attack * overhead / by_workers if by_workers else 0.0,
            handover=self.trainer_shares["handing over"] * self.seconds_per_update,
            publication=self.mean("publish_seconds"),
        )
        who = max(1, self.workers + self.helps)
        return costs.chained(self.fresh, min(self.parts, who))

    @property
    def speed_up(self) -> float:
        """Against one process of as many threads that attacks and updates in turn, measured."""
        return self.costs.serial / self.seconds_per_update

    @property
    def predicted_speed_up(self) -> float:
        """The same by the formula, with this run's costs."""
        return self.costs.speed_up(self.workers, helps=self.helps)

    def mean(self, name: str) -> float:
        """Mean of a figure over all updates."""
        return sum(number(row, name) for row in self.steps) / len(self.steps)

    def as_json(self) -> dict[str, object]:
        """Everything, for machines."""
        return {
            "workers": self.workers,
            "attacked_by": dict(self.attacked_by),
            "staleness": {str(s): count for s, count in sorted(self.staleness.items())},
            "staleness_from": self.sources_of_staleness,
            "trainer_shares": self.trainer_shares,
            "workers_busy": self.busy_workers,
            "ready_mean": self.mean("ready"),
            "leased_mean": self.mean("leased"),
            "ledger": dict(self.ledger),
            "costs": {item.name: getattr(self.costs, item.name) for item in fields(Costs)},
            "speed_up": self.speed_up,
            "predicted_speed_up": self.predicted_speed_up,
            "bottleneck": self.costs.bottleneck(self.workers, helps=self.helps),
            "advised_workers": self.costs.advised_workers,
        }


def _trainer_seconds(row: Row) -> float:
    # Earlier logs tell of a commit only what its publication took.
    after = "commit" if "commit_seconds" in row else "publish"
    return sum(number(row, f"{what}_seconds") for what in ("supply", "update", after))
