"""Attacker power: when are a few attack steps enough to train a robust network?

The paper's section 4, its Figures 3 and 4 and Table 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from sparring.attacks import Threat
from sparring.data.run_data import dataset_of
from sparring.evaluation import transfer
from sparring.models import trained_network
from sparring.records import (
    Axis,
    Claim,
    Curves,
    Figure,
    HeatMap,
    Panel,
    Provenance,
    Row,
    RunDirectory,
    Series,
    Table,
    sign_test,
)
from sparring.records.transfer import SIGNIFICANT
from sparring.studies.networks import (
    SnapshotUnderAttack,
    attacked,
    enough_attacked,
    hardly_watched,
    reached,
    weights_digest,
)
from sparring.studies.recipes import TimeTrial
from sparring.studies.study import (
    Measurement,
    Measurements,
    Runs,
    Scale,
    Standing,
    all_of,
    judged,
    network_label,
    per_cent,
    standing,
)
from sparring.training import TrainConfig

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
    """Accuracy of every network under attacks on each, a table for each number of steps."""
    cells = found.having("source")
    if not cells:
        return
    names = cells.names("target")
    images = int(cells.column("images")[0])
    tables = tuple(
        Table(title=f"κ = {steps}", cells=_table_of_shares(cells.where(steps=steps), names))
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
            row_names=tuple(map(network_label, names)),
            column_names=tuple(map(network_label, names)),
            value=Axis(label="right", unit="%"),
            tables=tables,
            outlined=True,
        ),
        provenance=provenance,
    )


def _table_of_shares(found: Measurements, names: tuple[str, ...]) -> tuple[tuple[float, ...], ...]:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferTable:
    """Every network on every network's adversarial examples of one number of steps."""

    runs: Mapping[str, RunDirectory]
    """The networks' runs, at least two."""
    steps: int
    """Gradient steps of the attack."""
    images: int
    """The first so many test images."""

    @property
    def name(self) -> str:
        """The networks, as far as they have come, and the attack."""
        networks = " ".join(f"{name}@{reached(run)}" for name, run in self.runs.items())
        return f"transfer of {self.steps} steps among {networks}, {self.images} test images"

    @property
    def subject(self) -> str:
        """The weights that the networks have come to."""
        return " ".join(map(weights_digest, self.runs.values()))

    def __call__(self) -> Sequence[Row]:
        """A row for each source and target: how many of the source's examples it gets right."""
        some = next(iter(self.runs.values()))
        test = dataset_of(some).test
        networks = {
            name: trained_network(run, version=reached(run)) for name, run in self.runs.items()
        }
        images, labels = test.batch(torch.arange(self.images))
        threat = some.section("threat", Threat)
        found = transfer(networks, images, labels, threat, steps=[self.steps])
        return [
            {
                "source": source,
                "target": target,
                "steps": self.steps,
                "images": self.images,
                "right": cell.right,
                "only_transferred": cell.only_transferred,
                "only_white_box": cell.only_white_box,
            }
            for source, row in zip(found.networks, found.cells[0], strict=True)
            for target, cell in zip(found.networks, row, strict=True)
        ]


LENGTHS = {"smoke": (1, 8), "short": (1, 2, 4, 8, 16, 32, 64, 128)}
"""κ of the networks; the scale paper has those of short."""
ATTACKERS = {"smoke": (1, 2), "short": (1, 4, 8, 128)}
"""κ of the attacks that judge them, the paper's."""
IMAGES = {"smoke": 16, "short": 256, "paper": 512}
"""Images for each snapshot along training."""
CONTEST = {"smoke": 16, "short": 1000, "paper": 1000}
"""Test images of the transfer matrix."""
TIMED = 20
"""Updates from which the cost of an update is measured; half of them are timed."""
WEAK, STRONG = (1, 4), (8, 128)
"""κ that the paper finds too weak, and strong enough."""
SAME = 0.05
"""Shares of a few hundred images that differ by less count as the same."""


