"""What plans say of more and more devices, and of up to eight beside emulated ones.

    python benchmarks/plan.py curves      results/plan/devices.svg and .json: formula and simulation
    python benchmarks/plan.py emulated    results/plan/emulated.json: beside processes that sleep

Costs are those of `sparring plan` where none are given. `emulated` takes some minutes, and needs a
machine that has nothing else to do.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from sparring.capacity import (
    Assumptions,
    DeviceFigures,
    Layout,
    PlanRequest,
    emulate,
    forecast,
    papers_costs,
    plan,
)
from sparring.records import Axis, Curves, Figure, Panel, Provenance, Series, describe, to_json
from sparring.report import draw

INTO = Path("results/plan")
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
LARGEST = 4096
"""Trainers, where as many as there are devices may be."""
SECONDS = 12.0
"""Seconds for which each emulated point is measured."""
SLOWER = 10.0
"""Times the costs, so that the engine's own work on two cores does not show."""


def default_request() -> PlanRequest:
    """The request of `sparring plan` without flags."""
    return PlanRequest(site=Assumptions.of(papers_costs(), DeviceFigures()).site)


def curves() -> None:
    """Speed-up against devices: one trainer, only trainers, and the layout to take."""
    base = default_request()
    found: dict[str, list[tuple[int, float]]] = {}
    for devices, name, speed_up in _points(base):
        print(devices, name, f"{speed_up:.2f}", flush=True)
        found.setdefault(name, []).append((devices, speed_up))
    environment = describe(threads=1, device="cpu", precision="none")
    figure = Figure(
        name="devices",
        title="Speed-up of planned layouts (simulated)",
        caption="T trainers with N workers each, against one device that attacks and updates in "
        "turn, at the paper's costs, κ = 8, all-reduce by a ring of 100 Gbit/s and 10 µs. A global "
        "batch grows with the trainers.",
        alternative="Speed-up against devices. One trainer levels at 9, up to 32 trainers at 191; "
        "with any number of trainers workers beside them gain most.",
        drawing=Curves(
            x=Axis(label="devices", scale="log"),
            y=Axis(label="speed-up", unit="times", scale="log"),
            panels=(
                Panel(
                    title="κ = 8",
                    series=tuple(
                        Series(
                            name=name,
                            x=tuple(float(x) for x, _ in points),
                            y=tuple(y for _, y in points),
                        )
                        for name, points in found.items()
                    ),
                ),
            ),
        ),
        provenance=Provenance(
            command="python benchmarks/plan.py curves", seeds=(base.seed,), environment=environment
        ),
    )
    INTO.mkdir(exist_ok=True)
    draw(figure, INTO / "devices.svg")
    (INTO / "devices.json").write_text(json.dumps(to_json(figure), ensure_ascii=False) + "\n")


def _points(base: PlanRequest) -> Iterator[tuple[int, str, float]]:
    for devices in DEVICES:
        for name, most in (
            ("T = 1", 1),
            ("T to 32", base.max_trainers),
            ("any T", LARGEST),
        ):
            found = plan(replace(base, devices=devices, max_trainers=most))
            yield devices, name, found.speed_up(found.chosen.simulated)
        alone = forecast(base.site, Layout(trainers=devices, workers=0), seed=base.seed)
        yield devices, "N = 0", alone.simulated / base.single


def emulated() -> None:
    """The plan of one to eight devices beside processes that sleep for as long."""
    base = default_request()
    costs = base.site.costs
    slept = replace(costs, attack=SLOWER * costs.attack, update=SLOWER * costs.update)
    rows = []
    for devices in (2, 4, 6, 8):
        wanted = replace(base, devices=devices, max_trainers=1)
        found = plan(replace(wanted, site=replace(base.site, spread=0.0, costs=slept)))
        layout = found.chosen.layout
        speed_up = found.speed_up(found.chosen.formula)
        tickets = round(SECONDS * speed_up / slept.serial / layout.workers) * layout.workers
        seen = emulate(
            slept,
            workers=layout.workers,
            policy=layout.policy,
            helps=base.site.helps,
            tickets=tickets,
        )
        rows.append(
            {
                **asdict(layout),
                "devices": devices,
                "tickets": tickets,
                "formula": speed_up,
                "simulated": found.speed_up(found.chosen.simulated),
                "emulated": seen.speed_up,
                "staleness_max_emulated": max(seen.ledger.staleness),
            }
        )
        print(rows[-1], flush=True)
    where = to_json(describe(threads=1, device="cpu", precision="none"))
    INTO.mkdir(exist_ok=True)
    content = {"environment": where, "slept": asdict(slept), "points": rows}
    (INTO / "emulated.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    {"curves": curves, "emulated": emulated}[sys.argv[1]]()
