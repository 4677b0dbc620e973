"""The source whose batches come from workers, attacked while the trainer updates.

Shapes: B batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparring.attacks import AttackedBatch
from sparring.engine import Broker, Engine, FixedLag, Lease, PolicyKind
from sparring.engine.attacker import Attacker, layout, load, publish
from sparring.engine.memory import Arena
from sparring.engine.transports import ProcessTransport
from sparring.records.environment import available_cores
from sparring.records.ranges import at_least
from sparring.training.desk import Desk


@dataclass(frozen=True, kw_only=True, slots=True)
class Asynchronous:
    """Workers attack batches with slightly old weights while the trainer updates (section 5)."""

    workers: int | None = None
    """Processes that attack; not given, one less than there are cores; with 0 the trainer does."""
    policy: PolicyKind = field(default_factory=FixedLag)
    """Which weights a batch is attacked with, and how far attacks may run ahead."""
    helps: bool = True
    """Whether the trainer attacks too where the next batch is not ready."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.workers is not None:
            at_least("workers", self.workers, 0)

    @property
    def num_workers(self) -> int:
        """Workers on this machine."""
        return max(1, available_cores() - 1) if self.workers is None else self.workers

    def open(self, desk: Desk, updates: int) -> "AsyncSource":
        """A source of `updates` batches; its workers start with the first."""
        return AsyncSource(self, desk, updates)


class AsyncSource:
    """Batches in ticket order from an engine; what it must keep over a stop are old weights."""

    def __init__(self, kind: Asynchronous, desk: Desk, updates: int) -> None:
        self._kind, self._desk, self._updates = kind, desk, updates
        network, images, policy = desk.network, desk.images, kind.policy
        parts = policy.parts(kind.num_workers)
        self._broker = Broker(policy, tickets=updates, parts=parts)
        shapes = layout(
            network, images, batch=desk.job.batch_size, buffers=policy.buffers, slots=policy.window
        )
        self._arena = Arena(shapes)
        self._arena["pixels"].copy_(images.pixels)
        self._arena["labels"].copy_(images.labels)
        self._attacker = Attacker(desk.job, self._arena, images.num_classes, desk.device)
        self._engine: Engine | None = None

    def __iter__(self) -> "AsyncSource":
        return self

    def __next__(self) -> AttackedBatch:
        """The next ticket's batch; it holds until the one after it is asked for."""
        if self._engine is None:
            self._engine = self._start()
        ready = next(self._engine)
        adversarial = self._arena[f"slot {ready.slot}"].to(self._desk.device)
        return replace(
            self._desk.recall(ready.ticket),
            adversarial=adversarial,
            version=ready.version,
            eps=self._desk.eps_of(ready.ticket),
            attack_seconds=ready.seconds,
        )

    def state(self) -> Mapping[str, Tensor]:
        """The versions that tickets after those trained so far will ask for."""
        kept = self._broker.kept(self._desk.version)
        state = {"versions": torch.tensor(sorted(kept.values()), dtype=torch.int64)}
        probe = self._desk.job.network()
        for buffer, version in kept.items():
            load(probe, self._arena, buffer)
            state |= {f"{version} {n}": v.clone() for n, v in probe.state_dict().items()}
        return state

    def restore(self, state: Mapping[str, Tensor], trained: int) -> None:
        """Put those versions back, to go on after `trained` batches."""
        parts = self._broker.parts
        self._broker = Broker(
            self._kind.policy, tickets=self._updates, trained=trained, parts=parts
        )
        network = self._desk.job.network()
        for buffer, version in enumerate(state["versions"].tolist()):
            network.load_state_dict(
                {name: state[f"{version} {name}"] for name in network.state_dict()}
            )
            publish(network, self._arena, buffer)
            self._broker.published(buffer, version)

    def close(self) -> None:
        """End the workers and give the memory back; may be called twice."""
        if self._engine is not None:
            self._engine.close()
        self._arena.close()

    def publish(self, buffer: int) -> None:
        """Write the trainer's weights to this buffer."""
        publish(self._desk.network, self._arena, buffer)

    def attack(self, lease: Lease) -> float:
        """Carry out a lease in this process; the seconds it took."""
        return self._attacker(lease).attack_seconds

    def _start(self) -> Engine:
        transport = ProcessTransport(
            self._desk.job,
            self._arena,
            num_classes=self._desk.images.num_classes,
            threads=torch.get_num_threads(),
        )
        return Engine(
            self._broker,
            transport,
            self,
            workers=self._kind.num_workers,
            helps=self._kind.helps,
        )
