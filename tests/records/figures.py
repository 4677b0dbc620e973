"""Figures and a study for tests: one of each drawing, with numbers that are told apart."""

from base64 import b64encode
from collections.abc import Sequence

from sparring.records import (
    Axis,
    Claim,
    Curves,
    Environment,
    Figure,
    Film,
    Group,
    HeatMap,
    Lengths,
    Panel,
    Provenance,
    Relief,
    Series,
    Strip,
    StudyResult,
    Table,
    Trained,
)
from sparring.records.figure import Drawing

ENVIRONMENT = Environment(
    sparring="0.1.0",
    python="3.11.9",
    torch="2.13.0",
    numpy="2.4.6",
    platform="Linux 6.1 x86_64",
    processor="A processor",
    cores=4,
    memory_bytes=2**34,
    threads=2,
    device="cpu",
    precision="fp32 direct",
    commit=None,
)
PROVENANCE = Provenance(
    command="sparring study run staleness --scale smoke", seeds=(3, 14), environment=ENVIRONMENT
)

CURVES = Curves(
    x=Axis(label="staleness", unit="updates", scale="even"),
    y=Axis(label="accuracy", unit="%"),
    panels=(
        Panel(
            title="one step",
            series=(
                Series(
                    name="fresh",
                    x=(0.0, 1.0, 64.0),
                    y=(91.5, 88.25, 3.125),
                    low=(90.5, 87.0, 2.5),
                    high=(92.5, 89.0, 4.75),
                ),
                Series(name="stale", x=(0.0, 64.0), y=(93.75, 85.375)),
            ),
        ),
        Panel(title="eight steps", series=(Series(name="stale", x=(1.0,), y=(77.625,)),)),
    ),
)
HEAT_MAP = HeatMap(
    rows=Axis(label="judged"),
    columns=Axis(label="attacked"),
    row_names=("a", "b"),
    column_names=("a", "b"),
    value=Axis(label="right", unit="%"),
    tables=(Table(title="4 steps", cells=((12.5, 98.75), (61.25, 0.375))),),
    outlined=True,
)
RELIEF = Relief(
    x=Axis(label="gradient"),
    y=Axis(label="random"),
    height=Axis(label="loss"),
    at_x=(-0.25, 0.0, 0.75),
    at_y=(-1.5, 2.5),
    tables=(Table(title="k1", cells=((0.125, 1.625, 2.875), (3.375, 4.0625, 5.1875))),),
)
LENGTHS = Lengths(
    names=("slow", "fast"),
    label="recipe",
    value=Axis(label="time", unit="min", scale="log"),
    groups=(
        Group(name="here", numbers=(750.25, 0.875)),
        Group(name="there", numbers=(240.5, 9.5)),
    ),
)
STRIP = Strip(
    height=2,
    width=3,
    films=tuple(
        Film(
            title=title,
            frames=tuple(
                b64encode(bytes([20 * number + 40] * 6)).decode() for number in range(count)
            ),
            captions=tuple(f"{title} frame {number}" for number in range(count)),
        )
        for title, count in (("filters", 10), ("images", 3))
    ),
)
DRAWINGS = (CURVES, HEAT_MAP, RELIEF, STRIP, LENGTHS)


def figure_of(drawing: Drawing, name: str = "figure") -> Figure:
    """A figure with this drawing."""
    return Figure(
        name=name,
        title=f"Title of {name}",
        caption=f"Caption of {name}",
        alternative=f"What is seen in {name}",
        drawing=drawing,
        provenance=PROVENANCE,
    )


def study_of(drawings: Sequence[Drawing] = DRAWINGS, title: str = "How stale?") -> StudyResult:
    """A study with these drawings, and a claim of each kind."""
    return StudyResult(
        study="staleness",
        title=title,
        scale="smoke",
        claims=(
            Claim(paper="It costs little (page 5).", found="It costs 1.5 points.", holds=True),
            Claim(paper="It collapses late.", found="It collapses at 8.", holds=False),
            Claim(paper="Long runs recover.", found="Too short to say.", holds=None),
        ),
        figures=tuple(
            figure_of(drawing, f"{type(drawing).__name__}-{number}")
            for number, drawing in enumerate(drawings)
        ),
        networks=(Trained(name="fresh", updates=30, planned=120, seed=3),),
        provenance=PROVENANCE,
        seconds=61.5,
    )
