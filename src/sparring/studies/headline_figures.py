"""What there is to see of the headline: what recipes take, and what makes them faster."""

from collections.abc import Iterator
from math import prod

from sparring.records import Axis, Figure, Group, Lengths, Provenance
from sparring.studies.headline_times import CAUSES, durations, factors
from sparring.studies.study import Measurements

PAPERS_WHOLE = 26.0
"""The paper's reduction of training time, from 4 hours to 9 minutes."""
PAPERS_STEPS = 5.0
"""The part of it that the paper ascribes to κ = 8 instead of 40."""
PAPERS = (1.0, PAPERS_STEPS, 1.0, 1.0, PAPERS_WHOLE / PAPERS_STEPS)
"""Its split by cause, in the order of `CAUSES`; 1 where it tells of no gain."""


def times(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """Minutes that each recipe takes."""
    lasting = durations(found)
    if not lasting:
        return
    minutes = tuple(duration.seconds / 60 for duration in lasting.values())
    yield Figure(
        name="times",
        title="Training time of each recipe on this machine (the paper: 4 hours to 9 minutes)",
        caption="Minutes of wall-clock on all cores, nothing beside. Extrapolated: seconds an "
        "update, over the updates that were timed, times all updates of the recipe.",
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
    """How many times faster each cause makes training, here and in the paper."""
    here = factors(found)
    if not here:
        return
    ratios = [here[cause] for cause in CAUSES]
    yield Figure(
        name="causes",
        title="What makes training faster, by cause (factors multiply to the whole)",
        caption="Here, from mnist_challenge's recipe in plain PyTorch to the preset fast with "
        "this library's engine, on all cores. Arithmetic: plain single precision, layer by layer, "
        "against this library's. Attack steps: κ = 40 against 8. Batch and updates: 100,000 of 50 "
        "images against 60,000 of 128. Schedule: those against the preset fast, whose 980 updates "
        "take shorter attacks, too. Asynchrony: on the cores of this machine, which synchronous "
        "training uses as well. The paper: its 26, of which it ascribes 5 to κ and the rest "
        "to asynchrony over 8 GPUs; 1 where it tells of no gain.",
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
