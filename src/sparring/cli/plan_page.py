"""What `sparring plan` prints."""

import math
from collections.abc import Iterator
from dataclasses import asdict

from sparring.cli.console import (
    count_text,
    counted,
    print_ending,
    print_result,
    print_table,
    result_table,
)
from sparring.cli.plan_costs import Ordered
from sparring.engine.layouts import CHECKPOINT, Layout
from sparring.engine.outlook import Outlook
from sparring.engine.planning import Plan

BOTTLENECKS = {
    "attacks": "attacks: the trainers could update more often than batches come",
    "updates": "updates: the trainers do hardly anything else, and more workers gain nothing",
    "all-reduce": "the all-reduce: trainers exchange gradients for longer than they update",
    "barrier": "the slowest trainer: each update waits until every trainer has its batch",
    "staleness": "the largest staleness: attacks may not run further ahead",
}
ENDS = {
    "trainers": "--max-trainers allows no more, and more workers of each gain nothing",
    "all-reduce": "more trainers exchange gradients for longer than they gain",
    "failures": "more trainers fail more often than they gain",
}


def print_plan(plan: Plan, ordered: Ordered) -> None:
    """The costs, the layout to take and its command, others beside it, where it saturates."""
    table = result_table("a batch of one trainer", "", "where from")
    table.columns[2].justify = "left"
    for item in ordered.quantities:
        table.add_row(item.name, f"{item.value:.4g} {item.unit}", item.origin)
    print_table(table)
    print_result()
    for line in _advice(plan, ordered):
        print_result(line)
    print_result()
    _print_layouts(plan, ordered)
    print_result()
    for line in [*_saturation(plan), *_kinds(plan)]:
        print_result(line)
    print_ending("nothing", command(plan.chosen.layout, ordered))


def as_json(plan: Plan, ordered: Ordered) -> dict[str, object]:
    """The same, for machines: every number with its kind in its name or beside it."""
    end = plan.saturation
    return {
        "devices": plan.order.devices,
        "max_staleness": plan.order.max_staleness,
        "max_trainers": plan.order.max_trainers,
        "batch": ordered.batch,
        "seed": plan.order.seed,
        "quantities": [asdict(item) for item in ordered.quantities],
        "chosen": _row(plan, ordered, plan.chosen),
        "layouts": [_row(plan, ordered, found) for found in plan.outlooks],
        "saturation": {
            **asdict(end.layout),
            "devices": end.layout.devices,
            "speed_up_formula": plan.speed_up(end.rate),
            "why": end.why,
        },
        "command": command(plan.chosen.layout, ordered),
    }


def command(layout: Layout, ordered: Ordered) -> str:
    """What to type for a layout."""
    words = "sparring train"
    if layout.trainers > 1:
        words = f"torchrun --nproc-per-node {layout.trainers} -m {words}"
    source = "--source fresh"
    if layout.workers:
        source = (
            f"--source async --workers {layout.workers} --policy fixed-lag --lag {layout.lag} "
            "--set source.fresh_steps=0"
        )
        source += "" if ordered.helps else " --set source.helps=false"
    return f"{words} {ordered.train} {source}"


def price_of(found: Outlook, ordered: Ordered) -> float | None:
    """Of a million batches, in the currency of the price."""
    if ordered.price is None:
        return None
    return ordered.price * found.device_seconds * 1e6 / 3600


def _advice(plan: Plan, ordered: Ordered) -> Iterator[str]:
    best, layout, order = plan.chosen, plan.chosen.layout, plan.order
    yield (
        f"take {_words(layout)}: {count_text(layout.devices)} of {counted(order.devices, 'device')}"
    )
    yield "  no other that was simulated is 2 % faster, none within 2 % takes fewer devices"
    yield (
        f"  {plan.speed_up(best.simulated):.2f} times one device simulated, "
        f"{plan.speed_up(best.formula):.2f} by the formula: {best.simulated:,.0f} batches, "
        f"{best.simulated * ordered.batch:,.0f} images a second"
    )
    yield (
        f"  staleness {best.staleness_mean:.1f} updates on average, {best.staleness_max} at most, "
        f"simulated; {layout.policy.bound} at most by the policy"
    )
    workers = f"workers busy {best.worker_busy:.0%}; " if layout.workers else ""
    yield (
        f"  {workers}trainers: updates {best.trainer_updates:.0%}, attacks "
        f"{best.trainer_helps:.0%}, waiting for one another {best.trainer_barrier:.0%}, simulated"
    )
    yield f"  it is held back by {BOTTLENECKS[best.bottleneck]}"
    price = price_of(best, ordered)
    money = "" if price is None else f"; a million batches for {price:,.2f}"
    yield f"  {1000 * best.device_seconds:.1f} ms of a device's time a batch{money}"
    if layout.trainers > 1:
        yield (
            f"  an update is on {count_text(layout.trainers * ordered.batch)} images, which is "
            f"another training: a learning rate {layout.trainers} times as"
        )
        yield "  high by the linear-scaling rule; whether it ends as accurate is not known"


