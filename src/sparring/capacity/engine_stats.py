"""Where an asynchronous run's time went, and the costs of a batch: both from the run's log.

Loads no torch. Units: staleness in updates, times in seconds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median

from sparring.capacity.formula import Costs
from sparring.engine.lease import Ledger
from sparring.engine.policies import PolicyKind, fresh_steps_by
from sparring.errors import RunError
from sparring.records import Row, from_json
from sparring.records.metrics import number

LEDGER = tuple(item.name for item in fields(Ledger) if item.name != "staleness")
"""Names of the ledger's totals in a row of the log."""
WARM_UP = 5
"""Updates at the beginning that are left out, because caches are filled and kernels compiled."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EngineStats:
    """Time and staleness of an asynchronous run, over all of its updates."""

    rows: Sequence[Row]
    """A row per update, oldest first; at least one."""
    ledger: Mapping[str, int]
    """The ledger's totals at the last checkpoint, over all sessions; empty before it."""
    helps: bool
    """Whether the trainer attacks, too."""
    fresh: float = 0.0
    """Share of an attack that workers take after the update before it."""
    parts: int = 1
    """Parts of a ticket, which may be attacked at once."""

    @classmethod
    def from_rows(
        cls, rows: Sequence[Row], *, helps: bool, fresh: float = 0.0, parts: int = 1
    ) -> "EngineStats | None":
        """Statistics of a run's log; `None` if it has no times of an engine's updates."""
        updates = [
            row for row in rows if all(name in row for name in ("loss", "worker", "workers"))
        ]
        totals = [row for row in rows if all(name in row for name in LEDGER)]
        ledger = {name: int(number(totals[-1], name)) for name in LEDGER} if totals else {}
        if not updates or not all(
            sum(number(row, f"{what}_seconds") for row in updates) > 0
            for what in ("attack", "update")
        ):
            return None
        return cls(rows=updates, ledger=ledger, helps=helps, fresh=fresh, parts=parts)

    @classmethod
    def from_run(
        cls, rows: Sequence[Row], config: Mapping[str, object], where: str
    ) -> "EngineStats | None":
        """Statistics of a log with the run's settings; `None` if the run had no engine.

        `where` names the file of the settings in errors. Raises `ConfigError` for settings that
        cannot be read.
        """
        source, attack = config.get("source"), config.get("attack")
        if not isinstance(source, Mapping) or "policy" not in source:
            return None
        policy = from_json(PolicyKind, source["policy"], where=where, path="source.policy")
        steps = attack.get("steps") if isinstance(attack, Mapping) else None
        given = {"source.fresh_steps": source.get("fresh_steps"), "attack.steps": steps}
        fresh, of = (
            from_json(int, count or 0, where=where, path=path) for path, count in given.items()
        )
        share = min(1.0, fresh / of) if of else 0.0
        if not policy.bound:  # nothing runs ahead: the whole attack waits for the weights
            share = 1.0
        elif fresh_steps_by(policy, fresh=share > 0) == "trainer":
            share = 0.0  # its fresh steps are in the log
        return cls.from_rows(rows, helps=bool(source.get("helps")), fresh=share, parts=policy.split)

    @property
    def staleness(self) -> Counter[int]:
        """Number of updates by staleness."""
        return Counter(int(number(row, "staleness")) for row in self.rows)

    @property
    def sources_of_staleness(self) -> dict[str, float]:
        """Mean staleness in three parts: age of the weights at the lease, in flight, waiting."""
        names = ("behind", "in_flight", "waiting")
        return {name: self.mean(f"staleness_{name}") for name in names}

    @property
    def workers(self) -> int:
        """Largest number of workers that were up at one time."""
        return int(max(number(row, "workers") for row in self.rows))

    @property
    def attacked_by(self) -> Counter[str]:
        """Number of tickets, or of parts of them, by the worker that attacked them."""
        return Counter(name for row in self.rows for name in str(row["worker"]).split("+"))

    @property
    def trainer_shares(self) -> dict[str, float]:
        """Shares of the trainer's time by activity, without validation and checkpoints."""
        spent = {
            "updating": self.mean("update_seconds"),
            "attacking": self.mean("help_seconds"),
            "fresh steps": self.mean("fresh_seconds"),
            "publishing": self.mean("publish_seconds"),
            "waiting": self.mean("wait_seconds"),
        }
        spent["handing over"] = max(0.0, self.seconds_per_update - sum(spent.values()))
        return {what: seconds / self.seconds_per_update for what, seconds in spent.items()}

    @property
    def busy_workers(self) -> float:
        """Share of the time that workers spent on leases, once they were up."""
        attended = sum(number(row, "workers") * _trainer_seconds(row) for row in self.rows)
        spent = self.mean("workers_attack_seconds") + self.mean("workers_overhead_seconds")
        return min(1.0, spent * len(self.rows) / attended) if attended else 0.0

    @property
    def seconds_per_update(self) -> float:
        """The trainer's time per update, including the wait for its batch."""
        return sum(map(_trainer_seconds, self.rows)) / len(self.rows)

    @property
    def batch_costs(self) -> Costs:
        """Mean costs of a batch; its attack includes the fresh steps, wherever they are taken."""
        by_workers = sum(number(row, "workers_attack_seconds") for row in self.rows)
        overhead = sum(number(row, "workers_overhead_seconds") for row in self.rows)
        attack = self.mean("attack_seconds")
        ahead = attack - self.mean("fresh_seconds")
        return Costs(
            attack=attack,
            update=self.mean("update_seconds"),
            lease=ahead * overhead / by_workers if by_workers else 0.0,
            handover=self.trainer_shares["handing over"] * self.seconds_per_update,
            publication=self.mean("publish_seconds"),
        )

    @property
    def costs(self) -> Costs:
        """The same as the engine divides them among trainer and workers."""
        own = self.mean("fresh_seconds") / self.mean("attack_seconds")
        costs = self.batch_costs.finished_by_trainer(own)
        attackers = max(1, self.workers + self.helps)
        return costs.chained(self.fresh, min(self.parts, attackers))

    @property
    def speed_up(self) -> float:
        """Measured, against one process with as many threads that attacks and updates in turn."""
        return self.costs.serial / self.seconds_per_update

    @property
    def predicted_speed_up(self) -> float:
        """The same by the formula, with this run's costs."""
        return self.costs.speed_up(self.workers, helps=self.helps)

    @property
    def bottleneck(self) -> str:
        """What limits the speed, by the formula; the fresh steps if the trainer's own do."""
        limit = self.costs.bottleneck(self.workers, helps=self.helps)
        is_own = self.mean("fresh_seconds") > self.costs.trainer / 2
        return "fresh steps" if limit == "trainer" and is_own else limit

    def mean(self, name: str) -> float:
        """Mean of a measurement over all updates."""
        return sum(number(row, name) for row in self.rows) / len(self.rows)

    def as_json(self) -> dict[str, object]:
        """All statistics as JSON values."""
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
            "batch_costs": {name: getattr(self.batch_costs, name) for name in ("attack", "update")},
            "speed_up": self.speed_up,
            "predicted_speed_up": self.predicted_speed_up,
            "bottleneck": self.bottleneck,
            "advised_workers": self.costs.advised_workers,
        }


def costs_from_log(rows: Sequence[Row], where: str) -> Costs:
    """Costs of a batch from a run's log.

    Those of an asynchronous run are means and include the engine's overheads. Those of another run
    are medians of its attacks and updates after the first five. `where` names the run in errors.
    Raises `RunError` if the log has too few updates.
    """
    stats = EngineStats.from_rows(rows, helps=True)
    if stats is not None:
        return stats.batch_costs
    updates = [row for row in rows if "loss" in row][WARM_UP:]
    if not updates or not all(number(row, "attack_seconds") for row in updates):
        raise RunError(
            f"{where} has no costs of a batch: a run must have more than {WARM_UP} updates with "
            "attacks. Name another run, or leave it out to measure here."
        )
    return Costs(
        attack=median(number(row, "attack_seconds") for row in updates),
        update=median(number(row, "update_seconds") for row in updates),
    )


def _trainer_seconds(row: Row) -> float:
    # Earlier logs have no time of a commit, only that of its publication.
    after = "commit" if "commit_seconds" in row else "publish"
    return sum(number(row, f"{what}_seconds") for what in ("supply", "update", after))
