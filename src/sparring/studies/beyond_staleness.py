"""Beyond the paper's staleness: attacks whose last steps are taken with the current weights.

The paper stops at s = 32 (section 5, Figure 8). Here the last F of κ steps are fresh. At the scale
short the network is smaller than that of other studies: all settings, some of them with several
seeds, then take hours and not a day.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

from typing_extensions import override

from sparring.models import PaperCNN, StridedNetwork
from sparring.records import (
    Axis,
    Claim,
    Curves,
    Figure,
    Panel,
    Proportion,
    Provenance,
    Row,
    RunDirectory,
    Series,
)
from sparring.records.text import counted
from sparring.studies.attacker_power import ACCURACY, UPDATES, accuracy_series, shares_series
from sparring.studies.cycling import FRAMES, Filming, correlations, only_one_returns, return_of
from sparring.studies.freshening import Freshening, SnapshotUnderSuite
from sparring.studies.networks import (
    ATTACK,
    SNAPSHOTS,
    SnapshotUnderAttack,
    enough,
    reached,
    stale,
)
from sparring.studies.staleness import (
    FINAL,
    HARMFUL,
    IMAGES,
    StaleAccuracy,
    fresh_and_stale,
    network_name,
    setting,
)
from sparring.studies.study import (
    Measurement,
    Measurements,
    Runs,
    Scale,
    Study,
    judged,
    network_label,
    per_cent,
    standing,
)
from sparring.training import Adam, TrainConfig

LAGS = {"smoke": (2,), "short": (8, 32, 64, 256, 1024), "paper": (64, 1024)}
"""s of the networks, beside s = 0."""
FRESH = {"smoke": (0, 1), "short": (0, 1, 2, 4), "paper": (0, 2)}
"""F: how many of the κ = 8 steps are fresh."""
BETWEEN = {"short": (3,)}
"""F as well, where s is harmful in the paper."""
WARM = 256
"""s from which on, at short, the queue grows to its length over 2 s updates."""
DECIDING = {"short": ((0, 0), (64, 1), (64, 2), (64, 3), (1024, 2))}
"""s and F of the networks that are trained with `SEEDS` seeds."""
SEEDS = 3
LONGEST = 4018
"""Updates of s = 0 and s = 1,024 at short: three times those of the others."""
FILMED = {"smoke": ((2, 0), (2, 1)), "short": ((64, 0), (64, 2)), "paper": ((64, 0), (64, 2))}
"""s and F of the networks whose perturbations are filmed."""
SUITE = {"smoke": "pgd", "short": "standard", "paper": "standard"}
"""The suite that judges the networks in the end."""
SMALL, LEARNING_RATE = "strided-", 2e-3
"""At short: how the networks' names begin, and their learning rate."""
CLOSE, POINT = 0.02, 0.01
"""Loss of robust accuracy, against s = 0, that counts as none, and as a point at most."""
GAPS_SHOWN = 8
"""Snapshots at which stale and fresh examples are compared, or up to twice as many."""
COMPARED = "Compared with an attack from the same start whose steps are all fresh."
GAPS = {
    "right": (
        "Accuracy on stale examples before and after fresh steps",
        ACCURACY,
        "Lower is a stronger attack. Bands: 95 % intervals.",
    ),
    "agreement": (
        "Pixels that a stale and a fresh attack perturb in the same direction",
        Axis(label="same direction"),
        f"Of the pixels that both perturb. {COMPARED}",
    ),
    "distance": (
        "Distance between stale and fresh examples",
        Axis(label="mean distance", unit="ε"),
        COMPARED,
    ),
}
"""Figures of stale examples beside fresh ones, by column: title, axis and caption."""
PAPERS = {8: 0.90, 32: 0.90, 64: 0.05, 256: 0.05, 1024: 0.05}
"""Robust accuracy over s as the paper's text states it: about 90 % to s = 32, then around 5 %."""


