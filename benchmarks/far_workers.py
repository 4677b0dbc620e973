"""How much faster training is with workers that are many, or far away, by fresh steps F of κ = 8.

    python benchmarks/far_workers.py devices F [N]    2 to 64 devices
    python benchmarks/far_workers.py links ROW        policies over slow links

Speed-up is against one device that attacks and updates in turn, an update as long as a step: by the
formula, simulated (broker and engine on a virtual clock), and emulated (processes that sleep for
each step and update; up to N devices, and the policy of ROW, from 0). Nothing is trained. Both take
some minutes and write results/far/, in a file named after their words.
"""

import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sparring.capacity import Costs, Simulation, emulate, measure_speed_up, simulate_speed_up
from sparring.capacity.emulation import EmulatedJob
from sparring.engine import FixedLag, Newest, Policy
from sparring.engine.transports import process
from sparring.engine.transports.kinds import SlowLink
from sparring.engine.transports.slow_link import Link
from sparring.records import describe, to_json

INTO = Path("results/far")
KAPPA = 8
DEVICES = (2, 4, 8, 16, 32, 64)
STEP = {"devices": 0.200, "links": 0.020}
"""Seconds of a step and of an update."""
SECONDS = 12.0
"""For which each point of `devices` is emulated."""
WEIGHTS, IMAGES = 4 * EmulatedJob(seconds=1.0).weights, 4 * 128 * 28 * 28
"""Bytes of the network of the paper and of a batch of MNIST."""
LINKS = {"none": None, "1 Gbit/s, 5 ms": (1000.0, 5.0), "100 Mbit/s, 50 ms": (100.0, 50.0)}
EMULATED = ("none", "100 Mbit/s, 50 ms")
SLOWER = 10.0
"""Times all durations of emulated links, so that the load of a busy machine shows less."""
POLICIES: Sequence[tuple[str, Policy, int, int]] = (
    ("newest, 8 credits, period 100 (paper)", Newest(credits=8, period=100), 0, 8),
    ("fixed lag 10, period 1", FixedLag(lag=10), 0, 8),
    ("fixed lag 64, period 1", FixedLag(lag=64), 0, 8),
    ("newest, 64 credits, period 100", Newest(credits=64, period=100), 2, 5),
    ("fixed lag 256, period 256", FixedLag(lag=256, period=256, split=1), 2, 5),
    ("newest, 256 credits, period 400", Newest(credits=256, period=400), 2, 5),
    ("newest, 256 credits, period 400", Newest(credits=256, period=400), 1, 8),
)
"""Name, policy, fresh steps of the trainer, devices."""


def costs(fresh: int, step: float) -> Costs:
    """A step and an update take the same time; the trainer takes `fresh` steps."""
    return Costs(attack=KAPPA * step, update=step).finished_by_trainer(fresh / KAPPA)


def devices(fresh: int, most: int = max(DEVICES)) -> Iterator[dict[str, object]]:
    """A row for each number of devices, emulated up to `most`; the trainer helps."""
    for count in DEVICES:
        each, workers = costs(fresh, STEP["devices"]), count - 1
        row = {
            "fresh_steps": fresh,
            "devices": count,
            "formula": each.speed_up(workers, helps=True),
            "simulated": simulate_speed_up(each, workers, helps=True),
        }
        if count <= most:
            found = measure_speed_up(each, workers, helps=True, seconds=SECONDS)
            row["emulated"] = found.emulated
        yield row


def links(row_emulated: int) -> Iterator[dict[str, object]]:
    """A row for each policy and link, emulated for one policy; the trainer helps."""
    for place, (name, policy, fresh, count) in enumerate(POLICIES):
        for words, link in LINKS.items():
            each = costs(fresh, STEP["links"])
            simulation = Simulation(costs=each, workers=count - 1, policy=policy, tickets=4000)
            kind = None
            if link is not None:
                mbit, latency = link
                kind = SlowLink(mbit=mbit / SLOWER, latency_ms=latency * SLOWER)
                shape = Link(
                    seconds_per_byte=8 / (mbit * 1e6),
                    latency=latency / 1000,
                    weights=WEIGHTS,
                    images=IMAGES,
                )
                simulation = replace(simulation, link=shape)
            simulated = simulation.run()
            row = {
                "policy": name,
                "fresh_steps": fresh,
                "devices": count,
                "link": words,
                "formula_without_link": each.speed_up(count - 1, helps=True),
                "simulated": simulated.speed_up,
                "staleness_max_simulated": max(simulated.ledger.staleness),
            }
            if place == row_emulated and words in EMULATED:
                each = costs(fresh, STEP["links"] * SLOWER)
                tickets = max(60, 2 * policy.period)
                found = emulate(
                    each, workers=count - 1, policy=policy, helps=True, tickets=tickets, kind=kind
                )
                row |= {
                    "emulated": found.speed_up,
                    "trainer_waits_emulated": found.trainer_wait,
                    "staleness_max_emulated": max(found.ledger.staleness),
                    "updates_emulated": tickets,
                }
            yield row


def main() -> None:
    """Measure, print a line for each row, and write all of them."""
    which, numbers = sys.argv[1], [int(word) for word in sys.argv[2:]]
    # Workers are forked from one process that has imported PyTorch, so that 63 start in seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sparring.capacity"])
    process.get_context = lambda method: context  # type: ignore[assignment]
    process.ParentDeathGuard = lambda parent: None  # type: ignore[assignment]
    rows = []
    for row in {"devices": devices, "links": links}[which](*numbers):
        rows.append(row)
        shown = (f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values())
        print(" | ".join(shown), flush=True)
    where = to_json(describe(threads=1, device="cpu", precision="none"))
    page = {"step_seconds": STEP[which], "kappa": KAPPA, "rows": rows, "environment": where}
    INTO.mkdir(parents=True, exist_ok=True)
    (INTO / f"{'-'.join(sys.argv[1:])}.json").write_text(
        json.dumps(page, indent=2, ensure_ascii=False) + "\n"
    )


if __name__ == "__main__":
    main()
