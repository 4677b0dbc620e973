"""`sparring plan`: how many trainers and workers to use, from the formula and the simulation."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Annotated

from sparring.capacity import (
    CHECKPOINT,
    Assumptions,
    BatchCosts,
    DeviceFigures,
    Forecast,
    Layout,
    Plan,
    PlanRequest,
    costs_of_run,
    papers_costs,
    plan,
)
from sparring.capacity.assumptions import BATCH, KAPPA
from sparring.capacity.formula import SPLIT
from sparring.cli.arguments import PLAIN, Form, flag, number, whole
from sparring.cli.console import (
    PROGRESS,
    print_ending,
    print_json,
    print_result,
    print_table,
    result_table,
)
from sparring.errors import ConfigError
from sparring.records.checks import at_least, positive, within
from sparring.records.text import count_text, counted

ABOUT = """Plan a run on many devices: trainers, workers, throughput, staleness, cost.

With --calibrate, costs come from the log of RUN. Without RUN, updates of the
preset paper are timed on a core of this machine, and the engine is measured.
Nothing else is trained, and accuracy is not predicted.

examples:
  sparring plan
  sparring plan --devices 512 --attack-ms 42 --update-ms 5 --slow 0.05
  sparring plan --calibrate runs/async --devices 64 --allreduce-ms 3"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFlags:
    """The flags of `sparring plan`; all are optional."""

    devices: Annotated[int, flag("--devices", whole, "N"), PLAIN] = 8
    """Number of devices; 8 by default."""
    kappa: Annotated[int | None, flag("--kappa", whole, "K"), PLAIN] = None
    """Steps of an attack; 8 by default."""
    attack_ms: Annotated[float | None, flag("--attack-ms", number, "MS"), PLAIN] = None
    """Attack of one batch on one device; by default K updates."""
    update_ms: Annotated[float | None, flag("--update-ms", number, "MS"), PLAIN] = None
    """Update with it; by default a step of the attack."""
    batch: Annotated[int | None, flag("--batch", whole, "B"), PLAIN] = None
    """Images of a trainer's batch; 128 by default."""
    allreduce_ms: Annotated[float | None, flag("--allreduce-ms", number, "MS"), PLAIN] = None
    """Time for averaging the gradients. If unknown:"""
    weights_mb: Annotated[float | None, flag("--weights-mb", number, "MB"), PLAIN] = None
    """size of the gradients (13.1: the paper's network),"""
    bandwidth_gbit: Annotated[float | None, flag("--bandwidth-gbit", number, "G"), PLAIN] = None
    """Gbit/s between trainers (100) and"""
    latency_us: Annotated[float | None, flag("--latency-us", number, "US"), PLAIN] = None
    """latency of a message between them (10), in a ring."""
    max_staleness: Annotated[int, flag("--max-staleness", whole, "S"), PLAIN] = 32
    """Largest staleness, in updates; 32 by default."""
    fresh_steps: Annotated[int, flag("--fresh-steps", whole, "F"), PLAIN] = 0
    """Last steps of an attack that wait for the weights to train; 0 by default."""
    publish_every: Annotated[int, flag("--publish-every", whole, "P"), PLAIN] = 1
    """Updates between publications; above 1, trainers take the fresh steps."""
    max_trainers: Annotated[int, flag("--max-trainers", whole, "T"), PLAIN] = 32
    """Largest global batch, in batches; 32 by default."""
    slow: Annotated[float, flag("--slow", number, "SHARE"), PLAIN] = 0.0
    """Share of the devices at half speed."""
    mtbf_hours: Annotated[float | None, flag("--mtbf-hours", number, "H"), PLAIN] = None
    """Mean time between two failures of a device."""
    restart_s: Annotated[float | None, flag("--restart-s", number, "S"), PLAIN] = None
    """From its failure until it works again; 60 by default."""
    price: Annotated[float | None, flag("--price", number, "P"), PLAIN] = None
    """Price of a device for an hour, in any currency."""
    trainer_waits: Annotated[bool, PLAIN] = False
    """Trainers do not attack while they wait, as in the paper."""
    calibrate: Annotated[bool, PLAIN] = False
    """Measure missing costs: from RUN's log, or here."""
    seed: Annotated[int, flag("--seed", whole, "N"), PLAIN] = 0
    """Seed of the simulation."""
    json: Annotated[bool, PLAIN] = False
    """Print the result as JSON."""