@dataclass(frozen=True, slots=True)
class BeyondStaleness(Study):
    """Networks of s = 0 to 1,024 whose attacks end with F = 0 to 4 fresh steps."""

    name: str = "beyond-staleness"
    title: str = "How stale may attacks be if their last steps are fresh?"
    covers: str = "past section 5 and its Figure 8"

    @override
    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        known: dict[str, TrainConfig] = {}
        for lag in (0, *LAGS[scale]):
            for fresh in _fresh(scale, lag) if lag else (0,):
                seeds = SEEDS if (lag, fresh) in DECIDING.get(scale, ()) else 1
                for seed in range(seeds):
                    known[_name(scale, lag, fresh, seed)] = settings_of(scale, lag, fresh, seed)
        return known

    @override
    def enough(self, scale: Scale, network: str) -> int | None:
        if scale == "short" and setting(network)[1] in (0, 1024):
            return LONGEST
        return enough(scale)

    @override
    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        images, lags = IMAGES[scale], {name: setting(name)[1] for name in runs}
        along = [
            SnapshotUnderAttack(
                network=name,
                run=run,
                version=version,
                steps=(ATTACK,),
                images=images,
                of="training",
            )
            for name, run in runs.items()
            for version in run.snapshots()
        ]
        gaps = [
            Freshening(
                network=name,
                run=run,
                version=version,
                age=age,
                fresh_steps=FRESH[scale],
                images=images,
            )
            for name, run in runs.items()
            if lags[name] and "seed" not in name
            for age in [_age(scale, lags[name])]
            for version in _some(run.snapshots(), age)
        ]
        ends = [
            SnapshotUnderSuite(
                network=name,
                run=run,
                version=version,
                suite=SUITE[scale],
                images=FINAL[scale],
            )
            for name, run in runs.items()
            for version in sorted({*_compared(scale, run, lags[name]), reached(run)})
        ]
        films = [
            Filming(network=name, run=runs[name], frames=FRAMES[scale])
            for of in FILMED[scale]
            if (name := _name(scale, *of)) in runs
            and reached(runs[name]) + FRAMES[scale] <= runs[name].section("updates", int)
        ]
        stales = (StaleAccuracy(name, run) for name, run in runs.items())
        return [*ends, *along, *stales, *films, *gaps]

    @override
    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        ends, reference = _ends_found(found), _name(scale, 0)
        lags = LAGS[scale]
        far = [lag for lag in lags if lag >= HARMFUL] or lags
        several = min(2, max(FRESH[scale]))
        none, two = ([_name(scale, lag, steps) for lag in far] for steps in (0, several))
        filmed = {name: return_of(found, name) for name in found.having("frame").names("network")}
        names = [_name(scale, *of) for of in FILMED[scale]]
        return [
            judged(
                f"Without fresh steps robust accuracy is lost from s = {HARMFUL} on (Figure 8).",
                _accuracies(ends, [reference, *none]),
                standing=standing(self, scale, found, [reference, *none]),
                holds=lambda: all(_robust(ends, name).share < 0.5 for name in none),
            ),
            judged(
                f"Past the paper: with {several} fresh steps of {ATTACK} robust accuracy is within "
                f"{100 * CLOSE:.0f} points of that of s = 0, up to s = {max(lags):,}.",
                _accuracies(ends, [reference, *two]),
                standing=standing(self, scale, found, [reference, *two]),
                holds=lambda: all(_loss(ends, reference, name) <= CLOSE for name in two),
            ),
            judged(
                "Past the paper: some fresh steps are cheaper than all, at any number of workers: "
                "the speed-up is at most (κ + 1) / (F + 1).",
                _cheapest(scale, ends, reference, far),
                standing=standing(self, scale, found, [reference, *two]),
                holds=lambda: all(_fewest(scale, ends, reference, lag) is not None for lag in far),
            ),
            judged(
                "Past the paper: fresh steps end the cycling of the adversarial examples (Figure "
                "6).",
                " ".join(
                    f"{network_label(name)}: the correlation rises again by "
                    f"{seen.high - seen.low:.2f}."
                    for name, seen in filmed.items()
                )
                or "No network has been filmed.",
                standing=standing(self, scale, found, names),
                holds=lambda: only_one_returns(*(filmed.get(name) for name in reversed(names))),
            ),
        ]

    @override
    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        return [
            *_by_staleness(found, provenance),
            *_along(found, provenance),
            *_freshened(found, provenance),
            *correlations(found, provenance),
        ]


def settings_of(scale: Scale, lag: int, fresh: int = 0, seed: int = 0) -> TrainConfig:
    """A network of this study.

    As in other studies; at short one with fewer products, at four times the learning rate.
    """
    config = stale(scale, lag, fresh, warm_up=_warm_up(scale, lag), seed=seed)
    if scale != "short":
        return config
    model = StridedNetwork(filters=16).fitted(PaperCNN.image_shape, PaperCNN.num_classes)
    return replace(config, model=model, optimizer=Adam(learning_rate=LEARNING_RATE))


