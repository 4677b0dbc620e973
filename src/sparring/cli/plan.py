"""`sparring plan`: how many trainers and workers to take, from the formula and the simulation."""

import json
import math
from dataclasses import dataclass
from typing import Annotated

from sparring.cli.arguments import PLAIN, Form, flag, number, whole
from sparring.cli.console import PROGRESS, print_json
from sparring.errors import ConfigError

ABOUT = """Plan a run on many devices: trainers, workers, throughput, staleness, cost.

Beside --calibrate, RUN is a run whose log has the costs; without it updates of
the preset paper are timed here, a core standing for a device, and the engine.
Nothing is trained, and nothing is said of accuracy.

examples:
  sparring plan
  sparring plan --devices 512 --attack-ms 42 --update-ms 5 --slow 0.05
  sparring plan --calibrate runs/async --devices 64 --allreduce-ms 3"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFlags:
    """What `sparring plan` may be given; nothing is needed."""

    devices: Annotated[int, flag("--devices", whole, "N"), PLAIN] = 8
    """Devices that there are; 8 by default."""
    kappa: Annotated[int | None, flag("--kappa", whole, "K"), PLAIN] = None
    """Steps of an attack; 8 by default."""
    attack_ms: Annotated[float | None, flag("--attack-ms", number, "MS"), PLAIN] = None
    """A batch's whole attack on a device; by default K updates."""
    update_ms: Annotated[float | None, flag("--update-ms", number, "MS"), PLAIN] = None
    """Its update; by default a step of the attack."""
    batch: Annotated[int | None, flag("--batch", whole, "B"), PLAIN] = None
    """Images of a trainer's batch; 128 by default."""
    allreduce_ms: Annotated[float | None, flag("--allreduce-ms", number, "MS"), PLAIN] = None
    """What averaging the gradients takes, if it is known; or"""
    weights_mb: Annotated[float | None, flag("--weights-mb", number, "MB"), PLAIN] = None
    """bytes of the gradients (13.1: the paper's network),"""
    bandwidth_gbit: Annotated[float | None, flag("--bandwidth-gbit", number, "G"), PLAIN] = None
    """bits a second between trainers (100) and"""
    latency_us: Annotated[float | None, flag("--latency-us", number, "US"), PLAIN] = None
    """time of a message between them (10): a ring."""
    max_staleness: Annotated[int, flag("--max-staleness", whole, "S"), PLAIN] = 32
    """Largest staleness, in updates; 32 by default."""
    max_trainers: Annotated[int, flag("--max-trainers", whole, "T"), PLAIN] = 32
    """Largest global batch, in batches; 32 by default."""
    slow: Annotated[float, flag("--slow", number, "SHARE"), PLAIN] = 0.0
    """Share of the devices at half speed."""
    mtbf_hours: Annotated[float | None, flag("--mtbf-hours", number, "H"), PLAIN] = None
    """Mean time between two failures of a device."""
    restart_s: Annotated[float | None, flag("--restart-s", number, "S"), PLAIN] = None
    """From its failure until it works again; 60 by default."""
    price: Annotated[float | None, flag("--price", number, "P"), PLAIN] = None
    """Of a device for an hour, in any currency."""
    trainer_waits: Annotated[bool, PLAIN] = False
    """Trainers attack nothing while they wait, as the paper's."""
    calibrate: Annotated[bool, PLAIN] = False
    """Measure what is not given: in RUN's log, or here."""
    seed: Annotated[int, flag("--seed", whole, "N"), PLAIN] = 0
    """Of the simulation."""
    json: Annotated[bool, PLAIN] = False
    """Print the result as JSON."""


FORM = Form(verb="plan", flags=PlanFlags, about=ABOUT, word="RUN")

ABOVE_ZERO = ("attack_ms", "update_ms", "weights_mb", "bandwidth_gbit", "mtbf_hours")
FROM_ZERO = ("allreduce_ms", "latency_us", "restart_s", "price", "slow")
COUNTS = {"devices": 1, "kappa": 1, "batch": 1, "max_staleness": 0, "max_trainers": 1, "seed": 0}
"""Flags by what they may be at least."""


def run(argv: list[str]) -> int:
    """Plan and print; return the exit code."""
    flags, word = FORM.read(argv)
    _check(flags, word)
    from sparring.cli.plan_costs import ordered
    from sparring.cli.plan_page import as_json, print_plan
    from sparring.engine.planning import plan

    ordered_plan = ordered(flags, word, say=_say)
    found = plan(ordered_plan.order, progress=_say)
    if flags.json:
        print_json(json.dumps(as_json(found, ordered_plan), indent=2, ensure_ascii=False))
    else:
        print_plan(found, ordered_plan)
    return 0


def _check(flags: PlanFlags, word: str | None) -> None:
    for name, least in COUNTS.items():
        _refuse_unless(flags, name, least, f"must be {least} or more, because it counts")
    for name in ABOVE_ZERO:
        _refuse_unless(flags, name, math.ulp(0.0), "must be a number above 0")
    for name in FROM_ZERO:
        _refuse_unless(flags, name, 0.0, "must be a number of 0 or more")
    if flags.slow > 0.5:
        raise ConfigError(
            "--slow must be a share of a half at most, because the costs are those of most "
            f"devices; got {flags.slow:g}. Give the costs of the slow ones, and no --slow."
        )
    parts = [name for name in ("weights_mb", "bandwidth_gbit", "latency_us") if _has(flags, name)]
    if flags.allreduce_ms is not None and parts:
        raise ConfigError(
            "--allreduce-ms and what it would be computed from exclude each other; got also "
            f"{', '.join(map(_flag, parts))}. Leave one of them out."
        )
    if flags.restart_s is not None and flags.mtbf_hours is None:
        raise ConfigError(
            "--restart-s needs --mtbf-hours, because without it no device fails; got "
            f"{flags.restart_s:g}."
        )
    _check_word(flags, word)


def _check_word(flags: PlanFlags, word: str | None) -> None:
    if word is None:
        return
    if not flags.calibrate:
        raise ConfigError(
            "a run beside the flags needs --calibrate, because nothing else is taken from it; got "
            f"{word}. Try: sparring plan --calibrate {word}"
        )
    fixed = [name for name in ("kappa", "batch") if _has(flags, name)]
    if fixed:
        raise ConfigError(
            f"{', '.join(map(_flag, fixed))} must not be given beside a run, because its costs are "
            f"those of its own; got {word}. Leave it out, or the run."
        )


def _refuse_unless(flags: PlanFlags, name: str, least: float, rule: str) -> None:
    value = getattr(flags, name)
    if value is not None and not least <= value < math.inf:
        raise ConfigError(f"{_flag(name)} {rule}; got {value:g}. Give such a one.")


def _has(flags: PlanFlags, name: str) -> bool:
    return getattr(flags, name) is not None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _say(line: str) -> None:
    PROGRESS.print(line, soft_wrap=True)