def _print_layouts(plan: Plan, ordered: Ordered) -> None:
    money = ordered.price is not None
    cost = "price of a million batches" if money else "ms of a device's time a batch"
    print_result(
        "T x 1+N: T trainers with N workers each; * the one to take. Speed-up over one device"
    )
    print_result(f"by the formula and simulated; staleness; workers' busy share; cost: {cost}")
    table = result_table(
        "T x 1+N", "devices", "formula", "simulated", "stale", "busy", "cost", "held back by"
    )
    for found in plan.outlooks:
        layout, price = found.layout, price_of(found, ordered)
        table.add_row(
            f"{layout.trainers} x 1+{layout.workers}{' *' if found == plan.chosen else ''}",
            str(layout.devices),
            f"{plan.speed_up(found.formula):.2f}",
            f"{plan.speed_up(found.simulated):.2f}",
            str(found.staleness_max),
            f"{found.worker_busy:.0%}" if layout.workers else "-",
            f"{1000 * found.device_seconds:.1f}" if price is None else f"{price:,.2f}",
            found.bottleneck,
        )
    print_table(table)


def _saturation(plan: Plan) -> Iterator[str]:
    end = plan.saturation
    yield (
        f"saturates at {counted(end.layout.devices, 'device')}, {_words(end.layout)}, at "
        f"{plan.speed_up(end.rate):.1f} times one (formula):"
    )
    yield f"  beyond it more devices gain less than 2 %, because {ENDS[end.why]}"


def _kinds(plan: Plan) -> Iterator[str]:
    best, site = plan.chosen, plan.order.site
    yield "formula: closed, without spread. simulated: broker and engine on a virtual clock, seed"
    yield (
        f"  {plan.order.seed}, {count_text(best.updates)} updates of the layout to take. Nothing "
        "was trained, and no accuracy is told."
    )
    yield "  Left out: looks at validation images, alarms and checkpoints, for which all"
    yield "  wait for the first trainer, after as many images with any number of trainers."
    if site.lifetime < math.inf:
        yield f"  Meanwhile {counted(best.deaths, 'worker')} died. A trainer's failure costs all a"
        yield f"  restart and {CHECKPOINT // 2} updates since a checkpoint, by the formula."


def _words(layout: Layout) -> str:
    if not layout.workers:
        return f"{counted(layout.trainers, 'trainer')} without workers"
    each = " each" if layout.trainers > 1 else ""
    return f"{counted(layout.trainers, 'trainer')} with {counted(layout.workers, 'worker')}{each}"


def _row(plan: Plan, ordered: Ordered, found: Outlook) -> dict[str, object]:
    layout = found.layout
    return {
        "trainers": layout.trainers,
        "workers": layout.workers,
        "lag": layout.lag,
        "devices": layout.devices,
        "speed_up_formula": plan.speed_up(found.formula),
        "speed_up_simulated": plan.speed_up(found.simulated),
        "batches_per_second_simulated": found.simulated,
        "images_per_second_simulated": found.simulated * ordered.batch,
        "staleness_mean_simulated": found.staleness_mean,
        "staleness_max_simulated": found.staleness_max,
        "workers_busy_simulated": found.worker_busy,
        "trainers_update_simulated": found.trainer_updates,
        "trainers_attack_simulated": found.trainer_helps,
        "trainers_barrier_simulated": found.trainer_barrier,
        "bottleneck": found.bottleneck,
        "device_seconds_per_batch": found.device_seconds,
        "price_per_million_batches": price_of(found, ordered),
        "updates_simulated": found.updates,
        "deaths_simulated": found.deaths,
    }