FORM = Form(verb="plan", flags=PlanFlags, about=ABOUT, word="RUN")

ABOVE_ZERO = ("attack_ms", "update_ms", "weights_mb", "bandwidth_gbit", "mtbf_hours")
FROM_ZERO = ("allreduce_ms", "latency_us", "restart_s", "price")
LARGEST = "[0, 1e9]"
"""Range of all of these: products of larger numbers overflow."""
COUNTS = {
    "devices": 1,
    "kappa": 1,
    "batch": 1,
    "max_staleness": 0,
    "fresh_steps": 0,
    "publish_every": 1,
    "max_trainers": 1,
    "seed": 0,
}
"""Flags by their smallest value."""
PAPERS_STALENESS = 32
"""Updates up to which the paper finds staleness harmless without fresh steps."""
ENOUGH_FRESH = 3
"""Fresh steps with which weights may be older: docs/explanation/staleness.md."""
BOTTLENECKS = {
    "attacks": "attacks: the trainers could update more often than batches arrive",
    "updates": "updates: the trainers do hardly anything else, and more workers gain nothing",
    "all-reduce": "the all-reduce: trainers exchange gradients for longer than they update",
    "barrier": "the slowest trainer: each update waits until every trainer has its batch",
    "staleness": "the largest staleness: attacks may not run further ahead",
}
ALONE = {
    "attacks": "attacks: trainers without workers attack for longer than they update",
    "updates": "updates: they take longer than the attacks, which workers could do meanwhile",
}
"""The same where the trainers have no workers."""
ENDS = {
    "trainers": "--max-trainers allows no more, and more workers of each gain nothing",
    "all-reduce": "more trainers exchange gradients for longer than they gain",
    "failures": "more trainers fail more often than they gain",
}


def run(argv: list[str]) -> int:
    """Plan and print; return the exit code."""
    flags, word = FORM.read(argv)
    _check(flags, word)
    figures = {item.name: getattr(flags, item.name) for item in fields(DeviceFigures)}
    assumed = Assumptions.of(_base_costs(flags, word), DeviceFigures(**figures))
    request = PlanRequest(
        site=assumed.site,
        devices=flags.devices,
        max_staleness=flags.max_staleness,
        period=flags.publish_every,
        max_trainers=flags.max_trainers,
        seed=flags.seed,
    )
    page = _Page(plan=plan(request, progress=_say), assumed=assumed, price=flags.price)
    if flags.json:
        print_json(json.dumps(page.as_json(), indent=2, ensure_ascii=False))
    else:
        page.print()
    return 0


def _base_costs(flags: PlanFlags, word: str | None) -> BatchCosts:
    if word is not None:
        return costs_of_run(word)
    kappa, batch = flags.kappa or KAPPA, flags.batch or BATCH
    if not flags.calibrate:
        return papers_costs(kappa, batch)
    from sparring.capacity import measure_costs

    return measure_costs(kappa, batch, progress=_say)


def _check(flags: PlanFlags, word: str | None) -> None:
    for name in filter(lambda name: _has(flags, name), (*COUNTS, *ABOVE_ZERO, *FROM_ZERO)):
        value = getattr(flags, name)
        if name in COUNTS:
            at_least(_flag(name), value, COUNTS[name])
        elif name in ABOVE_ZERO:
            positive(_flag(name), value)
        else:
            within(_flag(name), value, "[0, inf)")
        within(_flag(name), value, LARGEST)
    within("--slow", flags.slow, "[0, 0.5]", "Else give the costs of the slow devices instead.")
    parts = [name for name in ("weights_mb", "bandwidth_gbit", "latency_us") if _has(flags, name)]
    if flags.allreduce_ms is not None and parts:
        others = ", ".join(map(_flag, parts))
        raise ConfigError(f"--allreduce-ms and {others} exclude each other. Leave one out.")
    if flags.restart_s is not None and flags.mtbf_hours is None:
        raise ConfigError("--restart-s needs --mtbf-hours: without it no device fails.")
    _check_word(flags, word)


