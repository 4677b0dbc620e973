"""Where a run's workers are; each kind opens its transport.

With a fixed lag the weights are the same bits under all kinds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal

import torch

from sparring.data import Images
from sparring.engine.attacker import FINISHED, AttackJob
from sparring.engine.memory import Arena
from sparring.engine.policies import Policy
from sparring.engine.transports.process import ProcessTransport
from sparring.engine.transports.protocol import Transport
from sparring.engine.transports.slow_link import Link, SlowTransport
from sparring.errors import ConfigError
from sparring.models import neighbours
from sparring.records.checks import positive, within
from sparring.records.environment import available_cores


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """Workers are processes of this machine, and share the trainer's memory."""

    def workers(self, policy: Policy, trainer: torch.device, place: tuple[int, int]) -> int:
        """The default number: one for each device that trainers leave free.

        `place` is the trainer's number among those of this machine, and their count.
        """
        if trainer.type == "cuda":
            return len(neighbours(trainer, *place))
        _, trainers = place
        return max(1, (available_cores() - trainers) // trainers)

    def check(self) -> None:
        """Nothing is needed."""

    def open(
        self, job: AttackJob, arena: Arena, images: Images, devices: Sequence[str], threads: int
    ) -> Transport:
        """A transport without workers yet, which will compute on these devices."""
        return ProcessTransport(job, arena, images, devices=devices, threads=threads)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ray:
    """Workers are actors of a Ray cluster, on as many machines as it has; needs the extra `ray`.

    The cluster is the one that this process is connected to, or that of RAY_ADDRESS, or one that is
    started on this machine for the run.
    """

    cpus: float = 1.0
    """CPUs that a worker reserves."""
    gpus: float = 0.0
    """CUDA devices that a worker reserves; above `0`, it attacks on one."""
    resources: tuple[str, ...] = ()
    """Other resources of the nodes that a worker reserves, as name=amount."""
    labels: tuple[str, ...] = ()
    """Labels that a worker's node must have, as name=value: Ray's label selectors."""
    scheduling: Literal["SPREAD", "DEFAULT"] = "SPREAD"
    """Ray's strategy: spread over all nodes, or on few of them."""

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus"):
            within(f"source.transport.{name}", getattr(self, name), "[0, inf)")
        _ = self.amounts, self.selector

    @property
    def amounts(self) -> dict[str, float]:
        """`resources` by name."""
        found: dict[str, float] = {}
        for name, text in _pairs(self.resources, "resources", "tpu=1").items():
            try:
                found[name] = float(text)
            except ValueError:
                found[name] = math.nan
            if not 0 < found[name] < math.inf:
                rule = "source.transport.resources must name amounts above 0"
                raise ConfigError.expected(rule, f"{name}={text}", "Write for example tpu=1.")
        return found

    @property
    def selector(self) -> dict[str, str]:
        """`labels` by name."""
        return _pairs(self.labels, "labels", "ray.io/accelerator-type=A100")

    def workers(self, policy: Policy, trainer: torch.device, place: tuple[int, int]) -> int:
        """As many as the policy can keep busy; those without room in the cluster wait for it."""
        return policy.window * policy.split

    def check(self) -> None:
        """Raise `ConfigError` if Ray is not installed."""
        if find_spec("ray") is None:
            raise ConfigError(
                "Ray, which source.transport asks for, is not installed: pip install "
                "'sparring[ray]'"
            )

    def open(
        self, job: AttackJob, arena: Arena, images: Images, devices: Sequence[str], threads: int
    ) -> Transport:
        """A transport without workers yet, which will compute where the cluster has room.

        Cost: some seconds, if a cluster must be started.
        """
        # An extra, and seconds to import.
        from sparring.engine.transports.ray_actors import RayTransport

        options: dict[str, object] = {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "resources": self.amounts,
            "scheduling_strategy": self.scheduling,
        }
        if self.selector:
            options["label_selector"] = self.selector
        device = "cuda" if self.gpus else "cpu"
        return RayTransport(job, arena, images, options=options, device=device, threads=threads)


@dataclass(frozen=True, kw_only=True, slots=True)
class SlowLink:
    """Workers as if behind a slow network, to find a policy for one: emulated, on any machines.

    The link is the trainer's, shared by all workers. Nothing but the time of messages changes.
    Where weights take long, raise `source.patience`, by which a worker must have answered.
    """

    transport: Processes | Ray = field(default_factory=Processes)
    """Where the workers are."""
    mbit: float = 100.0
    """Bandwidth of each direction in Mbit/s, which weights and images take their time of."""
    latency_ms: float = 50.0
    """Milliseconds that every message takes beside that."""

    def __post_init__(self) -> None:
        positive("source.transport.mbit", self.mbit)
        within("source.transport.latency_ms", self.latency_ms, "[0, inf)")

    def workers(self, policy: Policy, trainer: torch.device, place: tuple[int, int]) -> int:
        """As many as without the link."""
        return self.transport.workers(policy, trainer, place)

    def check(self) -> None:
        """Raise `ConfigError` if the transport behind the link is not installed."""
        self.transport.check()

    def open(
        self, job: AttackJob, arena: Arena, images: Images, devices: Sequence[str], threads: int
    ) -> Transport:
        """A transport behind the link, without workers yet."""
        link = Link(
            seconds_per_byte=8 / (self.mbit * 1e6),
            latency=self.latency_ms / 1000,
            weights=sum(value.nbytes for value in job.network().state_dict().values()),
            images=arena[FINISHED].nbytes,
        )
        return SlowTransport(self.transport.open(job, arena, images, devices, threads), link)


TransportKind = Processes | Ray | SlowLink


def _pairs(words: Sequence[str], name: str, example: str) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            rule = f"source.transport.{name} must read name=value"
            raise ConfigError.expected(rule, repr(word), f"Write for example {example}.")
        found[key] = value
    return found
