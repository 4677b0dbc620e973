"""What a plan assumes about the devices, and the origin of each number.

Loads no torch. Units: seconds, unless a name or docstring says otherwise.
"""

import math
import shlex
from dataclasses import dataclass, replace

from sparring.capacity.engine_stats import EngineStats, costs_from_log
from sparring.capacity.formula import AllReduce, Costs, Layout, Site
from sparring.errors import ConfigError
from sparring.records import MetricsLog, RunDirectory

KAPPA, BATCH = 8, 128
"""Attack steps and images of a batch in the paper."""
PAPERS_UPDATE = 0.0052
"""Time of an update, and of an attack step, on the paper's device. 9 minutes on 8 devices, "over 5
times" (5.2 here) faster than on one, are 46.8 ms for each of 60,000 batches; 8/9 is the attack."""
WEIGHTS, BANDWIDTH, LATENCY = 13.1, 100.0, 10.0
"""MB of the paper's network in single precision; Gbit/s and µs of a usual network of machines."""
RESTART = 60.0
"""Time from a device's failure until it works again."""
GIVEN, DEFAULT = "given", "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """A number that a plan is computed from."""

    name: str
    value: float
    unit: str
    origin: str
    """"given", "default", or where it was measured or what it follows from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchCosts:
    """Costs of one batch, and how `sparring train` trains such batches."""

    costs: Costs
    origin: str
    """Where the costs come from."""
    measured: bool
    """Whether attack and update were measured, rather than taken from the paper."""
    engine_origin: str
    """Where the costs of lease, hand-over and publication come from."""
    kappa: int
    """Steps of an attack."""
    batch: int
    """Images of one trainer's batch."""
    train_flags: str
    """The flags of `sparring train`, without those of the layout."""
    weights_mb: float = WEIGHTS
    """Size of the gradients."""
    weights_origin: str = DEFAULT
    """Where that comes from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceFigures:
    """What is known about the devices, in the units of `sparring plan`; `None` is the default."""

    attack_ms: float | None = None
    """Attack of one batch."""
    update_ms: float | None = None
    """Update of the weights."""
    allreduce_ms: float | None = None
    """Exchange of gradients; excludes the next three."""
    weights_mb: float | None = None
    """Size of the gradients."""
    bandwidth_gbit: float | None = None
    """Bandwidth between trainers, in Gbit/s."""
    latency_us: float | None = None
    """Latency of a message between trainers."""
    slow: float = 0.0
    """Share of the devices at half speed."""
    mtbf_hours: float | None = None
    """Mean time between two failures of a device; by default it never fails."""
    restart_s: float | None = None
    """Time from a failure until the device works again."""
    fresh_steps: int = 0
    """Steps of an attack that are taken with the weights that its batch is trained on."""
    trainer_waits: bool = False
    """Whether a trainer is idle while its next batch is not ready."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumptions:
    """The devices that a plan is made for, with the origin of each number."""

    site: Site
    batch: int
    """Images of one trainer's batch."""
    quantities: tuple[Quantity, ...]
    """Every number that determines `site`."""
    train_flags: str
    """The flags of `sparring train` apart from the layout's."""
    fresh_steps: int = 0
    """Steps of an attack that are taken with the weights that its batch is trained on."""

    @classmethod
    def of(cls, base: BatchCosts, figures: DeviceFigures) -> "Assumptions":
        """Costs from `base`, replaced by `figures` where these are given."""
        if not 0 <= figures.fresh_steps < base.kappa:
            raise ConfigError.expected(
                f"fresh steps must be fewer than an attack's {base.kappa}, and at least 0",
                figures.fresh_steps,
            )
        costs, times = _times(figures, base)
        all_reduce, exchange = _all_reduce(figures, base)
        lifetime, restart, failures = _failures(figures)
        site = Site(
            costs=costs,
            all_reduce=all_reduce,
            slow=figures.slow,
            lifetime=lifetime,
            restart=restart,
            fresh=figures.fresh_steps / base.kappa,
            helps=not figures.trainer_waits,
        )
        spread = _quantity("spread of an attack's time", site.spread, "of it", DEFAULT)
        shares = []
        if site.slow:
            shares.append(_quantity("slow devices", site.slow, "of all", GIVEN))
        if figures.fresh_steps:
            of = f"of {base.kappa}"
            shares.append(_quantity("fresh steps", figures.fresh_steps, of, GIVEN))
        return cls(
            site=site,
            batch=base.batch,
            quantities=(*times, *exchange, spread, *shares, *failures),
            train_flags=base.train_flags,
            fresh_steps=figures.fresh_steps,
        )

    def command(self, layout: Layout) -> str:
        """The command that trains with this layout."""
        train = "sparring train"
        if layout.trainers > 1:
            train = f"torchrun --nproc-per-node {layout.trainers} -m {train}"
        source = "--source fresh"
        if layout.workers:
            source = (
                f"--source async --workers {layout.workers} --policy fixed-lag --lag {layout.lag} "
                f"--set source.fresh_steps={self.fresh_steps}"
            )
            source += f" --publish-every {layout.period}" if layout.period > 1 else ""
            source += "" if self.site.helps else " --set source.helps=false"
        return f"{train} {self.train_flags} {source}"