def _check_word(flags: PlanFlags, word: str | None) -> None:
    if word is None:
        return
    if not flags.calibrate:
        raise ConfigError(f"a run needs --calibrate. Try: sparring plan --calibrate {word}")
    fixed = [name for name in ("kappa", "batch") if _has(flags, name)]
    if fixed:
        given = ", ".join(map(_flag, fixed))
        raise ConfigError(f"{given} and the run {word} exclude each other. Leave one out.")


def _has(flags: PlanFlags, name: str) -> bool:
    return getattr(flags, name) is not None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _say(line: str) -> None:
    PROGRESS.print(line, soft_wrap=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Page:
    """A plan as text and as JSON."""

    plan: Plan
    assumed: Assumptions
    price: float | None
    """Price of a device for an hour."""

    def print(self) -> None:
        """The costs, the layout to use and its command, other layouts, and the saturation."""
        table = result_table("a batch of one trainer", "", "origin")
        table.columns[2].justify = "left"
        for item in self.assumed.quantities:
            table.add_row(item.name, f"{item.value:.4g} {item.unit}", item.origin)
        print_table(table)
        print_result()
        for line in self._advice():
            print_result(line)
        print_result()
        self._print_layouts()
        print_result()
        for line in [*self._saturation(), *self._notes()]:
            print_result(line)
        print_ending("", self.assumed.command(self.plan.chosen.layout))

    def as_json(self) -> dict[str, object]:
        """The same as JSON values; the name of each number says how it was found."""
        end, request = self.plan.saturation, self.plan.request
        return {
            "devices": request.devices,
            "max_staleness": request.max_staleness,
            "max_trainers": request.max_trainers,
            "fresh_steps": self.assumed.fresh_steps,
            "publish_every": request.period,
            "batch": self.assumed.batch,
            "seed": request.seed,
            "quantities": [asdict(item) for item in self.assumed.quantities],
            "chosen": self._row(self.plan.chosen),
            "layouts": [self._row(found) for found in self.plan.forecasts],
            "saturation": {
                **asdict(end.layout),
                "devices": end.layout.devices,
                "speed_up_formula": self.plan.speed_up(end.rate),
                "why": end.why,
            },
            "command": self.assumed.command(self.plan.chosen.layout),
        }

    def _price(self, found: Forecast) -> float | None:
        return None if self.price is None else found.price(self.price)

    def _advice(self) -> Iterator[str]:
        plan, best, layout = self.plan, self.plan.chosen, self.plan.chosen.layout
        batch, available = self.assumed.batch, counted(plan.request.devices, "device")
        yield f"use {_words(layout)}: {count_text(layout.devices)} of {available}"
        yield "  no simulated layout is 2 % faster, and none within 2 % needs fewer devices"
        yield (
            f"  {plan.speed_up(best.simulated):.2f} times one device simulated, "
            f"{plan.speed_up(best.formula):.2f} by the formula: {best.simulated:,.0f} batches, "
            f"{best.simulated * batch:,.0f} images a second"
        )
        yield (
            f"  staleness {best.staleness_mean:.1f} updates on average, {best.staleness_max} at "
            f"most, simulated; {layout.policy.bound} at most by the policy"
        )
        workers = f"workers busy {best.worker_busy:.0%}; " if layout.workers else ""
        yield (
            f"  {workers}trainers: updates {best.trainer_updates:.0%}, attacks "
            f"{best.trainer_helps:.0%}, waiting for other trainers {best.trainer_barrier:.0%}, "
            "simulated"
        )
        why = BOTTLENECKS if layout.workers else BOTTLENECKS | ALONE
        yield f"  limited by {why[best.bottleneck]}"
        yield from self._fresh_steps()
        price = self._price(best)
        money = "" if price is None else f"; a million batches for {price:,.2f}"
        yield f"  {1000 * best.device_seconds:.1f} ms of device time a batch{money}"
        if layout.trainers > 1:
            yield (
                f"  an update uses {count_text(layout.trainers * batch)} images, which is a "
                f"different training: a learning rate {layout.trainers} times"
            )
            yield "  as high by the linear-scaling rule; its accuracy is not known"

    def _fresh_steps(self) -> Iterator[str]:
        """The largest speed-up of one trainer with fresh steps, and whether staleness needs any."""
        request, fresh = self.plan.request, self.assumed.fresh_steps
        many = Layout(trainers=1, workers=SPLIT, lag=1, period=request.period)
        if fresh:
            largest = many.costs(request.site).largest_speed_up
            yield (
                f"  with {counted(fresh, 'fresh step')} a trainer is at most {largest:.2f} times "
                "one device, by the formula, with any number of workers"
            )
        bound = self.plan.chosen.layout.policy.bound
        if bound > PAPERS_STALENESS and fresh < ENOUGH_FRESH:
            yield (
                f"  beyond {PAPERS_STALENESS} updates of staleness robust accuracy falls with "
                f"fewer than {ENOUGH_FRESH} fresh steps: try --fresh-steps {ENOUGH_FRESH}"
            )

    def _print_layouts(self) -> None:
        cost = "ms of device time a batch" if self.price is None else "price of a million batches"
        print_result(
            "T x 1+N: T trainers with N workers each; * the one to use. Speed-up over one device"
        )
        print_result(
            f"by the formula and simulated; staleness; time that workers are busy; cost: {cost}"
        )
        table = result_table(
            "T x 1+N", "devices", "formula", "simulated", "stale", "busy", "cost", "limited by"
        )
        for found in self.plan.forecasts:
            layout, price = found.layout, self._price(found)
            mark = " *" if found == self.plan.chosen else ""
            table.add_row(
                f"{layout.trainers} x 1+{layout.workers}{mark}",
                str(layout.devices),
                f"{self.plan.speed_up(found.formula):.2f}",
                f"{self.plan.speed_up(found.simulated):.2f}",
                str(found.staleness_max),
                f"{found.worker_busy:.0%}" if layout.workers else "-",
                f"{1000 * found.device_seconds:.1f}" if price is None else f"{price:,.2f}",
                found.bottleneck,
            )
        print_table(table)

    def _saturation(self) -> Iterator[str]:
        end = self.plan.saturation
        yield (
            f"saturates at {counted(end.layout.devices, 'device')}, {_words(end.layout)}, at "
            f"{self.plan.speed_up(end.rate):.1f} times one (formula):"
        )
        yield f"  beyond it more devices gain less than 2 %, because {ENDS[end.why]}"

    def _notes(self) -> Iterator[str]:
        best, request = self.plan.chosen, self.plan.request
        yield "formula: closed, without spread. simulated: broker and engine on a virtual clock,"
        yield (
            f"  seed {request.seed}, {count_text(best.updates)} updates of the layout to use. "
            "Nothing was trained, and accuracy is not predicted."
        )
        yield "  Not included: validation, alarms and checkpoints. All trainers wait while the"
        yield "  first one does these, after the same number of images for any number of trainers."
        if request.site.lifetime < math.inf:
            yield f"  {counted(best.deaths, 'worker')} died in the simulation. A trainer's failure"
            yield f"  costs all a restart and {CHECKPOINT // 2} updates, by the formula."

    def _row(self, found: Forecast) -> dict[str, object]:
        layout = found.layout
        return {
            "trainers": layout.trainers,
            "workers": layout.workers,
            "lag": layout.lag,
            "devices": layout.devices,
            "speed_up_formula": self.plan.speed_up(found.formula),
            "speed_up_simulated": self.plan.speed_up(found.simulated),
            "batches_per_second_simulated": found.simulated,
            "images_per_second_simulated": found.simulated * self.assumed.batch,
            "staleness_mean_simulated": found.staleness_mean,
            "staleness_max_simulated": found.staleness_max,
            "workers_busy_simulated": found.worker_busy,
            "trainers_update_simulated": found.trainer_updates,
            "trainers_attack_simulated": found.trainer_helps,
            "trainers_barrier_simulated": found.trainer_barrier,
            "bottleneck": found.bottleneck,
            "device_seconds_per_batch": found.device_seconds,
            "price_per_million_batches": self._price(found),
            "updates_simulated": found.updates,
            "deaths_simulated": found.deaths,
        }


def _words(layout: Layout) -> str:
    if not layout.workers:
        return f"{counted(layout.trainers, 'trainer')} without workers"
    each = " each" if layout.trainers > 1 else ""
    return f"{counted(layout.trainers, 'trainer')} with {counted(layout.workers, 'worker')}{each}"
