"""What there is to see of attacker power: the paper's Figures 3 and 4, Table 1, and the balance."""

from collections.abc import Iterator

from sparring.records import (
    Axis,
    Curves,
    Figure,
    HeatMap,
    Panel,
    Provenance,
    Series,
    Table,
)
from sparring.studies.study import Measurements

UPDATES = Axis(label="updates", unit="")
ACCURACY = Axis(label="right under attack", unit="%")
SETS = {"test": "test images", "training": "images trained on"}


def curves(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """Loss on test images, and accuracy on both sets, along training."""
    looks = found.where(of="test")
    if not looks:
        return
    images = int(looks.column("images")[0])
    shared = f"PGD of κ steps of 2.5 ε / κ from a random start; first {images} images."
    yield Figure(
        name="loss",
        title="Loss under attacks of different lengths, along training (Figure 3)",
        caption=f"A panel for each network, a line for each attacker. Test images. {shared}",
        alternative="Cross-entropy against updates, one panel for each network.",
        drawing=Curves(
            x=UPDATES,
            y=Axis(label="cross-entropy"),
            panels=tuple(_panel(looks, name, "loss") for name in looks.names("network")),
        ),
        provenance=provenance,
    )
    for of, words in SETS.items():
        these = found.where(of=of)
        yield Figure(
            name=f"accuracy-{of}",
            title=f"Accuracy under attacks of different lengths, {words} (Figure 4)",
            caption=f"A panel for each network, a line for each attacker. {shared} Bands: 95 % "
            "intervals for the choice of images.",
            alternative=f"Share of {words} right against updates, one panel for each network.",
            drawing=Curves(
                x=UPDATES,
                y=ACCURACY,
                panels=tuple(_panel(these, name, "right") for name in these.names("network")),
            ),
            provenance=provenance,
        )


def _panel(found: Measurements, network: str, column: str) -> Panel:
    """One network: a line for each attacker."""
    own = found.where(network=network)
    attackers = sorted({int(steps) for steps in own.column("steps")})
    lines = (_line(own.where(steps=steps).sorted("version"), steps, column) for steps in attackers)
    return Panel(title=f"trained against κ = {network[1:]}", series=tuple(lines))


def _line(found: Measurements, steps: int, column: str) -> Series:
    name, x = f"attacked with κ = {steps}", found.column("version")
    if column == "loss":
        return Series(name=name, x=x, y=found.column("loss"))
    return accuracy_series(name, x, found)


def accuracy_series(name: str, x: tuple[float, ...], found: Measurements) -> Series:
    """A line of the rows' share of right images, in per cent, with intervals."""
    return Series(
        name=name,
        x=x,
        y=tuple(100 * share.share for share in found.shares),
        low=tuple(100 * share.interval.low for share in found.shares),
        high=tuple(100 * share.interval.high for share in found.shares),
    )


def matrix(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """Who breaks whom, a table for each number of steps."""
    cells = found.having("source")
    if not cells:
        return
    names = cells.names("target")
    images = int(cells.column("images")[0])
    tables = tuple(
        Table(title=f"κ = {steps}", cells=_shares(cells.where(steps=steps), names))
        for steps in sorted({int(steps) for steps in cells.column("steps")})
    )
    yield Figure(
        name="transfer",
        title="Adversarial examples of one network judged by another (Table 1)",
        caption=f"Per cent of the first {images:,} test images that the target gets right as "
        "adversarial examples of the source; outlined: white-box. A target that does better "
        "against itself than against others hides its gradients.",
        alternative="Heat maps of accuracy, targets in rows and sources in columns.",
        drawing=HeatMap(
            rows=Axis(label="target: judged"),
            columns=Axis(label="source: attacked"),
            row_names=names,
            column_names=names,
            value=Axis(label="right", unit="%"),
            tables=tables,
            outlined=True,
        ),
        provenance=provenance,
    )


def _shares(found: Measurements, names: tuple[str, ...]) -> tuple[tuple[float, ...], ...]:
    share = {
        (row["target"], row["source"]): 100 * counted.share
        for row, counted in zip(found.rows, found.shares, strict=True)
    }
    return tuple(tuple(share[target, source] for source in names) for target in names)


def balance(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """What a network's updates cost, and what it withstands at the end."""
    trials = found.where(of="time")
    strongest = max((int(steps) for steps in found.where(of="test").column("steps")), default=0)
    points = []
    for row in trials.rows:
        name = str(row["recipe"])
        looks = found.where(network=name, of="test", steps=strongest).sorted("version")
        if looks:
            cost = 1000 * float(row["spent"] or 0) / float(row["trained"] or 1)
            last = Measurements(rows=[looks.rows[-1]])
            points.append(accuracy_series(f"κ = {name[1:]}", (cost,), last))
    if not points:
        return
    timed = int(trials.column("trained")[0])
    title = f"trained against κ steps, attacked with {strongest}"
    yield Figure(
        name="balance",
        title="What more attack steps cost, and what they bring",
        caption=f"Each point a network: milliseconds of an update with its attack, timed over "
        f"{timed} updates, one thread, nothing beside; accuracy under {strongest} steps at its "
        "last snapshot, 95 % intervals.",
        alternative="Accuracy against the cost of an update, a point for each training attack.",
        drawing=Curves(
            x=Axis(label="an update", unit="ms", scale="log"),
            y=ACCURACY,
            panels=(Panel(title=title, series=tuple(points)),),
        ),
        provenance=provenance,
    )
