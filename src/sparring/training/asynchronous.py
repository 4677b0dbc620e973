"""The source whose batches come from workers, attacked while the trainer updates.

Shapes: B batch.
"""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace

import torch
from torch import Tensor, nn

from sparring.attacks import AttackedBatch
from sparring.engine import Broker, Engine, FixedLag, Lease, PolicyKind, Ready, Spent, Work
from sparring.engine.attacker import Attacker, layout, load, publish
from sparring.engine.engine import PATIENCE, TRAINER
from sparring.engine.memory import Arena
from sparring.engine.transports.kinds import Processes, TransportKind
from sparring.errors import ConfigError
from sparring.models import neighbours
from sparring.models.saved import Fields, Numbers
from sparring.records.ranges import at_least
from sparring.training.desk import Desk
from sparring.training.team import Place

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asynchronous:
    """Workers attack batches with slightly old weights while the trainer updates (section 5)."""

    workers: int | None = None
    """How many attack; with 0 the trainer does. Not given, processes: one for each CUDA device but
    the trainer's, on a CPU one less than there are cores, and several trainers share both evenly;
    Ray: as many as the policy keeps busy."""
    transport: TransportKind = field(default_factory=Processes)
    """Where they are: processes of this machine, or actors of a Ray cluster."""
    policy: PolicyKind = field(default_factory=FixedLag)
    """Which weights a batch is attacked with, and how far attacks may run ahead."""
    fresh_steps: int = 4
    """Steps of each attack, the last, that are taken with the weights that the batch is trained on:
    they undo what staleness does (decision 7). The first step is never one of them; the paper has
    none."""
    helps: bool = True
    """Whether the trainer attacks too where the next batch is not ready."""
    patience: float = PATIENCE
    """Seconds for which a worker may attack one batch before it is taken to hang, and replaced."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.workers is not None:
            at_least("source.workers", self.workers, 0)
        at_least("source.fresh_steps", self.fresh_steps, 0)
        if self.fresh_steps and self.policy.period != 1:
            raise ConfigError(
                "source.fresh_steps must be 0 where the weights are not published after every "
                "update, because those steps need the weights of the moment; got fresh_steps "
                f"{self.fresh_steps} and a period of {self.policy.period}. Set one of them so."
            )
        if not self.patience > 0:
            raise ConfigError(
                "source.patience must be above 0 because a worker needs time for a batch; got "
                f"{self.patience:g} seconds. The default is {PATIENCE:g}."
            )

    @property
    def split(self) -> int:
        """Parts of a ticket that are attacked apart."""
        return self.policy.split

    @property
    def bound(self) -> int:
        """The largest staleness of a batch, by the policy."""
        return self.policy.bound

    def count(self, trainer: torch.device, place: Place) -> int:
        """Workers beside a trainer on this device."""
        if self.workers is not None:
            return self.workers
        return self.transport.workers(self.policy, trainer, place)

    def open(self, desk: Desk, updates: int) -> "AsyncSource":
        """A source of `updates` batches; its workers start with the first."""
        return AsyncSource(self, desk, updates)


class AsyncSource:
    """Batches in ticket order from an engine; what it must keep over a stop are old weights."""

    def __init__(self, kind: Asynchronous, desk: Desk, updates: int) -> None:
        self._kind, self._desk, self._updates = kind, desk, updates
        network, images, policy = desk.network, desk.images, kind.policy
        self._workers = kind.count(desk.device, desk.place)
        self._broker = self._new_broker(trained=0)
        self._arena = Arena(
            layout(
                network,
                images.image_shape,
                batch=desk.job.batch_size,
                buffers=policy.buffers,
                slots=policy.window,
            )
        )
        self._attacker = Attacker(desk.job, self._arena, images, desk.device)
        with ExitStack() as unless_open:
            unless_open.callback(self._arena.close)
            self._transport = kind.transport.open(
                desk.job,
                self._arena,
                images,
                neighbours=neighbours(desk.device, *desk.place),
                threads=torch.get_num_threads(),
            )
            unless_open.pop_all()
        self._engine: Engine | None = None
        self._ready: Ready | None = None
        self._spent = Spent()

    def __iter__(self) -> "AsyncSource":
        return self

    def __next__(self) -> AttackedBatch:
        """The next ticket's batch; it holds until the weights are updated.

        Raises `StopIteration` also where the trainer was asked to stop and none is ready.
        """
        if self._engine is None:
            self._engine = self._start()
        self._spent = replace(self._engine.spent)
        ready = self._ready = next(self._engine)
        return replace(
            self._desk.recall(ready.ticket),
            adversarial=self._attacker.delivery.take(self._arena[f"slot {ready.slot}"]),
            version=ready.version,
            eps=self._desk.eps_of(ready.ticket),
            attack_seconds=ready.attack_seconds,
        )

    def figures(self) -> Mapping[str, int | float | str]:
        """Who attacked the last batch, where it became stale, what the trainer did meanwhile."""
        if self._ready is None or self._engine is None:
            return {}
        before, now = asdict(self._spent), asdict(self._engine.spent)
        leases = (*self._ready.parts, *self._ready.finished)
        sent = [part.work for part in leases if part.lease.worker != TRAINER]
        return {
            "worker": "+".join(str(part.lease.worker) for part in leases),
            "workers": self._engine.num_workers,
            "workers_attack_seconds": sum(work.attack for work in sent),
            "workers_overhead_seconds": sum(work.overhead for work in sent),
            "staleness_behind": self._ready.behind,
            "staleness_in_flight": self._ready.in_flight,
            "staleness_waiting": self._ready.waiting,
            "ready": self._broker.attacked,
            "leased": len(self._broker.out),
            **{f"{name}_seconds": now[name] - before[name] for name in now},
        }

    def totals(self) -> Mapping[str, int]:
        """The ledger of the whole run; leases that are out count as lost, as a stop would do."""
        ledger = self._broker.ledger
        counts = {item.name: getattr(ledger, item.name) for item in fields(ledger)}
        del counts["staleness"]
        counts["lost"] += len(self._broker.out)
        return counts

    def state(self) -> Mapping[str, Tensor]:
        """The versions that tickets after those trained so far will ask for, and the ledger."""
        kept = self._broker.kept(self._desk.version)
        state = {"versions": torch.tensor(sorted(kept.values()), dtype=torch.int64)}
        state |= {f"ledger {name}": torch.tensor(n) for name, n in self.totals().items()}
        probe = self._desk.job.network()
        for buffer, version in kept.items():
            load(probe, self._arena, buffer)
            state |= {f"{version} {n}": v.clone() for n, v in probe.state_dict().items()}
        return state

    def restore(self, state: Mapping[str, Tensor], trained: int) -> None:
        """Put those versions back, to go on after `trained` batches."""
        self._broker = self._new_broker(trained)
        network = self._desk.job.network()
        _schema(state, network, self._kind.policy.buffers, self.totals()).check(state, "source")
        for buffer, version in enumerate(state["versions"].tolist()):
            network.load_state_dict(
                {name: state[f"{version} {name}"] for name in network.state_dict()}
            )
            publish(network, self._arena, buffer)
            self._broker.published(buffer, version)
        for name in self.totals():
            setattr(self._broker.ledger, name, int(state[f"ledger {name}"]))

    def close(self) -> None:
        """End the workers and give the memory back; may be called twice."""
        self._transport.stop()
        self._arena.close()

    def updated(self) -> None:
        """The weights are new: workers may have them at once."""
        if self._engine is not None:
            self._engine.commit()

    def publish(self, buffer: int) -> None:
        """Write the trainer's weights to this buffer."""
        publish(self._desk.network, self._arena, buffer)

    def attack(self, lease: Lease) -> Work:
        """Carry out a lease in this process; the current weights need not be copied."""
        current = lease.version == self._desk.version
        return self._attacker(lease, self._desk.logits_of if current else None)

    def _new_broker(self, trained: int) -> Broker:
        kind = self._kind
        fresh = kind.fresh_steps > 0
        return Broker(kind.policy, tickets=self._updates, trained=trained, fresh=fresh)

    def _start(self) -> Engine:
        policy, workers = self._kind.policy, self._workers
        if policy.window * policy.split < workers:
            log.warning(
                "%d workers cannot all work: at most %d parts of batches are out at one time "
                "(%d batches in %d parts). Take fewer workers, a larger lag or more credits, or "
                "split batches further",
                workers,
                policy.window * policy.split,
                policy.window,
                policy.split,
            )
        return Engine(
            self._broker,
            self._transport,
            self,
            workers=workers,
            helps=self._kind.helps,
            patience=self._kind.patience,
            stopped=self._desk.stopped,
        )


def _schema(
    state: Mapping[str, Tensor], network: nn.Module, buffers: int, totals: Mapping[str, int]
) -> Fields:
    """Old versions, no more than there are buffers, the weights of each, and the ledger."""
    found = state.get("versions")
    versions = found.tolist() if isinstance(found, Tensor) and found.numel() <= buffers else []
    weights = {
        f"{version} {name}": Numbers.like(value)
        for version in versions
        for name, value in network.state_dict().items()
    }
    count = Numbers(dtype=torch.int64, shape=(), least=0)
    ledger = {f"ledger {name}": count for name in totals}
    kept = Numbers(dtype=torch.int64, shape=(len(versions),), least=0)
    return Fields({"versions": kept, **weights, **ledger})
