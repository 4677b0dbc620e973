"""Asynchrony: how much faster is training with further devices that attack?

The paper's section 5, its Figure 9.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from typing_extensions import override

from sparring.capacity import FAR_WORKERS, PAPERS_PERIOD, SECONDS_PER_POINT
from sparring.engine import Newest
from sparring.records import Axis, Claim, Curves, Figure, Panel, Provenance, Series
from sparring.studies.devices import EmulatedDevices, FarDevices, RealCores
from sparring.studies.networks import ATTACK, PAPERS, attacked
from sparring.studies.staleness import HARMLESS
from sparring.studies.study import (
    Measurement,
    Measurements,
    Runs,
    Scale,
    Standing,
    Study,
    judged,
    per_cent,
    standing,
    too_small,
)
from sparring.training import Asynchronous, TrainConfig

ONE_CORE = "one-core"
"""The network that attacks and updates in turn on one core, the baseline of real speed-ups."""
PAPER = Series(name="the paper's text, rounded", x=(1.0, 7.0, 8.0), y=(1.0, 5.0, 5.0))
"""From its text about Figure 9: nearly 5 with 7 devices and over 5 with 8, against one."""
SPEED_UP = Axis(label="speed-up", unit="times")
WAYS = ("emulated", "simulated", "formula")
"""Kinds of speed-ups, the most real first."""
FAILINGS = {
    "formula": "formula",
    "even": "even workers",
    "slow": "a quarter at half the speed",
    "failing": "each dies about every 200 attacks",
}
"""Columns of simulated rows with their names in figures."""


def latest(found: Measurements, of: str, network: str) -> Measurements:
    """A network's rows of a kind, from its last measurement."""
    rows = found.where(of=of, network=network)
    return rows.where(version=max(map(int, rows.column("version")), default=0))


def cores_speed_up(found: Measurements, network: str) -> float | None:
    """Speed-up of a network's updates over one core; `None` if either is missing."""
    seconds = [
        latest(found, "cores", name).where(network=name).last("update_seconds")
        for name in (ONE_CORE, network)
    ]
    return seconds[0] / seconds[1] if seconds[0] and seconds[1] else None


