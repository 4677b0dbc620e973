"""What there is to see of asynchrony: the paper's Figure 9, past its end, and real staleness."""

from collections.abc import Iterator

from sparring.records import Axis, Curves, Figure, Panel, Provenance, Series
from sparring.studies.networks import ATTACK
from sparring.studies.staleness import HARMLESS
from sparring.studies.study import Measurements

ONE_CORE = "one-core"
"""The network that attacks and updates in turn on one core: the baseline of real speed-ups."""
PAPER = Series(name="the paper's text, rounded", x=(1.0, 7.0, 8.0), y=(1.0, 5.0, 5.0))
"""What it states of its Figure 9: nearly 5 with 7 devices, over 5 with 8, against one."""
SPEED_UP = Axis(label="speed-up", unit="times")
WAYS = ("emulated", "simulated", "formula")
"""How a speed-up was found, in order of how real its devices are."""
FAILINGS = {
    "formula": "formula",
    "even": "even workers",
    "slow": "a quarter at half the speed",
    "failing": "each dies about every 200 attacks",
}
"""Columns of simulated rows, and what they are of."""


def latest(found: Measurements, of: str, network: str) -> Measurements:
    """A network's rows of a kind, as of the last time that it was looked at."""
    rows = found.where(of=of, network=network)
    return rows.where(version=max(map(int, rows.column("version")), default=0))


def cores_speed_up(found: Measurements, network: str) -> float | None:
    """How much faster its updates are than those on one core; none if either is missing."""
    seconds = [
        latest(found, "cores", name).where(network=name).last("update_seconds")
        for name in (ONE_CORE, network)
    ]
    return seconds[0] / seconds[1] if seconds[0] and seconds[1] else None


def speed_up(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """Speed-up against devices, of a trainer that waits and of one that helps."""
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
        "the real engine, whose processes sleep for each step and update; they show the engine, "
        "not any device. Simulated: the same on a virtual clock. Real: networks trained on the "
        "cores of this machine, each engine with one worker. The paper: what its text "
        "states, nearly 5 with 7 GPUs and over 5 with 8.",
        alternative="Speed-up against devices, one panel for a trainer that waits for batches, one "
        "for a trainer that attacks meanwhile.",
        drawing=Curves(
            x=Axis(label="devices, the trainer's included"), y=SPEED_UP, panels=tuple(panels)
        ),
        provenance=provenance,
    )


def _cores(found: Measurements) -> list[Series]:
    """A line from one core to two for each network whose workers attacked."""
    lines = []
    for name in found.where(of="cores").names("network"):
        workers = latest(found, "cores", name).where(network=name).last("workers")
        ratio = cores_speed_up(found, name)
        if workers and ratio is not None:
            line = Series(name=f"real cores, {name}", x=(1.0, 1 + workers), y=(1.0, ratio))
            lines.append(line)
    return lines


def far(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """Speed-up and staleness of many more devices, simulated."""
    points = found.where(of="far")
    if not points:
        return
    by_steps = {
        steps: points.where(steps=steps).sorted("devices")
        for steps in sorted({int(steps) for steps in points.column("steps")})
    }
    devices = Axis(label="devices, the trainer's included", scale="log")
    caption = (
        "Simulated: the real broker and engine on a virtual clock, an update as long as a step, "
        "weights published after every update, a trainer that helps, attacks that last 5 % more or "
        "less."
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
        caption=f"{caption} Past saturation more devices bring nothing but staleness.",
        alternative="Mean staleness against devices: it grows with them.",
        drawing=Curves(
            x=devices,
            y=Axis(label="mean staleness", unit="updates", scale="log"),
            panels=(Panel(title="even workers", series=tuple(lines)),),
        ),
        provenance=provenance,
    )


def ages(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """How old the weights were that real workers attacked with."""
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
        title="Staleness of real asynchronous training, which the paper does not show",
        caption="Share of updates by the staleness of their batch, measured over whole runs with "
        "one worker. The paper's engine publishes its weights every 100 updates; up to "
        f"{HARMLESS} it finds harmless.",
        alternative="Distribution of staleness, one panel for each engine.",
        drawing=Curves(
            x=Axis(label="staleness s", unit="updates"),
            y=Axis(label="of all updates", unit="%"),
            panels=tuple(panels),
            mark="bar",
        ),
        provenance=provenance,
    )
