"""What `sparring inspect` shows of an asynchronous run's engine. Loads no torch."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from sparring.cli.console import count_text, counted
from sparring.engine.account import Account
from sparring.engine.policies import PolicyKind
from sparring.records import Row, from_json

BARS = 8
"""Most rows of the histogram."""
LENGTH = 40
"""Characters of the longest bar."""


def read_account(rows: Sequence[Row], config: Mapping[str, object], where: str) -> Account | None:
    """The engine's account in a run's log, by the run's settings; none if it had no engine."""
    source, attack = config.get("source"), config.get("attack")
    if not isinstance(source, Mapping) or "policy" not in source:
        return None
    policy = from_json(PolicyKind, source["policy"], where=where, path="source.policy")
    steps = attack.get("steps") if isinstance(attack, Mapping) else None
    fresh, of = (from_json(int, given or 0) for given in (source.get("fresh_steps"), steps))
    share = min(1.0, fresh / of) if of else 0.0
    share = share if policy.bound else 1.0  # in step all of an attack waits
    return Account.of(rows, helps=bool(source.get("helps")), fresh=share, parts=policy.split)


def engine_lines(account: Account, source: Mapping[str, object], where: str) -> Iterator[str]:
    """Staleness, who was busy and who waited, the ledger, and how many workers would do."""
    policy = from_json(PolicyKind, source["policy"], where=where, path="source.policy")
    helper = ", helped by the trainer" if account.helps else ""
    yield f"engine: {counted(account.workers, 'worker')}{helper}"
    yield f"staleness in updates, {policy.bound} at most by the policy:"
    yield from histogram(account.staleness)
    split = account.sources_of_staleness
    yield (
        f"  {sum(split.values()):.1f} on average: {split['behind']:.1f} old when leased, "
        f"{split['in_flight']:.1f} in flight, {split['waiting']:.1f} waiting to be trained"
    )
    shares = ", ".join(f"{what} {share:.0%}" for what, share in account.trainer_shares.items())
    yield f"trainer: {shares}"
    names = ", ".join(
        f"{_who(name)} {count_text(count)}" for name, count in account.attacked_by.most_common(BARS)
    )
    busy = account.busy_workers
    yield f"workers: busy {busy:.0%}, waiting {1 - busy:.0%}; leases done: {names}"
    yield (
        f"queue: {account.mean('ready'):.1f} batches ready and {account.mean('leased'):.1f} "
        "leases out on average"
    )
    if account.ledger:
        ledger = ", ".join(f"{count_text(n)} {what}" for what, n in account.ledger.items())
        yield f"ledger: {ledger}"
    yield from _speed(account)


def histogram(staleness: Counter[int]) -> Iterator[str]:
    """Updates by staleness, neighbours together where there are many."""
    least, most = min(staleness), max(staleness)
    width = -(-(most - least + 1) // BARS)
    bins: Counter[int] = Counter()
    for age, count in staleness.items():
        bins[(age - least) // width] += count
    longest = max(bins.values())
    for place in sorted(bins):
        first = least + place * width
        ages = str(first) if width == 1 else f"{first}-{min(first + width - 1, most)}"
        bar = "#" * max(1, round(LENGTH * bins[place] / longest))
        yield f"  {ages:>9}  {bar} {count_text(bins[place])}"


def _who(name: str) -> str:
    return name if name == "trainer" else f"worker {name}"


def _speed(account: Account) -> Iterator[str]:
    costs = account.costs
    yield (
        f"a batch: attack {1000 * costs.attack:.1f} ms, update {1000 * costs.update:.1f} ms; "
        f"overheads: lease {1000 * costs.lease:.1f} ms, hand-over {1000 * costs.handover:.1f} ms, "
        f"publication {1000 * costs.publication:.1f} ms"
    )
    bottleneck = costs.bottleneck(account.workers, helps=account.helps)
    yield (
        f"speed-up over one process that does both: {account.speed_up:.2f} measured, "
        f"{account.predicted_speed_up:.2f} by the formula; bottleneck: {bottleneck}; advised: "
        f"{counted(costs.advised_workers, 'worker')}, one device each"
    )
