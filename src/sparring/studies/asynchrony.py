"""Asynchrony: how much faster is training where other devices attack meanwhile?

The paper's section 5, its Figure 9.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sparring.capacity import FAR_WORKERS, PAPERS_PERIOD, SECONDS_PER_POINT
from sparring.engine import Newest
from sparring.records import Claim, Figure, Provenance
from sparring.studies.asynchrony_figures import (
    ONE_CORE,
    ages,
    cores_speed_up,
    far,
    latest,
    speed_up,
)
from sparring.studies.devices import EmulatedDevices, FarDevices, RealCores
from sparring.studies.networks import ATTACK, PAPERS, attacked
from sparring.studies.staleness import HARMLESS
from sparring.studies.study import Measurement, Measurements, Runs, Scale
from sparring.studies.verdicts import judged, per_cent, too_small
from sparring.training import Asynchronous, TrainConfig

ALL_CORES, PAPERS_ENGINE, OWN_ENGINE = "all-cores", "papers-engine", "own-engine"
"""Networks beside that of one core: as synchronous, and with one worker under two policies."""
UPDATES = {"smoke": 8, "short": 300, "paper": PAPERS}
"""Of each network."""
CREDITS = 8
"""Length of the paper's queue, which it does not tell: that of the preset paper-async."""
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
"""What the paper's text has of eight devices."""
NEAR = 0.8
"""Share of the number of devices that is nearly linear."""


@dataclass(frozen=True, slots=True)
class Asynchrony:
    """Speed-up over emulated, simulated and real devices, and how old weights get meanwhile."""

    name: str = "asynchrony"
    title: str = "How much faster is training where other devices attack meanwhile?"
    covers: str = "section 5, Figure 9"

    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        """κ = 8 on one core, with a worker under two policies, and in turn on all cores.

        The paper's engine publishes every 100 updates, ours each; neither takes fresh steps, which
        the default of `Asynchronous` does. At smoke two of them.
        """
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

    def enough(self, scale: Scale) -> int | None:
        """All updates."""
        return None

    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        """Emulated devices one point at a time, simulated ones, and the networks' logs."""
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

    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        """What the paper says of two devices, of eight, of where it ends, and of staleness."""
        standing = too_small(scale)
        return [
            judged(
                "With 2 GPUs speed-up is slightly worse than linear, since the trainer waits for "
                "most of its time (section 5, Figure 9).",
                _told(found, 2),
                standing=standing,
                holds=lambda: _near_two(found, "waits"),
            ),
            judged(
                "That can be fixed if the trainer attacks in the time for which it waits "
                "(section 5).",
                _told(found, 2),
                standing=standing,
                holds=lambda: _near_two(found, "helps"),
            ),
            judged(
                "Speed-up is almost linear in the number of GPUs from there on: nearly 5 "
                "with 7, over 5 with 8 (section 5, Figure 9).",
                f"{_told(found, 7)} {_told(found, 8)}",
                standing=standing,
                holds=lambda: _reached(found, 8),
            ),
            judged(
                "It saturates with about 8 GPUs, because an attack of κ = 8 takes about "
                "eight times as long as an update (section 5).",
                f"{_told(found, 9)} {_told(found, 10)} {_far_told(found)}",
                standing=standing,
                holds=lambda: _saturates(found),
            ),
            judged(
                "An asynchronous implementation gives a nearly linear speed-up (section 1).",
                _cores_told(found),
                standing=standing,
                holds=lambda: _pays(found),
            ),
            judged(
                "A bounded queue and weights that are re-saved every 100 updates curb "
                "staleness; up to 32 does no harm (section 5).",
                _ages_told(found),
                standing=standing,
                holds=lambda: _curbed(found),
            ),
        ]

    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        """Figure 9, the same far past it, and the staleness that real runs have."""
        return [
            *speed_up(found, provenance),
            *far(found, provenance),
            *ages(found, provenance),
        ]


def _emulated(found: Measurements, devices: int, trainer: str) -> float | None:
    return found.where(of="devices", devices=devices, trainer=trainer).last("emulated")


def _told(found: Measurements, devices: int) -> str:
    """Emulated, simulated and by the formula, of a trainer that waits and of one that helps."""
    words = []
    for trainer in ("waits", "helps"):
        rows = found.where(of="devices", devices=devices, trainer=trainer).rows
        if rows:
            ways = ("emulated", "simulated", "formula")
            each = ", ".join(f"{way} {float(rows[-1][way] or 0):.2f}" for way in ways)
            words.append(f"{each} where the trainer {trainer}")
    if not words:
        return f"{devices} devices were not emulated."
    return f"{devices} devices: {'; '.join(words)}."


def _near_two(found: Measurements, trainer: str) -> bool | None:
    """Whether two emulated devices are nearly twice as fast as one."""
    speed_up = _emulated(found, 2, trainer)
    return None if speed_up is None else speed_up >= 2 * NEAR


def _reached(found: Measurements, devices: int) -> bool | None:
    emulated = _emulated(found, devices, "waits")
    return None if emulated is None else emulated >= PAPERS_SPEED_UP


def _saturates(found: Measurements) -> bool | None:
    """Whether a tenth device gains less than half of what one can, in emulation."""
    ninth, tenth = (_emulated(found, devices, "waits") for devices in (9, 10))
    return None if ninth is None or tenth is None else tenth - ninth < 0.5


def _far_told(found: Measurements) -> str:
    rows = found.where(of="far", steps=ATTACK).sorted("devices").rows
    if not rows:
        return "None were simulated past it."
    last = rows[-1]
    return (
        f"Simulated, κ = {ATTACK}: {float(last['even'] or 0):.2f} with {last['devices']} devices, "
        f"whose batches are {float(last['staleness_mean'] or 0):.0f} updates old on average."
    )


def _cores_told(found: Measurements) -> str:
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
        f"{', '.join(each) or 'nothing yet'}. With several devices it was not measured: emulation "
        "and simulation above stand for them."
    )


def _pays(found: Measurements) -> bool | None:
    ratio = cores_speed_up(found, PAPERS_ENGINE)
    return None if ratio is None else ratio > 2 * NEAR


def _ages_told(found: Measurements) -> str:
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


def _curbed(found: Measurements) -> bool | None:
    rows = latest(found, "staleness", PAPERS_ENGINE)
    return max(rows.column("staleness")) <= HARMLESS if rows else None
