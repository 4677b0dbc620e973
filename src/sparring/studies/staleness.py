"""Staleness: how do adversarial examples of older weights change a network?

The paper's section 5, its Figures 5, 7 and 8.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from typing_extensions import override

from sparring.models import Initialisation
from sparring.records import (
    Axis,
    Claim,
    Curves,
    Figure,
    MetricsLog,
    Panel,
    Provenance,
    Row,
    RunDirectory,
    Series,
)
from sparring.studies.attacker_power import ACCURACY, UPDATES, accuracy_series
from sparring.studies.networks import (
    ATTACK,
    SnapshotUnderAttack,
    enough,
    reached,
    stale,
    varied,
    weights_digest,
)
from sparring.studies.study import (
    NETWORK,
    Measurement,
    Measurements,
    Runs,
    Scale,
    Standing,
    Study,
    judged,
    network_variant,
    per_cent,
    standing,
)
from sparring.training import TrainConfig

LAGS = {"smoke": (0, 2), "short": (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)}
"""s of the networks; the scale paper has those of short."""
FRESHENED = {"smoke": ((2, 1),), "short": ((64, 2), (1024, 2))}
"""s and fresh steps of networks that are not in the paper; its scale has those of short."""
IMAGES = {"smoke": 16, "short": 512, "paper": 512}
"""Training images for each snapshot."""
FINAL = {"smoke": 16, "short": 1000, "paper": 1000}
"""Test images for the last snapshot."""
BEFORE = 25
"""Updates whose batches, 3,200 images, give the accuracy on stale examples."""
HARMLESS, HARMFUL = 32, 64
"""The largest harmless staleness of the paper, and the smallest harmful one."""
GAP = 0.2
"""Fresh accuracy further below stale accuracy shows that stale examples are memorised."""
LEARNED = 0.5
"""Robust accuracy without staleness, and the share of it on stale examples with s = 32, below which
there is no verdict."""
TOO_EARLY = "without staleness robust accuracy is below 50 %"
"""Why there is no verdict on what staleness costs."""


def network_name(
    scale: Scale, staleness: int, fresh_steps: int = 0, *, warm_up: int = 0, seed: int = 0
) -> str:
    """A network's name in all studies; at the scale paper s = 0 is attacker power's κ = 8."""
    if scale == "paper" and not staleness:
        return f"k{ATTACK}"
    fresh = f"f{fresh_steps}" if fresh_steps else ""
    return network_variant(f"s{staleness}{'w' * bool(warm_up)}{fresh}", seed=seed)


@dataclass(frozen=True, slots=True)
class StaleAccuracy(Measurement):
    """Accuracy on the stale examples of training, from a run's log.

    It gives a row for each snapshot: the mean of the last `BEFORE` updates before it.
    """

    network: str
    run: RunDirectory

    @property
    @override
    def name(self) -> str:
        return f"stale accuracy of {self.network}@{reached(self.run)}"

    @property
    @override
    def subject(self) -> str:
        return weights_digest(self.run)

    @override
    def __call__(self) -> Sequence[Row]:
        log = [row for row in MetricsLog(self.run.metrics).rows() if "staleness" in row]
        right = {int(row["step"] or 0): float(row["training_accuracy"] or 0) for row in log}
        return [
            {"network": self.network, "version": version, "stale": fmean(_last(right, version))}
            for version in self.run.snapshots()
            if version
        ]


def _last(right: Mapping[int, float], version: int) -> Sequence[float]:
    return [right[step] for step in range(max(1, version - BEFORE + 1), version + 1)]


@dataclass(frozen=True, slots=True)
class Staleness(Study):
    """Networks whose batches wait for s = 0 to 1024 updates, under fresh attacks."""

    name: str = "staleness"
    title: str = "How old may the weights behind adversarial examples be?"
    covers: str = "section 5, Figures 5, 7 and 8"
    initialisation: Initialisation | None = None
    """Initial weights of the networks; `None` for those of the scale."""

    @override
    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        plain = ((lag, 0) for lag in LAGS.get(scale, LAGS["short"]))
        settings = (*plain, *FRESHENED.get(scale, FRESHENED["short"]))
        return {
            self._network(scale, *each): varied(stale(scale, *each), self.initialisation)
            for each in settings
        }

    def _network(self, scale: Scale, staleness: int, fresh_steps: int = 0) -> str:
        return network_variant(network_name(scale, staleness, fresh_steps), self.initialisation)

    @override
    def enough(self, scale: Scale, network: str) -> int | None:
        return enough(scale)

    @override
    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        along = [
            SnapshotUnderAttack(
                network=name,
                run=run,
                version=version,
                steps=(ATTACK,),
                images=IMAGES[scale],
                of="training",
            )
            for name, run in runs.items()
            for version in run.snapshots()
        ]
        last = [
            SnapshotUnderAttack(
                network=name,
                run=run,
                version=reached(run),
                steps=(0, ATTACK),
                images=FINAL[scale],
                of="test",
            )
            for name, run in runs.items()
        ]
        return [*along, *last, *(StaleAccuracy(name, run) for name, run in runs.items())]

    @override
    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        far = [lag for lag in _lags(found) if lag > HARMFUL]
        ends = (0, HARMLESS, HARMFUL, *far)
        return [
            judged(
                f"With s = {HARMLESS} fresh accuracy follows stale accuracy (Figure 5a).",
                _fresh_and_stale(found, (0, HARMLESS)),
                standing=self._standing(scale, found, (0, HARMLESS)),
                holds=lambda: _follows(found),
            ),
            judged(
                f"With s = {HARMFUL} the network memorises stale examples and is not robust to "
                "fresh ones (Figure 5b).",
                _fresh_and_stale(found, (HARMFUL,)),
                standing=self._standing(scale, found, (HARMFUL,)),
                holds=lambda: _gap(found, HARMFUL) > GAP,
            ),
            judged(
                "After training robust accuracy is lost for large s, natural accuracy is not "
                "(Figure 8).",
                _final_accuracies(found),
                standing=self._standing(scale, found, ends),
                holds=lambda: _lost(found),
            ),
        ]

    def _standing(self, scale: Scale, found: Measurements, lags: Sequence[int]) -> Standing:
        names = [self._network(scale, lag) for lag in lags]
        return standing(self, scale, found, names)

    @override
    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        return [*_ends(found, provenance), *_along(found, provenance)]


def setting(network: str) -> tuple[int, int]:
    """Fresh steps and s of a network, in the order in which networks are shown."""
    found = NETWORK.fullmatch(network)
    return (int(found[3] or 0), int(found[2])) if found and found[1] == "s" else (0, 0)


def _named(found: Measurements) -> dict[tuple[int, int], str]:
    """The measured networks, by fresh steps and s."""
    names = found.where(of="training").names("network")
    return {setting(name): name for name in sorted(names, key=setting)}


def _lags(found: Measurements) -> list[int]:
    """s of the measured networks without fresh steps."""
    return [lag for fresh, lag in _named(found) if not fresh]


def _network(found: Measurements, lag: int) -> str:
    return _named(found)[0, lag]


def _fresh(found: Measurements, lag: int) -> float:
    """Accuracy on training images under fresh attacks, at the last snapshot."""
    looks = found.where(of="training", network=_network(found, lag)).sorted("version")
    return looks.shares[-1].share


def _stale(found: Measurements, lag: int) -> float:
    rows = found.where(network=_network(found, lag)).having("stale")
    return rows.sorted("version").column("stale")[-1]


def _gap(found: Measurements, lag: int) -> float:
    return _stale(found, lag) - _fresh(found, lag)


def _follows(found: Measurements) -> bool | str:
    """Whether the harmless staleness keeps fresh accuracy near stale accuracy, once it learned."""
    if _fresh(found, 0) < LEARNED:
        return f"{TOO_EARLY} on training images"
    learned = _stale(found, HARMLESS) >= LEARNED * _fresh(found, 0)
    return _gap(found, HARMLESS) < GAP if learned else f"s = {HARMLESS} has hardly learned yet"


def _fresh_and_stale(found: Measurements, lags: Sequence[int]) -> str:
    there = [lag for lag in lags if lag in _lags(found)]
    return " ".join(_fresh_and_stale_at(found, lag) for lag in there)


def _fresh_and_stale_at(found: Measurements, lag: int) -> str:
    fresh, old = per_cent(_fresh(found, lag)), per_cent(_stale(found, lag))
    return f"s = {lag}: at the end {fresh} correct under fresh attacks, {old} on stale examples."


def _end(found: Measurements, lag: int, steps: int) -> float:
    looks = found.where(of="test", network=_network(found, lag), steps=steps).sorted("version")
    return looks.shares[-1].share


def _final_accuracies(found: Measurements) -> str:
    each = (
        f"s = {lag}: {per_cent(_end(found, lag, ATTACK))} and {per_cent(_end(found, lag, 0))}"
        for lag in _lags(found)
    )
    return f"Robust and natural accuracy on test images: {'; '.join(each)}."


def _lost(found: Measurements) -> bool | str:
    """Whether large s halves robust accuracy and keeps natural accuracy."""
    much = [lag for lag in _lags(found) if lag >= HARMFUL]
    robust, natural = _end(found, 0, ATTACK), _end(found, 0, 0)
    if robust < LEARNED:
        return f"{TOO_EARLY} on test images"
    return all(_end(found, lag, ATTACK) < robust / 2 for lag in much) and all(
        _end(found, lag, 0) > natural - GAP for lag in much
    )


def fresh_and_stale(found: Measurements, network: str, stale_name: str) -> tuple[Series, ...]:
    """Accuracy on fresh attacks of training images, and on the examples trained on."""
    fresh = found.where(of="training", network=network).sorted("version")
    old = found.where(network=network).having("stale").sorted("version")
    return (
        accuracy_series("fresh", fresh.column("version"), fresh),
        Series(
            name=stale_name,
            x=old.column("version"),
            y=tuple(100 * share for share in old.column("stale")),
        ),
    )


def _along(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    looks = found.where(of="training")
    if not looks:
        return
    images = int(looks.column("images")[0])
    panels = []
    for (steps, lag), name in _named(found).items():
        lines = fresh_and_stale(found, name, "stale")
        title = f"s = {lag}, {steps} of {ATTACK} steps fresh" if steps else f"s = {lag}"
        panels.append(Panel(title=title, series=lines))
    yield Figure(
        name="fresh-and-stale",
        title="Accuracy on fresh and on stale adversarial examples, along training (Figures 5, 7)",
        caption=f"Fresh: the first {images} training images, attacked with the current weights "
        f"(κ = {ATTACK}; bands: 95 % intervals). Stale: the batches of the last {BEFORE} "
        "updates, attacked s updates before they were trained on.",
        alternative="Two lines in each panel, one panel for each staleness.",
        drawing=Curves(x=UPDATES, y=ACCURACY, panels=tuple(panels)),
        provenance=provenance,
    )


def _ends(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    ends = found.where(of="test")
    if not ends:
        return
    named = _named(found)
    panels = []
    for steps, title in ((ATTACK, "under attack"), (0, "clean images")):
        lines = []
        for fresh in sorted({fresh for fresh, _ in named}):
            lags = [lag for of, lag in named if of == fresh]
            rows = [
                ends.where(network=named[fresh, lag], steps=steps).sorted("version").rows[-1]
                for lag in lags
            ]
            name = f"{fresh} of {ATTACK} steps fresh" if fresh else "no fresh steps"
            lines.append(accuracy_series(name, tuple(map(float, lags)), Measurements(rows=rows)))
        panels.append(Panel(title=title, series=tuple(lines)))
    yield Figure(
        name="ends",
        title="Robust and natural accuracy after training, by staleness (Figure 8)",
        caption=f"The first {int(ends.column('images')[0]):,} test images, clean and attacked "
        f"(κ = {ATTACK}), at each network's last snapshot; 95 % intervals.",
        alternative="Accuracy against staleness, attacked and clean.",
        drawing=Curves(
            x=Axis(label="staleness s", unit="updates", scale="even"),
            y=Axis(label="correct", unit="%"),
            panels=tuple(panels),
        ),
        provenance=provenance,
    )