@dataclass(frozen=True, slots=True)
class AttackerPower:
    """Networks trained against κ = 1 to 128, each judged by attacks of other lengths."""

    name: str = "attacker-power"
    title: str = "When are a few attack steps enough to train a robust network?"
    covers: str = "section 4, Figures 3 and 4, Table 1"

    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        """One for each κ."""
        return {f"k{k}": attacked(scale, k) for k in LENGTHS.get(scale, LENGTHS["short"])}

    def enough(self, scale: Scale) -> int | None:
        """All updates of the recipe."""
        return enough_attacked(scale)

    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        """Every snapshot under all attackers, on training and test images; transfer; cost."""
        attackers = ATTACKERS.get(scale, ATTACKERS["short"])
        looks = [
            SnapshotUnderAttack(
                network=name, run=run, version=version, steps=attackers, images=IMAGES[scale], of=of
            )
            for name, run in runs.items()
            for version in run.snapshots()
            for of in ("test", "training")
        ]
        contests = [TransferTable(runs=runs, steps=k, images=CONTEST[scale]) for k in attackers]
        recipes = self.networks(scale)
        costs = [
            TimeTrial(
                recipe=name,
                config=hardly_watched(recipes[name]),
                updates=min(TIMED, recipes[name].updates),
            )
            for name in runs
        ]
        # The longest first, so that none is left alone at the end.
        return [*reversed(contests if len(runs) > 1 else []), *looks, *costs]

    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        """What the paper says of weak attackers, of strong ones and of shattered gradients."""
        every = (*WEAK, *STRONG)
        return [
            judged(
                "Networks trained against κ = 1 and κ = 4 are robust only to the attack that they "
                "were trained on (Figures 3a and 3b).",
                " ".join(_withstood(found, k) for k in WEAK),
                standing=self._standing(scale, found, WEAK),
                holds=lambda: all(_only_to_its_own(found, k) for k in WEAK),
            ),
            judged(
                "Networks trained against κ = 8 and κ = 128 are robust to attacks of all lengths "
                "(Figures 3c and 3d).",
                " ".join(_withstood(found, k) for k in STRONG),
                standing=self._standing(scale, found, STRONG),
                holds=lambda: all(_robust(found, k) for k in STRONG),
            ),
            judged(
                "Networks of κ = 1 and κ = 4 withstand their own attack only on themselves: made "
                "on another network it breaks them, a sign of shattered gradients; those of κ = 8 "
                "and κ = 128 show no such sign (Table 1).",
                " ".join(_transferred(found, k) for k in every),
                standing=self._standing(scale, found, every),
                holds=lambda: all_of(_as_in_table(found, k) for k in every),
            ),
        ]

    def _standing(self, scale: Scale, found: Measurements, lengths: Sequence[int]) -> Standing:
        names = [f"k{k}" for k in lengths]
        return standing(self, scale, found, names)

    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        """Loss and accuracy along training, the transfer matrix, and cost against robustness."""
        return [*curves(found, provenance), *matrix(found, provenance), *balance(found, provenance)]


def _shares(found: Measurements, kappa: int) -> dict[int, float]:
    """Share of test images that are right under each attack, at the last snapshot."""
    looks = found.where(network=f"k{kappa}", of="test").sorted("version")
    return {
        int(steps): counted.share
        for steps, counted in zip(looks.column("steps"), looks.shares, strict=True)
    }


def _robust(found: Measurements, kappa: int) -> bool:
    """Whether the strongest attack leaves it half right, and as right as its own attack does."""
    shares = _shares(found, kappa)
    strongest = shares[max(shares)]
    return strongest > 0.5 and strongest > shares.get(kappa, strongest) - SAME


def _only_to_its_own(found: Measurements, kappa: int) -> bool:
    """Whether its own attack leaves it half right, and the strongest breaks much more."""
    shares = _shares(found, kappa)
    own, strongest = shares[kappa], shares[max(shares)]
    return own > 0.5 and strongest < own - SAME


def _withstood(found: Measurements, kappa: int) -> str:
    shares = _shares(found, kappa)
    if not shares:
        return f"κ = {kappa} has not been trained."
    each = ", ".join(f"{per_cent(share)} under κ = {k}" for k, share in shares.items())
    return f"κ = {kappa}: correct {each}."


def _duels(found: Measurements, kappa: int) -> tuple[Row, list[Row]] | None:
    """Under its own κ: the white-box attack, and those on the others; none if there is no other."""
    cells = found.where(target=f"k{kappa}", steps=kappa).rows
    own = [row for row in cells if row["source"] == row["target"]]
    others = [row for row in cells if row["source"] != row["target"]]
    return (own[-1], others) if own and others else None


def _as_in_table(found: Measurements, kappa: int) -> bool | None:
    """Whether an attack from elsewhere is the stronger one where the paper has it so, else not."""
    if (duels := _duels(found, kappa)) is None:
        return None
    chances = (
        sign_test(int(row["only_transferred"] or 0), int(row["only_white_box"] or 0))
        for row in duels[1]
    )
    return (min(chances) < SIGNIFICANT / len(duels[1])) == (kappa in WEAK)


def _transferred(found: Measurements, kappa: int) -> str:
    if (duels := _duels(found, kappa)) is None:
        return f"κ = {kappa} has not been compared."
    own, others = duels
    worst = min(others, key=lambda row: int(row["right"] or 0))
    (white,), (other,) = (Measurements(rows=[row]).shares for row in (own, worst))
    return (
        f"κ = {kappa}: {per_cent(white.share)} correct under its own attack, and "
        f"{per_cent(other.share)} under the same attack crafted on "
        f"{network_label(str(worst['source']))}."
    )
