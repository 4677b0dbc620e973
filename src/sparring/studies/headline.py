"""Headline: how long does a robust network take, and what made it faster?

The paper's 26: from 4 hours to 9 minutes at the same robustness.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from typing_extensions import override

from sparring.records import Axis, Claim, Figure, Group, Lengths, Proportion, Provenance
from sparring.studies.networks import reached
from sparring.studies.recipes import (
    BASELINE,
    FAST,
    FAST_ASYNC,
    FEWER_STEPS,
    PAPER,
    PAPER_ASYNC,
    PLAIN,
    Clock,
    Judgement,
    SimulatedDevices,
    TimeTrial,
    recipes,
)
from sparring.studies.study import (
    Measurement,
    Measurements,
    Runs,
    Scale,
    Standing,
    Study,
    all_of,
    judged,
    too_small,
)
from sparring.training import TrainConfig

CHAIN = (PLAIN, BASELINE, FEWER_STEPS, PAPER, FAST, FAST_ASYNC)
"""From mnist_challenge's recipe to ours, one change at a time."""
CAUSES = ("arithmetic", "attack steps", "batch and updates", "schedule", "asynchrony")
"""What each step of the chain changes."""
UNITS = {3600: "h", 60: "min", 1: "s"}
"""Seconds of a unit of time; it is used from two units on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duration:
    """The time of a whole training."""

    seconds: float
    """Wall-clock time."""
    trained: int
    """Updates that were timed."""
    planned: int
    """Updates of the whole training."""

    @property
    def extrapolated(self) -> bool:
        """Whether only some of its updates were timed."""
        return self.trained < self.planned

    @property
    def origin(self) -> str:
        """How the time was found."""
        if self.extrapolated:
            return f"extrapolated from {self.trained:,} of {self.planned:,} updates"
        return f"measured, {self.planned:,} updates"

    def __str__(self) -> str:
        fitting = [length for length in UNITS if self.seconds >= 2 * length]
        length = max(fitting, default=1)
        return f"{self.seconds / length:.1f} {UNITS[length]} [{self.origin}]"


def durations(found: Measurements) -> Mapping[str, Duration]:
    """The time of each timed recipe, from its longest training; the slowest first."""
    times = found.where(of="time")
    each = ((name, _longest(times.where(recipe=name))) for name in times.names("recipe"))
    return dict(sorted(each, key=lambda pair: -pair[1].seconds))


def _longest(times: Measurements) -> Duration:
    rows = times.sorted("trained")
    trained, planned, spent = (rows.column(name)[-1] for name in ("trained", "planned", "spent"))
    return Duration(seconds=spent * planned / trained, trained=int(trained), planned=int(planned))


def factors(found: Measurements) -> Mapping[str, float]:
    """The speed-up of each cause; empty while a recipe is not timed."""
    times = durations(found)
    if any(name not in times for name in CHAIN):
        return {}
    ratios = (times[slow].seconds / times[quick].seconds for slow, quick in pairwise(CHAIN))
    return dict(zip(CAUSES, ratios, strict=True))


def whole(found: Measurements) -> float | None:
    """The speed-up of the whole chain; `None` if either end is not timed."""
    times = durations(found)
    if CHAIN[0] not in times or CHAIN[-1] not in times:
        return None
    return times[CHAIN[0]].seconds / times[CHAIN[-1]].seconds


PAPERS_WHOLE = 26.0
"""The paper's reduction of training time, from 4 hours to 9 minutes."""
PAPERS_STEPS = 5.0
"""The factor that the paper attributes to κ = 8 instead of 40."""
PAPERS = (1.0, PAPERS_STEPS, 1.0, 1.0, PAPERS_WHOLE / PAPERS_STEPS)
"""Its factors in the order of `CAUSES`; 1 if it states no gain."""


