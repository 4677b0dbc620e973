"""Workers as actors of a Ray cluster: as many machines as it has, one trainer.

The arena stays with the trainer. Weights go to Ray's object store once a publication. Attacked
images come back through it and are written to their slot here, so a late worker cannot touch a
slot: results of a worker that counts as dead are ignored.
"""

import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from typing_extensions import override

from sparring.data import Images, ImageSet
from sparring.engine.attacker import AttackJob, images_of, part_of, weights
from sparring.engine.lease import Lease, Worker
from sparring.engine.memory import Arena
from sparring.engine.shared_images import sendable
from sparring.engine.transports.protocol import FORGOTTEN, Died, Done, Event, Transport, Up
from sparring.engine.transports.ray_cluster import Connection
from sparring.engine.transports.ray_worker import (
    RaySetup,
    RayWorker,
    handed,
    readable,
)
from sparring.errors import ConfigError, OtherNetwork
from sparring.records.environment import installed_version

GRACE = 5.0
"""Longest time that `stop` waits for Ray to end the actors, in seconds."""
LONG_WAIT = 20.0
"""Seconds for which workers may wait for a machine before a warning."""
MEGA = 1e6
LONGEST_TRACEBACK = 2000
"""Characters of a worker's traceback that are kept."""

log = logging.getLogger(__name__)
Awaited = Lease | None | bool
"""What a reference stands for: a lease's images, an arrival (`None`), or a machine (`True`)."""


@dataclass(kw_only=True, slots=True)
class _Actor:
    actor: Any
    since: float
    is_placed: bool = False


