"""What `sparring plan` reckons with, and where each number comes from."""

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sparring.engine.calibration import costs_of, with_overheads
from sparring.engine.layouts import AllReduce, Site
from sparring.engine.planning import Order
from sparring.engine.speed import Costs
from sparring.errors import ConfigError
from sparring.records import MetricsLog, RunDirectory

if TYPE_CHECKING:
    from sparring.cli.plan import PlanFlags

KAPPA, BATCH = 8, 128
"""The paper's, in its Figure 9 and throughout."""
PAPERS_UPDATE = 0.0052
"""Seconds of an update on the paper's device, and of a step: 9 minutes on 8 devices, "over 5 times"
(5.2 here) faster than on one, are 46.8 ms for each of 60,000 batches, an attack 8/9 of it."""
WEIGHTS, BANDWIDTH, LATENCY = 13.1, 100.0, 10.0
"""MB of the paper's network in single precision; Gbit/s and µs of a usual network of machines."""
RESTART = 60.0
"""Seconds."""
GIVEN, DEFAULT = "given", "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """A number that a plan reckons with."""

    name: str
    value: float
    unit: str
    origin: str
    """Given, default, measured where, or computed from what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ordered:
    """A plan that was asked for."""

    order: Order
    batch: int
    """Images of one trainer's batch."""
    price: float | None
    """Of a device for an hour."""
    quantities: tuple[Quantity, ...]
    train: str
    """What `sparring train` needs to be told beside the layout."""

    @property
    def helps(self) -> bool:
        """Whether trainers attack too."""
        return self.order.site.helps


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measured:
    """Costs before what is given replaces them."""

    costs: Costs
    origin: str
    kappa: int
    batch: int
    train: str


def ordered(flags: "PlanFlags", word: str | None, *, say: Callable[[str], None]) -> Ordered:
    """The order of these flags. Cost: with `--calibrate` and no run, half a minute."""
    base = _measured(flags, word, say)
    costs, times = _given_times(flags, base)
    reduce, exchange = _all_reduce(flags)
    failing = flags.mtbf_hours is not None
    restart = RESTART if flags.restart_s is None else flags.restart_s
    site = Site(
        costs=costs,
        all_reduce=reduce,
        slow=flags.slow,
        lifetime=3600 * flags.mtbf_hours if flags.mtbf_hours is not None else math.inf,
        restart=restart if failing else 0.0,
        helps=not flags.trainer_waits,
    )
    order = Order(
        site=site,
        devices=flags.devices,
        max_staleness=flags.max_staleness,
        max_trainers=flags.max_trainers,
        seed=flags.seed,
    )
    quantities = [
        *times,
        *exchange,
        Quantity(
            name="spread of an attack's time", value=site.spread, unit="of it", origin=DEFAULT
        ),
    ]
    if site.slow:
        quantities.append(
            Quantity(name="slow devices", value=site.slow, unit="of all", origin=GIVEN)
        )
    if flags.mtbf_hours is not None:
        origin = DEFAULT if flags.restart_s is None else GIVEN
        quantities += [
            Quantity(name="between failures", value=flags.mtbf_hours, unit="h", origin=GIVEN),
            Quantity(name="restart", value=restart, unit="s", origin=origin),
        ]
    return Ordered(
        order=order,
        batch=base.batch,
        price=flags.price,
        quantities=tuple(quantities),
        train=base.train,
    )


def _measured(flags: "PlanFlags", word: str | None, say: Callable[[str], None]) -> _Measured:
    if word is not None:
        return _of_run(word)
    kappa, batch = flags.kappa or KAPPA, flags.batch or BATCH
    if flags.calibrate:
        return _timed_here(kappa, batch, say)
    update = PAPERS_UPDATE
    return _Measured(
        costs=Costs(attack=kappa * update, update=update),
        origin="default, after the paper",
        kappa=kappa,
        batch=batch,
        train=_recipe(kappa, batch),
    )