def times(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """Minutes of each recipe."""
    lasting = durations(found)
    if not lasting:
        return
    minutes = tuple(duration.seconds / 60 for duration in lasting.values())
    yield Figure(
        name="times",
        title="Training time of each recipe on this machine (the paper: 4 hours to 9 minutes)",
        caption="Minutes of wall-clock time on all cores of an otherwise idle machine. "
        "Extrapolated: mean seconds of the timed updates, times all updates of the recipe.",
        alternative="A bar of minutes for each recipe.",
        drawing=Lengths(
            names=tuple(
                f"{name} ({'extrapolated' if duration.extrapolated else 'measured'})"
                for name, duration in lasting.items()
            ),
            label="recipe",
            value=Axis(label="training time", unit="min", scale="log"),
            groups=(Group(name="here", numbers=minutes),),
        ),
        provenance=provenance,
    )


def causes(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """Speed-up of training by each cause, here and in the paper."""
    here = factors(found)
    if not here:
        return
    ratios = [here[cause] for cause in CAUSES]
    yield Figure(
        name="causes",
        title="Speed-up of training by cause; the product is the whole",
        caption="Here, from mnist_challenge's recipe in plain PyTorch to the preset fast with "
        "this library's engine, on all cores. Arithmetic: plain single precision, layer by layer, "
        "against this library's. Attack steps: κ = 40 against 8. Batch and updates: 100,000 of 50 "
        "images against 60,000 of 128. Schedule: those against the preset fast, with 980 updates "
        "and shorter attacks. Asynchrony: on the cores of this machine, all of which synchronous "
        "training uses as well. The paper: 26, of which it attributes 5 to κ and the rest to "
        "asynchrony over 8 GPUs; 1 if it states no gain.",
        alternative="Bars of factors for each cause and the whole, this machine's and the paper's.",
        drawing=Lengths(
            names=(*CAUSES, "whole"),
            label="cause",
            value=Axis(label="times faster", scale="log"),
            groups=(
                Group(name="here", numbers=(*ratios, prod(ratios))),
                Group(name="the paper", numbers=(*PAPERS, PAPERS_WHOLE)),
            ),
        ),
        provenance=provenance,
    )


TRAINED = {
    "smoke": (FAST, FAST_ASYNC),
    "short": (FAST, FAST_ASYNC),
    "paper": (FAST, FAST_ASYNC, PAPER_ASYNC, PAPER, BASELINE),
}
"""Recipes that are fully trained; the others are timed over a few updates."""
DEVICES = 8
"""The paper's GPUs."""
CONSTANT = (BASELINE, FEWER_STEPS, PAPER, PAPER_ASYNC)
"""Recipes of a constant learning rate, whose networks are also evaluated during training."""
QUICK = {"short": (FAST, FAST_ASYNC), "paper": (FAST, FAST_ASYNC, PAPER_ASYNC)}
"""Recipes compared with the paper's network of 9 minutes."""
NO_DEVICES = f"{DEVICES} devices were not available; the study asynchrony emulates them"
TRIAL = {"smoke": 2, "short": 60, "paper": 120}
"""Updates of a time trial."""
IMAGES = {"smoke": 8, "short": 1000, "paper": 10_000}
"""Test images of an evaluation."""
SUITE = {"smoke": "pgd", "short": "pgd-100x5", "paper": "pgd-100x5"}
"""Its suite."""
ROBUST, NATURAL = 0.89, 0.98
"""Accuracies of the paper's networks (sections 4 and 5): 89 to 91 %, and about 98 %."""
STEPS_GAIN = 4.0
"""The least speed-up that counts as "roughly 5"."""
PUBLISHED = (
    "Published, not measured here, by other attacks: mnist_challenge's own network has 88.50 % "
    "under AutoAttack, 98.53 % natural (README of fra31/auto-attack), 89 to 91 % and 98 % in the "
    "paper; the paper's has about 90 % and 98 %."
)
"""Results of recipes that are not trained here."""


@dataclass(frozen=True, slots=True)
class Headline(Study):
    """Training time of mnist_challenge's recipe, the paper's and ours, split by cause."""

    name: str = "headline"
    title: str = "How long does a robust network take, and what made it faster?"
    covers: str = "abstract, end of section 5: 26 times"

    @override
    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        known = recipes(scale)
        return {name: known[name] for name in TRAINED[scale]}

    @override
    def enough(self, scale: Scale, network: str) -> int | None:
        return None

    @override
    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        judgements = [
            Judgement(
                network=name,
                run=run,
                suite=SUITE[scale],
                images=IMAGES[scale],
                checks=scale != "smoke",
            )
            for name, run in runs.items()
            if reached(run) == run.section("updates", int) or name in CONSTANT
        ]
        trials = [
            TimeTrial(recipe=name, config=config, updates=TRIAL[scale])
            for name, config in recipes(scale).items()
            if name not in (FAST, FAST_ASYNC)  # their attacks grow longer later
        ]
        clocks = [Clock(name, run) for name, run in runs.items()]
        return [*judgements, *clocks, SimulatedDevices(devices=DEVICES), *trials]

    @override
    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        standing = too_small(scale)
        quick = _standing(scale, found, QUICK.get(scale, ()))
        return [
            judged(
                "Training is 26 times shorter, 9 minutes instead of 4 hours, at comparable "
                "robustness (abstract, sections 4 and 5).",
                f"{_whole_speed_up(found)} {_by_cause(found)}",
                standing=standing,
                holds=lambda: all_of((_as_fast(found), _robust(found, FAST_ASYNC))),
            ),
            judged(
                "κ = 8 instead of 40 makes training roughly 5 times faster (section 4).",
                _step_times(found),
                standing=standing,
                holds=lambda: _steps_pay(found),
            ),
            judged(
                "8 GPUs make training over 5 times faster than one (section 5).",
                _asynchrony_times(found),
                standing=Standing(open=standing.open or NO_DEVICES),
                holds=lambda: None,
            ),
            judged(
                "Its network of 9 minutes has a robust accuracy of around 90 % and a natural one "
                "of 98 % (section 5).",
                f"{_accuracies(found)} {PUBLISHED}",
                standing=quick,
                holds=lambda: all_of(_robust(found, name) for name in QUICK[scale]),
            ),
        ]

    @override
    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        return [*times(found, provenance), *causes(found, provenance)]


def _standing(scale: Scale, found: Measurements, names: Sequence[str]) -> Standing:
    """As `too_small`, with those of these networks that are not fully trained."""
    times = durations(found)
    under_way = (
        f"{name}: {times[name].trained:,} of {times[name].planned:,} updates"
        for name in names
        if name in times and times[name].extrapolated
    )
    return too_small(scale)._replace(so_far=", ".join(under_way))


def _whole_speed_up(found: Measurements) -> str:
    ratio, lasting = whole(found), durations(found)
    if ratio is None:
        return "The slowest and the fastest recipe have not both been timed."
    return (
        f"mnist_challenge's recipe in plain PyTorch takes {lasting[PLAIN]}, the preset fast with "
        f"workers {lasting[FAST_ASYNC]}: {ratio:.0f} times less, on the same machine."
    )


def _by_cause(found: Measurements) -> str:
    split = factors(found)
    if not split:
        return "Not all causes are timed yet."
    product = " x ".join(f"{ratio:.2f} ({cause})" for cause, ratio in split.items())
    return f"By cause: {product}, from the times above, extrapolated ones included."


def _as_fast(found: Measurements) -> bool | None:
    ratio = whole(found)
    return None if ratio is None else ratio >= PAPERS_WHOLE


def _step_times(found: Measurements) -> str:
    lasting = durations(found)
    if any(name not in lasting for name in (BASELINE, FEWER_STEPS, PAPER)):
        return "Not timed."
    forty, eight, paper = (lasting[name] for name in (BASELINE, FEWER_STEPS, PAPER))
    return (
        f"mnist_challenge's recipe takes {forty} with its 40 steps, {eight} with 8: "
        f"{forty.seconds / eight.seconds:.2f} times less. The paper's recipe of κ = 8 has fewer "
        f"updates but larger batches, more images in all, and takes {paper}: "
        f"{forty.seconds / paper.seconds:.2f} times less than the baseline."
    )


def _steps_pay(found: Measurements) -> bool | None:
    ratio = factors(found).get("attack steps")
    return None if ratio is None else ratio >= STEPS_GAIN


def _asynchrony_times(found: Measurements) -> str:
    lasting = durations(found)
    pairs = ((PAPER, PAPER_ASYNC), (FAST, FAST_ASYNC))
    here = [
        f"{slow} {lasting[slow]} against {quick} {lasting[quick]}, "
        f"{lasting[slow].seconds / lasting[quick].seconds:.2f} times"
        for slow, quick in pairs
        if slow in lasting and quick in lasting
    ]
    simulated = [
        f"{float(row['speed_up'] or 0):.2f} if the trainer {row['trainer']}"
        for row in found.where(of="simulated", devices=DEVICES).rows
    ]
    return (
        f"On the cores of this machine, all of which synchronous training uses as well: "
        f"{'; '.join(here) or 'not timed'}. {DEVICES} devices were not available; simulated on a "
        f"virtual clock, κ = 8: {', '.join(simulated) or 'nothing yet'}."
    )


def _accuracy(found: Measurements, recipe: str, column: str) -> Proportion | None:
    rows = found.where(of="robustness", recipe=recipe).rows
    if not rows:
        return None
    return Proportion(successes=int(rows[-1][column] or 0), total=int(rows[-1]["images"] or 0))


def _robust(found: Measurements, recipe: str) -> bool | None:
    """Whether it is as robust and accurate as the paper's networks, without flags."""
    robust, natural = (_accuracy(found, recipe, column) for column in ("robust", "natural"))
    if robust is None or natural is None:
        return None
    flags = found.where(of="robustness", recipe=recipe).column("flags")[-1]
    return robust.share >= ROBUST and natural.share >= NATURAL and not flags


def _accuracies(found: Measurements) -> str:
    findings = []
    for row in found.where(of="robustness").rows:
        recipe = str(row["recipe"])
        robust, natural = (_accuracy(found, recipe, column) for column in ("robust", "natural"))
        flags = "unchecked" if row["flags"] is None else f"{row['flags']} flags"
        findings.append(
            f"Measured: {recipe} {robust} robust under {row['suite']}, {natural} natural, first "
            f"{row['images']:,} test images, {flags}."
        )
    return " ".join(findings) or "Not measured."