def speed_up(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """Speed-up by devices, for a trainer that waits and for one that helps."""
    points = found.where(of="devices")
    if not points:
        return
    panels = []
    for trainer in points.names("trainer"):
        rows = points.where(trainer=trainer).sorted("devices")
        devices = rows.column("devices")
        lines = [Series(name=way, x=devices, y=rows.column(way)) for way in WAYS]
        lines.append(Series(name="linear", x=devices, y=devices))
        lines += [PAPER] if trainer == "waits" else _cores(found)
        panels.append(Panel(title=f"the trainer {trainer}", series=tuple(lines)))
    yield Figure(
        name="speed-up",
        title="Speed-up by the number of devices (Figure 9)",
        caption=f"Against one device that attacks (κ = {ATTACK}) and updates in turn. Emulated: "
        "the real engine, whose processes sleep for each step and update; this measures the "
        "engine, not a device. Simulated: the same on a virtual clock. Real: networks trained on "
        "the cores of this machine, each engine with one worker. The paper: from its text, "
        "nearly 5 with 7 GPUs and over 5 with 8.",
        alternative="Speed-up against devices, one panel for a trainer that waits for batches, one "
        "for a trainer that helps to attack.",
        drawing=Curves(
            x=Axis(label="devices, the trainer's included"), y=SPEED_UP, panels=tuple(panels)
        ),
        provenance=provenance,
    )


def _cores(found: Measurements) -> list[Series]:
    """A line from one core to two for each network with workers."""
    lines = []
    for name in found.where(of="cores").names("network"):
        workers = latest(found, "cores", name).where(network=name).last("workers")
        ratio = cores_speed_up(found, name)
        if workers and ratio is not None:
            line = Series(name=f"real cores, {name}", x=(1.0, 1 + workers), y=(1.0, ratio))
            lines.append(line)
    return lines


def far(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """Speed-up and staleness of many devices, simulated."""
    points = found.where(of="far")
    if not points:
        return
    by_steps = {
        steps: points.where(steps=steps).sorted("devices")
        for steps in sorted({int(steps) for steps in points.column("steps")})
    }
    devices = Axis(label="devices, the trainer's included", scale="log")
    caption = (
        "Simulated: the real broker and engine on a virtual clock. An update takes as long as a "
        "step, an attack 5 % more or less. Weights are published after every update, and the "
        "trainer helps."
    )
    yield Figure(
        name="far",
        title="Speed-up of many devices, some of them slow or failing (simulated)",
        caption=f"{caption} A panel for each κ.",
        alternative="Speed-up against devices, level once there are more than κ workers.",
        drawing=Curves(
            x=devices,
            y=Axis(label="speed-up", unit="times", scale="log"),
            panels=tuple(
                Panel(
                    title=f"κ = {steps}",
                    series=tuple(
                        Series(name=words, x=rows.column("devices"), y=rows.column(column))
                        for column, words in FAILINGS.items()
                    ),
                )
                for steps, rows in by_steps.items()
            ),
        ),
        provenance=provenance,
    )
    lines = (
        Series(name=f"κ = {steps}", x=rows.column("devices"), y=rows.column("staleness_mean"))
        for steps, rows in by_steps.items()
    )
    yield Figure(
        name="far-staleness",
        title="Mean staleness of many devices (simulated)",
        caption=f"{caption} Past saturation more devices only add staleness.",
        alternative="Mean staleness against devices: it grows with them.",
        drawing=Curves(
            x=devices,
            y=Axis(label="mean staleness", unit="updates", scale="log"),
            panels=(Panel(title="even workers", series=tuple(lines)),),
        ),
        provenance=provenance,
    )


def ages(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """Staleness of batches from real workers."""
    names = found.where(of="staleness").names("network")
    panels = []
    for name in names:
        rows = latest(found, "staleness", name).sorted("staleness")
        counts = rows.column("updates")
        line = Series(
            name=f"{sum(counts):,.0f} updates",
            x=rows.column("staleness"),
            y=tuple(100 * count / sum(counts) for count in counts),
        )
        if max(rows.column("staleness")):
            panels.append(Panel(title=name, series=(line,)))
    if not panels:
        return
    yield Figure(
        name="staleness",
        title="Staleness of real asynchronous training (not in the paper)",
        caption="Share of updates by the staleness of their batch, measured over whole runs with "
        "one worker. The paper's engine publishes its weights every 100 updates. The paper finds "
        f"staleness up to {HARMLESS} harmless.",
        alternative="Distribution of staleness, one panel for each engine.",
        drawing=Curves(
            x=Axis(label="staleness s", unit="updates"),
            y=Axis(label="of all updates", unit="%"),
            panels=tuple(panels),
            mark="bar",
        ),
        provenance=provenance,
    )


ALL_CORES, PAPERS_ENGINE, OWN_ENGINE = "all-cores", "papers-engine", "own-engine"
"""Further networks: synchronous on all cores, and with one worker under two policies."""
UPDATES = {"smoke": 8, "short": 300, "paper": PAPERS}
"""Updates of each network."""
CREDITS = 8
"""Length of the queue, as in the preset paper-async; the paper does not state it."""
DEVICES = {"smoke": 2, "short": 10, "paper": 10}
"""Most emulated devices."""
STEP = {"smoke": 0.005, "short": 0.05, "paper": 0.05}
"""Seconds of their sleep for a step."""
LASTING = {"smoke": 0.2, "short": SECONDS_PER_POINT, "paper": SECONDS_PER_POINT}
"""Seconds for which each point is emulated."""
FAR_STEPS = {"smoke": (8,), "short": (8, 32, 128), "paper": (8, 32, 128)}
"""κ of simulated attacks."""
FAR = {"smoke": (1, 16), "short": (1, 2, 4, 8, 16, 32, 64, 128, 256, FAR_WORKERS)}
"""Simulated workers; the scale paper has those of short."""
PAPERS_SPEED_UP = 5
"""The paper's speed-up with eight devices."""
NEAR = 0.8
"""A speed-up of this share of the number of devices counts as nearly linear."""


@dataclass(frozen=True, slots=True)
class Asynchrony(Study):
    """Speed-up over emulated, simulated and real devices, and the staleness of real ones."""

    name: str = "asynchrony"
    title: str = "How much faster is training with further devices that attack?"
    covers: str = "section 5, Figure 9"

    @override
    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        # The paper's engine publishes every 100 updates, ours after each; neither takes the fresh
        # steps that are the default of `Asynchronous`.
        base = attacked(scale, ATTACK)
        updates = UPDATES[scale]
        base = replace(base, updates=updates, snapshot_every=min(base.snapshot_every, updates))
        papers = Newest(credits=CREDITS, period=PAPERS_PERIOD)
        found = {
            ONE_CORE: base,
            PAPERS_ENGINE: replace(
                base, source=Asynchronous(workers=1, policy=papers, fresh_steps=0)
            ),
            OWN_ENGINE: replace(base, source=Asynchronous(workers=1, fresh_steps=0)),
            ALL_CORES: replace(base, threads=0),
        }
        return dict(list(found.items())[:2]) if scale == "smoke" else found

    @override
    def enough(self, scale: Scale, network: str) -> int | None:
        return None

    @override
    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        emulated = [
            EmulatedDevices(
                devices=count, trainer=trainer, step=STEP[scale], lasting=LASTING[scale]
            )
            for trainer in ("waits", "helps")
            for count in range(1, DEVICES[scale] + 1)
        ]
        simulated = [
            FarDevices(steps=steps, workers=workers)
            for steps in FAR_STEPS[scale]
            for workers in FAR.get(scale, FAR["short"])
        ]
        return [*simulated, *(RealCores(name, run) for name, run in runs.items()), *emulated]

    @override
    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        any_network = too_small(scale)
        cores = self._standing(scale, found, (ONE_CORE, PAPERS_ENGINE))
        return [
            judged(
                "With 2 GPUs speed-up is slightly worse than linear, since the trainer waits for "
                "most of its time (section 5, Figure 9).",
                _speed_ups(found, 2),
                standing=any_network,
                holds=lambda: _near_two(found, "waits"),
            ),
            judged(
                "That can be fixed if the trainer attacks in the time for which it waits "
                "(section 5).",
                _speed_ups(found, 2),
                standing=any_network,
                holds=lambda: _near_two(found, "helps"),
            ),
            judged(
                "Speed-up is almost linear in the number of GPUs from there on: nearly 5 "
                "with 7, over 5 with 8 (section 5, Figure 9).",
                f"{_speed_ups(found, 7)} {_speed_ups(found, 8)}",
                standing=any_network,
                holds=lambda: _reached(found, 8),
            ),
            judged(
                "It saturates with about 8 GPUs, because an attack of κ = 8 takes about "
                "eight times as long as an update (section 5).",
                f"{_speed_ups(found, 9)} {_speed_ups(found, 10)} {_far_speed_up(found)}",
                standing=any_network,
                holds=lambda: _saturates(found),
            ),
            judged(
                "An asynchronous implementation gives a nearly linear speed-up (section 1).",
                _cores_speed_ups(found),
                standing=cores,
                holds=lambda: _pays(found),
            ),
            judged(
                "A bounded queue and weights that are re-saved every 100 updates curb "
                "staleness; up to 32 does no harm (section 5).",
                _staleness(found),
                standing=self._standing(scale, found, (PAPERS_ENGINE,)),
                holds=lambda: _bounded(found),
            ),
        ]

    def _standing(self, scale: Scale, found: Measurements, names: Sequence[str]) -> Standing:
        return standing(self, scale, found, names)

    @override
    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        return [
            *speed_up(found, provenance),
            *far(found, provenance),
            *ages(found, provenance),
        ]


def _emulated(found: Measurements, devices: int, trainer: str) -> float | None:
    return found.where(of="devices", devices=devices, trainer=trainer).last("emulated")


def _speed_ups(found: Measurements, devices: int) -> str:
    """Emulated, simulated and by the formula, for a trainer that waits and for one that helps."""
    words = []
    for trainer in ("waits", "helps"):
        rows = found.where(of="devices", devices=devices, trainer=trainer).rows
        if rows:
            each = ", ".join(f"{way} {float(rows[-1][way] or 0):.2f}" for way in WAYS)
            words.append(f"{each} if the trainer {trainer}")
    if not words:
        return f"{devices} devices were not emulated."
    return f"{devices} devices: {'; '.join(words)}."


def _near_two(found: Measurements, trainer: str) -> bool | None:
    speed_up = _emulated(found, 2, trainer)
    return None if speed_up is None else speed_up >= 2 * NEAR


def _reached(found: Measurements, devices: int) -> bool | None:
    emulated = _emulated(found, devices, "waits")
    return None if emulated is None else emulated >= PAPERS_SPEED_UP


def _saturates(found: Measurements) -> bool | None:
    """Whether a tenth emulated device adds less than 0.5 to the speed-up."""
    ninth, tenth = (_emulated(found, devices, "waits") for devices in (9, 10))
    return None if ninth is None or tenth is None else tenth - ninth < 0.5


def _far_speed_up(found: Measurements) -> str:
    rows = found.where(of="far", steps=ATTACK).sorted("devices").rows
    if not rows:
        return "Larger numbers of devices were not simulated."
    last = rows[-1]
    return (
        f"Simulated, κ = {ATTACK}: {float(last['even'] or 0):.2f} with {last['devices']} devices, "
        f"whose batches are {float(last['staleness_mean'] or 0):.0f} updates old on average."
    )


def _cores_speed_ups(found: Measurements) -> str:
    if cores_speed_up(found, ONE_CORE) is None:
        return "No network was trained on one core."
    words = {
        ALL_CORES: "synchronous on all cores",
        PAPERS_ENGINE: "a worker on a second core, the paper's policy",
        OWN_ENGINE: "a worker on a second core, a lag of one update and no fresh steps",
    }
    ratios = {name: cores_speed_up(found, name) for name in words}
    each = (f"{words[name]} {ratio:.2f}" for name, ratio in ratios.items() if ratio is not None)
    return (
        "Measured on cores of this machine, against synchronous training on one of them: "
        f"{', '.join(each) or 'nothing yet'}. Several devices were not measured, only emulated and "
        "simulated, see above."
    )


def _pays(found: Measurements) -> bool | None:
    ratio = cores_speed_up(found, PAPERS_ENGINE)
    return None if ratio is None else ratio > 2 * NEAR


def _staleness(found: Measurements) -> str:
    words = []
    for network in (PAPERS_ENGINE, OWN_ENGINE):
        rows = latest(found, "staleness", network).sorted("staleness")
        if not rows:
            continue
        seen, counts = rows.column("staleness"), rows.column("updates")
        mean = sum(age * count for age, count in zip(seen, counts, strict=True)) / sum(counts)
        old = sum(count for age, count in zip(seen, counts, strict=True) if age > HARMLESS)
        words.append(
            f"{network}: mean staleness {mean:.1f}, at most {seen[-1]:.0f}; "
            f"{per_cent(old / sum(counts))} of {sum(counts):,.0f} updates above {HARMLESS}."
        )
    return f"Measured, one worker. {' '.join(words)}" if words else "Not measured."


def _bounded(found: Measurements) -> bool | None:
    rows = latest(found, "staleness", PAPERS_ENGINE)
    return max(rows.column("staleness")) <= HARMLESS if rows else None