def _of_run(word: str) -> _Measured:
    run = RunDirectory.open(word)
    if (trainers := run.section_or("trainers", int, 1)) > 1:
        raise ConfigError(
            "a plan is calibrated from a run of one trainer, because the times of several include "
            f"their waiting for each other; {word} has {trainers}. Name a run of one."
        )
    steps = run.section("attack", dict).get("steps")
    return _Measured(
        costs=costs_of(MetricsLog(run.metrics).rows(), where=word),
        origin=f"measured, log of {word}",
        kappa=steps if isinstance(steps, int) and steps else KAPPA,
        batch=run.section("batch_size", int),
        train=f"--config {shlex.quote(str(run.config))}",
    )


def _timed_here(kappa: int, batch: int, say: Callable[[str], None]) -> _Measured:
    from sparring.engine.overheads import measure_overheads
    from sparring.training.presets import paper
    from sparring.training.run import TIMED, timed_costs

    config = paper()
    attack = replace(config.attack, steps=kappa)
    say(f"timing {TIMED} updates of the preset paper on one core, kappa {kappa}, batch {batch}")
    costs = timed_costs(replace(config, attack=attack, batch_size=batch))
    say("measuring the engine's own work")
    return _Measured(
        costs=with_overheads(costs, measure_overheads()),
        origin="measured here, a core",
        kappa=kappa,
        batch=batch,
        train=_recipe(kappa, batch),
    )


def _recipe(kappa: int, batch: int) -> str:
    size = "" if batch == BATCH else f" --set batch_size={batch}"
    return f"--preset paper --steps {kappa}{size}"


def _given_times(flags: "PlanFlags", base: _Measured) -> tuple[Costs, list[Quantity]]:
    """Costs, each given one in its place; of attack and update either follows from the other."""
    attack, update = flags.attack_ms, flags.update_ms
    origins = {"attack": base.origin, "update": base.origin}
    values = {"attack": base.costs.attack, "update": base.costs.update}
    for name, own, other, factor in (
        ("attack", attack, update, base.kappa),
        ("update", update, attack, 1 / base.kappa),
    ):
        if own is not None:
            values[name], origins[name] = own / 1000, GIVEN
        elif other is not None and not flags.calibrate:
            values[name] = other / 1000 * factor
            origins[name] = f"by kappa {base.kappa}"
    costs = replace(base.costs, **values)
    overheads = ("lease", "handover", "publication")
    origin = base.origin if flags.calibrate else DEFAULT
    return costs, [
        *(
            Quantity(name=name, value=1000 * value, unit="ms", origin=origins[name])
            for name, value in values.items()
        ),
        *(
            Quantity(name=name, value=1000 * getattr(costs, name), unit="ms", origin=origin)
            for name in overheads
        ),
    ]


def _all_reduce(flags: "PlanFlags") -> tuple[AllReduce, list[Quantity]]:
    if flags.allreduce_ms is not None:
        name, value = "all-reduce", flags.allreduce_ms
        quantity = Quantity(name=name, value=value, unit="ms", origin=GIVEN)
        return AllReduce(given=value / 1000), [quantity]
    found = {
        "gradients": (flags.weights_mb, WEIGHTS, "MB"),
        "bandwidth": (flags.bandwidth_gbit, BANDWIDTH, "Gbit/s"),
        "latency": (flags.latency_us, LATENCY, "µs"),
    }
    values = {name: own if own is not None else usual for name, (own, usual, _) in found.items()}
    quantities = [
        Quantity(
            name=f"all-reduce: {name}",
            value=values[name],
            unit=unit,
            origin=DEFAULT if own is None else GIVEN,
        )
        for name, (own, _, unit) in found.items()
    ]
    transfer = values["gradients"] * 8e6 / (values["bandwidth"] * 1e9)
    return AllReduce(latency=values["latency"] / 1e6, transfer=transfer), quantities
