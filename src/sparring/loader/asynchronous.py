"""The source whose batches are attacked by workers while the trainer updates.

Shapes: B batch.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks import AttackedBatch
from sparring.engine import (
    Broker,
    Engine,
    FixedLag,
    Lease,
    LocalExecutor,
    PolicyKind,
    Ready,
    Timings,
    Work,
)
from sparring.engine.attacker import Attacker, images_of, layout, load, publish
from sparring.engine.engine import PATIENCE, TRAINER
from sparring.engine.memory import Arena, Shape, size_of
from sparring.engine.transports.kinds import Processes, TransportKind
from sparring.engine.transports.no_workers import NoWorkers
from sparring.engine.transports.protocol import Transport
from sparring.errors import ConfigError
from sparring.loader.source import Place, Source, SourceSetup
from sparring.models import neighbours
from sparring.models.saved import Fields, Numbers
from sparring.records.checks import at_least, within
from sparring.records.environment import available_memory
from sparring.records.text import bytes_text, counted
from sparring.records.typed import typed_record

log = logging.getLogger(__name__)


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Asynchronous:
    """Workers attack batches with slightly old weights while the trainer updates (section 5)."""

    workers: int | None = None
    """Number of workers; with `0` the trainer attacks. Default for processes: one for each CUDA
    device but the trainer's, on a CPU one less than there are cores, shared evenly among several
    trainers; for Ray: as many as the policy keeps busy."""
    transport: TransportKind = field(default_factory=Processes)
    """Where workers are: processes of this machine, or actors of a Ray cluster."""
    policy: PolicyKind = field(default_factory=FixedLag)
    """Which weights a batch is attacked with, and how far attacks may run ahead."""
    fresh_steps: int = 4
    """The last steps of each attack, taken with the weights that the batch is trained on, which
    undo the effect of staleness (decision 7). Workers take them if the weights are published after
    every update, else the trainer. The first step is never one of them; the paper has none."""
    helps: bool = True
    """Whether the trainer attacks too while the next batch is not ready."""
    patience: float = PATIENCE
    """Seconds for which a worker may attack one batch before it is killed and replaced."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            at_least("source.workers", self.workers, 0)
        at_least("source.fresh_steps", self.fresh_steps, 0)
        within("source.patience", self.patience, "(0, inf]", f"The default is {PATIENCE:g}.")

    @property
    def split(self) -> int:
        """Parts of a ticket that are attacked apart."""
        return self.policy.split

    @property
    def bound(self) -> int:
        """The largest staleness of a batch, by the policy."""
        return self.policy.bound

    def count(self, trainer: torch.device, place: Place) -> int:
        """Number of workers beside a trainer on this device."""
        if self.workers is not None:
            return self.workers
        return self.transport.workers(self.policy, trainer, place)

    def layout(
        self, network: nn.Module, image_shape: Sequence[int], batch: int
    ) -> dict[str, Shape]:
        """The memory that trainer and workers share.

        Raises `ConfigError` if the machine cannot give that much.
        """
        policy = self.policy

        def found(buffers: int, slots: int) -> dict[str, Shape]:
            return layout(network, image_shape, batch=batch, buffers=buffers, slots=slots)

        none = size_of(found(0, 0))
        buffer, slot = size_of(found(1, 0)) - none, size_of(found(0, 1)) - none
        room, size = available_memory(), none + policy.buffers * buffer + policy.window * slot
        if room is not None and size > room:
            raise ConfigError.expected(
                f"{counted(policy.window, 'ticket')} and "
                f"{counted(policy.buffers, 'version')} of the weights must fit into the "
                f"{bytes_text(room)} of memory that is free",
                bytes_text(size),
                "Publish the weights less often (source.policy.period), or take a smaller lag, "
                "fewer credits or a smaller batch_size.",
            )
        return found(policy.buffers, policy.window)

    def open(self, setup: SourceSetup) -> "AsyncSource":
        """The source, whose workers start with the first batch."""
        return AsyncSource(self, setup)