def _fresh(scale: Scale, lag: int) -> Sequence[int]:
    """The numbers of fresh steps that are tried at s > 0."""
    between = BETWEEN.get(scale, ()) if lag >= HARMFUL else ()
    return sorted({*FRESH[scale], *between})


def _age(scale: Scale, lag: int) -> int:
    """The multiple of the updates between snapshots that is closest to s, at least one."""
    return SNAPSHOTS[scale] * max(1, round(lag / SNAPSHOTS[scale]))


def _some(versions: Sequence[int], age: int) -> Sequence[int]:
    """Some snapshots, the last one included, with one that is `age` updates older and trained."""
    found = [version for version in versions if version > age and version - age in versions]
    return found[:: -max(1, len(found) // GAPS_SHOWN)]


def _compared(scale: Scale, run: RunDirectory, lag: int) -> set[int]:
    """Updates after which s = 0 is compared with networks of a shorter training."""
    return {enough(scale)} & set(run.snapshots()) if not lag else set()


def _warm_up(scale: Scale, lag: int) -> int:
    return 2 * lag if scale == "short" and lag >= WARM else 0


def _name(scale: Scale, lag: int, fresh: int = 0, seed: int = 0) -> str:
    name = network_name(scale, lag, fresh, warm_up=_warm_up(scale, lag), seed=seed)
    return f"{SMALL}{name}" if scale == "short" else name


class _End(NamedTuple):
    """A network after its last update, under the suite; networks of several seeds together."""

    version: int
    natural: Proportion
    robust: Proportion


def _ends_found(found: Measurements) -> Mapping[str, Sequence[_End]]:
    """The ends of all networks, in order of their updates; of several seeds their mean.

    Seeds see the same images, so the interval of their mean is that of these images once.
    """
    seeds: dict[tuple[str, int], list[Row]] = {}
    for row in found.having("robust").sorted("version").rows:
        name, _, _ = str(row["network"]).partition("-seed")
        seeds.setdefault((name, int(row["version"] or 0)), []).append(row)
    ends: dict[str, list[_End]] = {}
    for (name, version), rows in seeds.items():
        each = Measurements(rows=rows)
        images = int(min(each.column("images")))
        natural, robust = (
            Proportion(successes=round(fmean(each.column(what))), total=images)
            for what in ("natural", "robust")
        )
        ends.setdefault(name, []).append(_End(version, natural, robust))
    return ends


def _robust(ends: Mapping[str, Sequence[_End]], name: str) -> Proportion:
    return ends[name][-1].robust


def _loss(ends: Mapping[str, Sequence[_End]], reference: str, name: str) -> float:
    """Robust accuracy that s = 0 has more after as many updates."""
    end = ends[name][-1]
    same = min(ends[reference], key=lambda other: abs(other.version - end.version))
    return round(same.robust.share - end.robust.share, 9)


def _accuracies(ends: Mapping[str, Sequence[_End]], names: Sequence[str]) -> str:
    words = (
        f"{network_label(name)}: {per_cent(end.natural.share)} and {per_cent(end.robust.share)} "
        f"after {end.version:,} updates"
        for name in names
        for end in ends.get(name, ())
    )
    return f"Natural and robust accuracy on test images: {'; '.join(words) or 'not measured'}."


def _fewest(
    scale: Scale,
    ends: Mapping[str, Sequence[_End]],
    reference: str,
    lag: int,
) -> int | None:
    """The fewest fresh steps with which s costs less than a point of robust accuracy."""
    good = (
        steps
        for steps in _fresh(scale, lag)
        if (name := _name(scale, lag, steps)) in ends
        and reference in ends
        and _loss(ends, reference, name) <= POINT
    )
    return min(good, default=None)


def _cheapest(
    scale: Scale, ends: Mapping[str, Sequence[_End]], reference: str, lags: Sequence[int]
) -> str:
    words = []
    for lag in lags:
        steps = _fewest(scale, ends, reference, lag)
        if steps is None:
            tried = ", ".join(map(str, _fresh(scale, lag)))
            words.append(f"s = {lag:,}: none of {tried} fresh steps")
        else:
            most = (ATTACK + 1) / (steps + 1)
            words.append(f"s = {lag:,}: {counted(steps, 'fresh step')}, at most {most:.2f} times")
    return f"Fewest steps within a point of s = 0, and their largest speed-up: {'; '.join(words)}."


def _by_staleness(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    ends = _ends_found(found)
    if not ends:
        return
    panels = []
    for what, title in (("robust", "under attack"), ("natural", "clean images")):
        lines = []
        named = {setting(name): name for name in ends}
        for fresh in sorted({fresh for fresh, lag in named if lag}):
            lags = sorted(lag for of, lag in named if of == fresh and lag)
            shares = [getattr(ends[named[fresh, lag]][-1], what) for lag in lags]
            name = f"{fresh} of {ATTACK} steps fresh" if fresh else "no fresh steps"
            lines.append(shares_series(name, tuple(map(float, lags)), shares))
        for end in ends.get(named.get((0, 0), ""), ()):
            share = getattr(end, what)
            lags = sorted({lag for _, lag in named if lag})
            spread = tuple(map(float, (lags[0], lags[-1]))) if lags else (1.0,)
            name = f"s = 0, {end.version:,} updates"
            lines.append(shares_series(name, spread, [share] * len(spread)))
        if what == "robust":
            x, y = tuple(map(float, PAPERS)), tuple(100 * share for share in PAPERS.values())
            lines.append(Series(name="the paper's text, rounded", x=x, y=y))
        panels.append(Panel(title=title, series=tuple(lines)))
    rows = found.having("robust")
    yield Figure(
        name="by-staleness",
        title="Robust and natural accuracy by staleness and fresh steps",
        caption=f"The first {int(rows.column('images')[0]):,} test images under the suite "
        f"{rows.names('suite')[0]}, at each network's last snapshot, the mean of the seeds where "
        "there are several; 95 % intervals for other images, not for other seeds. The paper "
        "(60,000 updates, Figure 8): about 90 % up to s = 32, then around 5 %.",
        alternative="Accuracy against staleness, one line for each number of fresh steps.",
        drawing=Curves(
            x=Axis(label="staleness s", unit="updates", scale="log"),
            y=Axis(label="correct", unit="%"),
            panels=tuple(panels),
        ),
        provenance=provenance,
    )


def _along(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    shots = found.where(of="training")
    if not shots:
        return
    panels = []
    for name in sorted(shots.names("network"), key=lambda name: (setting(name), name)):
        lines = fresh_and_stale(found, name, "trained on")
        panels.append(Panel(title=network_label(name), series=lines))
    yield Figure(
        name="fresh-and-trained-on",
        title="Accuracy on fresh attacks and on the examples trained on, along training",
        caption=f"Fresh: the first {int(shots.column('images')[0])} training images, attacked with "
        f"the weights of that moment (κ = {ATTACK}; bands: 95 % intervals). Trained on: the "
        "batches of the last 25 updates, whose first steps are stale.",
        alternative="Two lines in each panel, one panel for each network.",
        drawing=Curves(x=UPDATES, y=ACCURACY, panels=tuple(panels)),
        provenance=provenance,
    )


def _freshened(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    gaps = found.having("agreement")
    if not gaps:
        return
    about = f"The first {int(gaps.column('images')[0])} training images. The first κ - F steps "
    about += f"attack a snapshot about s updates older, the last F of {ATTACK} the current one."
    for column, (title, axis, caption) in GAPS.items():
        yield Figure(
            name=f"freshened-{column}",
            title=f"{title}, along training",
            caption=f"{about} {caption}",
            alternative=f"{title}: a line for each number of fresh steps against updates.",
            drawing=Curves(
                x=UPDATES,
                y=axis,
                panels=tuple(
                    Panel(title=network_label(name), series=_gap_lines(gaps, name, column))
                    for name in sorted(gaps.names("network"), key=setting)
                ),
            ),
            provenance=provenance,
        )


def _gap_lines(gaps: Measurements, network: str, column: str) -> tuple[Series, ...]:
    lines = []
    for fresh in sorted({int(each) for each in gaps.column("fresh_steps")}):
        own = gaps.where(network=network, fresh_steps=fresh).sorted("version")
        name = counted(fresh, "fresh step") if fresh else "no fresh steps"
        x = own.column("version")
        if column == "right":
            lines.append(accuracy_series(name, x, own))
        else:
            lines.append(Series(name=name, x=x, y=own.column(column)))
    return tuple(lines)