def papers_costs(kappa: int = KAPPA, batch: int = BATCH) -> BatchCosts:
    """Costs on the paper's device; the batch size does not change them."""
    return BatchCosts(
        costs=Costs(attack=kappa * PAPERS_UPDATE, update=PAPERS_UPDATE),
        origin="default, after the paper",
        measured=False,
        engine_origin=DEFAULT,
        kappa=kappa,
        batch=batch,
        train_flags=preset_flags(kappa, batch),
    )


def costs_of_run(word: str) -> BatchCosts:
    """Costs from the log of the run at this path.

    Raises `RunError` if there is no such run or its log is too short, and `ConfigError` if it had
    several trainers.
    """
    run = RunDirectory.open(word)
    if (trainers := run.section_or("trainers", int, 1)) > 1:
        raise ConfigError(
            f"{word} has {trainers} trainers, whose times include the wait for one another. Name a "
            "run of one trainer."
        )
    steps = run.section("attack", dict).get("steps")
    rows = MetricsLog(run.metrics).rows()
    origin = f"measured, log of {word}"
    weights = run.weight_bytes
    had_engine = EngineStats.from_rows(rows, helps=True) is not None
    return BatchCosts(
        costs=costs_from_log(rows, where=word),
        origin=origin,
        measured=True,
        engine_origin=origin if had_engine else f"{DEFAULT}, as {word} has no workers",
        kappa=steps if isinstance(steps, int) and steps else KAPPA,
        batch=run.section("batch_size", int),
        train_flags=f"--config {shlex.quote(str(run.config))}",
        weights_mb=weights / 1e6 or WEIGHTS,
        weights_origin=f"weights of {word}" if weights else DEFAULT,
    )


def preset_flags(kappa: int, batch: int) -> str:
    """The flags of `sparring train` for the preset paper with this attack and batch size."""
    size = "" if batch == BATCH else f" --set batch_size={batch}"
    return f"--preset paper --steps {kappa}{size}"


def _quantity(name: str, value: float, unit: str, origin: str) -> Quantity:
    return Quantity(name=name, value=value, unit=unit, origin=origin)


def _times(figures: DeviceFigures, base: BatchCosts) -> tuple[Costs, list[Quantity]]:
    """The costs. Unless they are measured, attack and update follow from one another by kappa."""
    attack, update = figures.attack_ms, figures.update_ms
    origins = {"attack": base.origin, "update": base.origin}
    values = {"attack": base.costs.attack, "update": base.costs.update}
    for name, own, other, factor in (
        ("attack", attack, update, base.kappa),
        ("update", update, attack, 1 / base.kappa),
    ):
        if own is not None:
            values[name], origins[name] = own / 1000, GIVEN
        elif other is not None and not base.measured:
            values[name] = other / 1000 * factor
            origins[name] = f"by kappa {base.kappa}"
    costs = replace(base.costs, **values)
    overheads = dict.fromkeys(("lease", "handover", "publication"), base.engine_origin)
    return costs, [
        _quantity(name, 1000 * getattr(costs, name), "ms", origin)
        for name, origin in (origins | overheads).items()
    ]


def _all_reduce(figures: DeviceFigures, base: BatchCosts) -> tuple[AllReduce, list[Quantity]]:
    if figures.allreduce_ms is not None:
        quantity = _quantity("all-reduce", figures.allreduce_ms, "ms", GIVEN)
        return AllReduce(given=figures.allreduce_ms / 1000), [quantity]
    known = {
        "gradients": (figures.weights_mb, base.weights_mb, "MB", base.weights_origin),
        "bandwidth": (figures.bandwidth_gbit, BANDWIDTH, "Gbit/s", DEFAULT),
        "latency": (figures.latency_us, LATENCY, "µs", DEFAULT),
    }
    values = {name: usual if own is None else own for name, (own, usual, _, _) in known.items()}
    quantities = [
        _quantity(f"all-reduce: {name}", values[name], unit, origin if own is None else GIVEN)
        for name, (own, _, unit, origin) in known.items()
    ]
    transfer = values["gradients"] * 8e6 / (values["bandwidth"] * 1e9)
    return AllReduce(latency=values["latency"] / 1e6, transfer=transfer), quantities


def _failures(figures: DeviceFigures) -> tuple[float, float, list[Quantity]]:
    """Time between failures, time of a restart, and both as quantities."""
    if figures.mtbf_hours is None:
        return math.inf, 0.0, []
    restart = RESTART if figures.restart_s is None else figures.restart_s
    origin = DEFAULT if figures.restart_s is None else GIVEN
    quantities = [
        _quantity("between failures", figures.mtbf_hours, "h", GIVEN),
        _quantity("restart", restart, "s", origin),
    ]
    return 3600 * figures.mtbf_hours, restart, quantities