class AsyncSource(Source, LocalExecutor):
    """Batches of an engine; a checkpoint keeps the old weights that are still needed."""

    def __init__(self, kind: Asynchronous, setup: SourceSetup) -> None:
        self._kind, self._setup = kind, setup
        crafter = setup.crafter
        images, device = crafter.images, crafter.device
        self._workers = kind.count(device, setup.place)
        self._broker = self._new_broker(trained=0)
        batch = crafter.recipe.rank_batch_size
        self._arena = Arena(kind.layout(setup.model.network, images.image_shape, batch))
        self._attacker = Attacker(setup.job, self._arena, images, device)
        with ExitStack() as unless_open:
            unless_open.callback(self._arena.close)
            self._transport = self._opened_transport() if self._workers else NoWorkers()
            unless_open.pop_all()
        self._engine: Engine | None = None
        self._ready: Ready | None = None
        self._taken: Ready | None = None
        self._timings = Timings()

    @override
    def next(self) -> AttackedBatch:
        if self._engine is None:
            self._engine = self._start()
        if self._taken is None:  # else its fresh steps were interrupted here, before `updated`
            self._timings = replace(self._engine.timings)
            self._ready = self._taken = next(self._engine)
        ready = self._taken
        images = None
        if self._transport.shares_memory:
            images = self._copied(self._arena[f"clean {ready.slot}"])
        batch = self._setup.crafter.clean(ready.ticket, images=images)
        stage = "last" if ready.finished else "whole"
        batch = replace(
            batch,
            adversarial=self._copied(images_of(self._arena, stage, ready.slot)),
            version=ready.version,
            eps=self._setup.crafter.recipe.plan(ready.ticket).eps,
            attack_seconds=ready.attack_seconds,
        )
        if self._broker.fresh_by == "trainer":
            batch = self._setup.craft(batch, "last")
            self._engine.timings.fresh += batch.attack_seconds - ready.attack_seconds
        return batch

    @override
    def figures(self) -> Mapping[str, int | float | str]:
        if self._ready is None or self._engine is None:
            return {}
        before, now = asdict(self._timings), asdict(self._engine.timings)
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

    @override
    def totals(self) -> Mapping[str, int]:
        # Leases that are out count as lost, as they would after a stop.
        ledger = self._broker.ledger
        counts = {item.name: getattr(ledger, item.name) for item in fields(ledger)}
        del counts["staleness"]
        counts["lost"] += len(self._broker.out)
        return counts

    @override
    def state(self) -> Mapping[str, Tensor]:
        kept = self._broker.kept(self._setup.model.version)
        state = {"versions": torch.tensor(sorted(kept.values()), dtype=torch.int64)}
        state |= {f"ledger {name}": torch.tensor(n) for name, n in self.totals().items()}
        probe = self._setup.job.network()
        for buffer, version in kept.items():
            load(probe, self._arena, buffer)
            state |= {f"{version} {n}": v.clone() for n, v in probe.state_dict().items()}
        return state

    @override
    def restore(self, state: Mapping[str, Tensor], trained: int) -> None:
        broker = self._new_broker(trained)
        network = self._setup.job.network()
        _schema(state, network, self._kind.policy.buffers, self.totals()).check(state, "source")
        versions = state["versions"].tolist()
        broker.check_kept(versions)
        for buffer, version in enumerate(versions):
            network.load_state_dict(
                {name: state[f"{version} {name}"] for name in network.state_dict()}
            )
            publish(network, self._arena, buffer)
            broker.published(buffer, version)
        for name in self.totals():
            setattr(broker.ledger, name, int(state[f"ledger {name}"]))
        self._broker = broker

    @override
    def close(self) -> None:
        self._transport.stop()
        self._arena.close()

    @override
    def updated(self) -> None:
        self._taken = None
        if self._engine is not None:
            self._engine.commit()

    @override
    def publish(self, buffer: int) -> None:
        publish(self._setup.model.network, self._arena, buffer)

    @override
    def attack(self, lease: Lease) -> Work:
        if lease.stage == "last" and not self._transport.shares_memory:
            self._attacker.gather(lease)
        model = self._setup.model
        current = lease.version == model.version
        return self._attacker(lease, model.copy.attacked if current else None)

    def _opened_transport(self) -> Transport:
        setup, images, device = self._setup, self._setup.crafter.images, self._setup.crafter.device
        devices = [str(each) for each in neighbours(device, *setup.place)]
        return self._kind.transport.open(
            setup.job, self._arena, images, devices, torch.get_num_threads()
        )

    def _copied(self, slot: Tensor) -> Tensor:
        """The images of a slot, which the next batch may overwrite."""
        images = self._attacker.device_copy.take(slot)
        return images.clone() if images.device.type == "cpu" else images

    def _new_broker(self, trained: int) -> Broker:
        kind = self._kind
        fresh = kind.fresh_steps > 0
        updates = self._setup.crafter.recipe.updates
        return Broker(kind.policy, tickets=updates, trained=trained, fresh=fresh)

    def _start(self) -> Engine:
        policy, workers = self._kind.policy, self._workers
        if policy.window * policy.split < workers:
            log.warning(
                "%d workers cannot all be busy: at most %d parts of batches are out at one time "
                "(%d batches in %d parts). Use fewer workers, a larger lag, more credits or more "
                "parts",
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
            stopped=self._setup.stopped,
        )


def _schema(
    state: Mapping[str, Tensor], network: nn.Module, buffers: int, totals: Mapping[str, int]
) -> Fields:
    """Old versions, at most one for each buffer, with their weights, and the ledger."""
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