class RayTransport(Transport):
    """Actors of a cluster; a worker's name is a number that is never used again.

    Ray restarts nothing: the engine replaces dead workers, and a new one may wait for a machine.
    Cost: the training images once for each node, the weights once a publication for each node.
    Raises `ConfigError` if no cluster answers or has no room for the images, `DataError` for
    streamed images that do not pickle.
    """

    shares_memory = False

    def __init__(  # noqa: PLR0913 - what workers need, and by keyword where they are
        self,
        job: AttackJob,
        arena: Arena,
        images: Images,
        *,
        options: Mapping[str, object],
        device: str,
        threads: int,
    ) -> None:
        self._arena, self._probe = arena, job.network()
        if not isinstance(images, ImageSet):
            sendable(images)
        self._setup = RaySetup(
            job=job,
            device=device,
            threads=threads,
            version=installed_version("sparring"),
        )
        self._connection = Connection()
        with ExitStack() as unless_open:
            unless_open.callback(self._connection.close)
            self._images = _in_store(images)
            self._make: Any = ray.remote(RayWorker).options(
                **options, max_restarts=0, max_task_retries=0
            )
            unless_open.pop_all()
        self._actors: dict[Worker, _Actor] = {}
        self._awaited: dict[ray.ObjectRef, tuple[Worker, Awaited]] = {}
        self._published: dict[int, tuple[int, ray.ObjectRef]] = {}
        self._ended: list[Died] = []
        self._arithmetics: set[str] = set()
        self._warned_of = 0
        self._names = itertools.count()

    @override
    def start(self) -> Worker:
        name, actor = next(self._names), self._make.remote()
        self._actors[name] = _Actor(actor=actor, since=time.monotonic())
        self._awaited[actor.__ray_ready__.remote()] = name, True
        try:
            self._awaited[actor.prepare.remote(self._setup, self._images)] = name, None
        except RayError as error:  # no room for the pickled network
            self._ended.append(self._bury(name, _reason(error)))
        return name

    @override
    def is_placed(self, worker: Worker) -> bool:
        hand = self._actors.get(worker)
        return hand is None or hand.is_placed

    @override
    def submit(self, lease: Lease) -> None:
        hand = self._actors.get(lease.worker)
        if hand is None:
            return
        begun = None
        if lease.stage == "last":
            begun = part_of(images_of(self._arena, "first", lease.slot), lease).numpy()
        try:
            reference = hand.actor.attack.remote(lease, self._weights(lease), begun)
        except RayError as error:
            self._ended.append(self._bury(lease.worker, _reason(error)))
            return
        self._awaited[reference] = lease.worker, lease

    @override
    def poll(self, timeout: float) -> Sequence[Event]:
        events, self._ended = list[Event](self._ended), []
        for reference in self._come(0 if events else timeout):
            if reference in self._awaited:  # else its worker was found dead just now
                events += self._read(reference)
        self._warn_of_waiting()
        return events

    @override
    def kill(self, worker: Worker) -> None:
        if worker in self._actors:
            self._ended.append(self._bury(worker, "killed"))
        else:  # an exception, such as Ctrl-C, kept its end from the engine
            self._ended.append(Died(worker=worker, reason=FORGOTTEN))

    @override
    def stop(self) -> None:
        actors = [hand.actor for hand in self._actors.values()]
        for worker in list(self._actors):
            self._bury(worker, "the run ended")
        if actors:
            gone = [actor.__ray_ready__.remote() for actor in actors]
            ray.wait(gone, num_returns=len(gone), timeout=GRACE)
        self._published.clear()
        self._ended.clear()
        self._connection.close()

    @property
    def actors(self) -> dict[Worker, Any]:
        """Handles of the workers whose death is not known."""
        return {name: hand.actor for name, hand in self._actors.items()}

    def _weights(self, lease: Lease) -> ray.ObjectRef:
        """The lease's weights in the object store, written there once a publication."""
        version, reference = self._published.get(lease.buffer, (None, None))
        if version != lease.version or reference is None:
            reference = ray.put(weights(self._probe, self._arena, lease.buffer).numpy())
            self._published[lease.buffer] = lease.version, reference
        return reference

    def _come(self, timeout: float) -> list[ray.ObjectRef]:
        """References that are ready, or whose worker is dead."""
        references = list[Any](self._awaited)
        if not references:
            time.sleep(timeout)
            return []
        come, _ = ray.wait(references, num_returns=len(references), timeout=0)
        if not come and timeout > 0:
            come, _ = ray.wait(references, num_returns=1, timeout=timeout)
        return come

    def _read(self, reference: ray.ObjectRef) -> list[Event]:
        worker, awaited = self._awaited.pop(reference)
        try:
            value = ray.get(reference)
        except RayError as error:
            cause = getattr(error, "cause", None)
            refusal = cause if isinstance(cause, OtherNetwork) else None
            return [self._bury(worker, _reason(error), refusal)]
        if awaited is True:
            self._actors[worker].is_placed = True
            return []
        if not isinstance(awaited, Lease):
            self._compare(value)
            return [Up(worker=worker)]
        work, images = value
        there = images_of(self._arena, awaited.stage, awaited.slot)
        part_of(there, awaited).copy_(readable(images))
        return [Done(worker=worker, lease=awaited.number, work=work)]

    def _bury(self, worker: Worker, reason: str, refusal: OtherNetwork | None = None) -> Died:
        ray.kill(self._actors.pop(worker).actor, no_restart=True)
        self._awaited = {r: item for r, item in self._awaited.items() if item[0] != worker}
        self._published.clear()  # its death may have lost some of these
        return Died(worker=worker, reason=reason, refusal=refusal)

    def _compare(self, arithmetic: str) -> None:
        """Warn once if workers compute differently."""
        self._arithmetics.add(arithmetic)
        if len(self._arithmetics) == 2:
            log.warning(
                "workers compute differently (%s), so the bits of the weights depend on which "
                "worker attacks what. Set precision to fp32, or use nodes of one kind",
                ", ".join(sorted(self._arithmetics)),
            )

    def _warn_of_waiting(self) -> None:
        now = time.monotonic()
        waiting = [
            h for h in self._actors.values() if not h.is_placed and now - h.since > LONG_WAIT
        ]
        if len(waiting) > self._warned_of:
            log.warning(
                "%d of %d workers wait for room in the Ray cluster",
                len(waiting),
                len(self._actors),
            )
        self._warned_of = len(waiting)


def _in_store(images: Images) -> ray.ObjectRef:
    """The training images in the cluster's object store."""
    try:
        return ray.put(handed(images))
    except RayError as error:
        size = "they"
        if isinstance(images, ImageSet):
            size = f"their {(images.pixels.nbytes + images.labels.nbytes) / MEGA:.0f} MB"
        room = ray.cluster_resources().get("object_store_memory", 0) / MEGA
        raise ConfigError(
            f"the training images must fit into Ray's object store; {size} did not "
            f"({type(error).__name__}), and the stores of all nodes hold {room:.0f} MB. Start "
            "nodes with a larger --object-store-memory or more room on their disks, or lower "
            "data_memory, so that workers read images from files."
        ) from error


def _reason(error: RayError) -> str:
    """A worker's traceback, or Ray's last line about its end."""
    if isinstance(error, RayTaskError):
        return str(error)[-LONGEST_TRACEBACK:]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no reason was given'}"
