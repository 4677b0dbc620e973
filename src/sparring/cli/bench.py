"""`sparring bench engine`: the engine's overheads, and the speed-up that it allows."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from sparring.cli.arguments import PLAIN, Form, flag, whole
from sparring.cli.console import (
    PROGRESS,
    print_ending,
    print_json,
    print_prose,
    print_result,
    print_table,
    result_table,
)
from sparring.errors import ConfigError
from sparring.records import Environment, describe, to_json
from sparring.records.checks import at_least
from sparring.records.text import hardware_text

if TYPE_CHECKING:
    from sparring.capacity import EngineBenchmark

ABOUT = """Measure the engine: its overheads, and its speed-up over devices.

Devices are emulated: real processes, pipes and shared memory, whose attacks and
updates sleep. Many more of them are simulated on a virtual clock. The engine is
the only subject so far.

examples:
  sparring bench
  sparring bench engine --devices 4 --steps 40 --json
  sparring bench engine --soak 100000"""

SUBJECTS = ("engine",)
"""Subjects of a benchmark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchFlags:
    """The flags of `sparring bench`."""

    devices: Annotated[int, flag("--devices", whole, "N"), PLAIN] = 8
    """Most emulated devices, including the trainer's; 8 by default."""
    steps: Annotated[int, flag("--steps", whole, "K"), PLAIN] = 8
    """Steps of an emulated attack; 8 by default."""
    step_ms: Annotated[int, flag("--step-ms", whole, "MS"), PLAIN] = 25
    """Milliseconds of a step, and of an update; 25 by default."""
    soak: Annotated[int | None, flag("--soak", whole, "N"), PLAIN] = None
    """Instead, pass N tiny batches through a worker, and sample memory and speed."""
    json: Annotated[bool, PLAIN] = False
    """Print the result as JSON."""


FORM = Form(verb="bench", flags=BenchFlags, about=ABOUT, word="engine")


def run(argv: list[str]) -> int:
    """Measure and print; return the exit code."""
    flags, word = FORM.read(argv)
    if word not in (None, *SUBJECTS):
        raise ConfigError.expected(
            f"the subject must be one of {', '.join(SUBJECTS)}", word, "Try: sparring bench engine"
        )
    for name, least in (("devices", 1), ("steps", 1), ("step_ms", 1), ("soak", 100)):
        if (value := getattr(flags, name)) is not None:
            at_least(f"--{name.replace('_', '-')}", value, least)
    from sparring.capacity import benchmark_engine, soak

    where = describe(threads=1, device="cpu", precision="none")
    if flags.soak is not None:
        samples = soak(flags.soak, progress=_say)
        _print_soak(samples, where, as_json=flags.json)
        return 0
    found = benchmark_engine(
        steps=flags.steps, step=flags.step_ms / 1000, devices=flags.devices, progress=_say
    )
    if flags.json:
        print_json(json.dumps({"environment": to_json(where), **found.as_json()}, indent=2))
    else:
        _print(found, where)
    return 0


def _print(found: "EngineBenchmark", where: Environment) -> None:
    print_result("(a) the engine's own work, microseconds, medians: no attack, no update")
    table = result_table("", "µs")
    for name, micros in asdict(found.overheads).items():
        table.add_row(name, f"{micros:.0f}")
    print_table(table)
    steps, step = found.steps, 1000 * found.step
    print_result()
    print_result(
        f"(b) EMULATED devices, one the trainer's: real processes that sleep {step:g} ms for each "
        f"of {steps} steps and {step:g} ms for an update; (c) the same simulated; (d) the formula"
    )
    table = result_table("devices", "trainer", "(b) emulated", "(c) simulated", "(d) formula")
    for row in found.curve:
        helps = "helps" if row.helps else "waits"
        figures = (row.emulated, row.simulated, row.formula)
        table.add_row(str(row.devices), helps, *(f"{figure:.2f}" for figure in figures))
    print_table(table)
    print_result()
    print_result("(c) SIMULATED far past it, with (d) the formula; slow: a quarter at half speed;")
    print_result("    failing: each worker dies about every 200 attacks")
    table = result_table("steps", "workers", "formula", "even", "slow", "failing", "staleness")
    for far in found.far:
        table.add_row(
            str(far.steps),
            str(far.workers),
            *(f"{x:.1f}" for x in (far.formula, far.even, far.slow, far.failing)),
            f"{far.staleness_mean:.0f}, {far.staleness_max} at most",
        )
    print_table(table)
    print_prose(hardware_text(where))
    print_ending("", "sparring train --source async --workers 1")


def _print_soak(samples: Sequence[dict[str, float]], where: Environment, *, as_json: bool) -> None:
    if as_json:
        print_json(json.dumps({"environment": to_json(where), "samples": samples}, indent=2))
        return
    table = result_table(*(name.replace("_", " ") for name in samples[0]))
    for sample in samples:
        table.add_row(*(f"{value:,.0f}" for value in sample.values()))
    print_table(table)
    for line in _flatness(samples):
        print_result(line)
    print_prose(hardware_text(where))
    print_ending("", "sparring bench engine")


def _flatness(samples: Sequence[dict[str, float]]) -> Iterator[str]:
    """First and last sample, without the first tenth, which warms up."""
    first, last = samples[max(1, len(samples) // 10)], samples[-1]
    for name in ("trainer_MB", "worker_MB", "descriptors", "tickets_per_second"):
        yield f"{name.replace('_', ' ')}: {first[name]:,.0f} at first, {last[name]:,.0f} at the end"


def _say(line: str) -> None:
    PROGRESS.print(line, soft_wrap=True)
