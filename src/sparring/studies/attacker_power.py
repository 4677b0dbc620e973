"""Attacker power: when are a few attack steps enough to train a robust network?

The paper's section 4, its Figures 3 and 4 and Table 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from typing_extensions import override

from sparring.attacks import Threat
from sparring.data.run_data import dataset_of
from sparring.evaluation import transfer
from sparring.models import Initialisation, trained_network
from sparring.records import (
    Axis,
    Claim,
    Curves,
    Figure,
    HeatMap,
    Panel,
    Proportion,
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
    reached,
    varied,
    weights_digest,
    with_short_validation,
)
from sparring.studies.recipes import TimeTrial
from sparring.studies.study import (
    NETWORK,
    Measurement,
    Measurements,
    Runs,
    Scale,
    Study,
    all_of,
    judged,
    network_label,
    network_variant,
    per_cent,
    standing,
)
from sparring.training import TrainConfig

UPDATES = Axis(label="updates", unit="")
ACCURACY = Axis(label="correct under attack", unit="%")
SETS = {"test": "test images", "training": "training images"}


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
            alternative=f"Correct {words} against updates, one panel for each network.",
            drawing=Curves(
                x=UPDATES,
                y=ACCURACY,
                panels=tuple(_panel(these, name, "right") for name in these.names("network")),
            ),
            provenance=provenance,
        )


def _panel(found: Measurements, network: str, column: str) -> Panel:
    own = found.where(network=network)
    attackers = sorted({int(steps) for steps in own.column("steps")})
    lines = (_line(own.where(steps=steps).sorted("version"), steps, column) for steps in attackers)
    return Panel(title=f"trained against {network_label(network)}", series=tuple(lines))


def _line(found: Measurements, steps: int, column: str) -> Series:
    name, x = f"attacked with κ = {steps}", found.column("version")
    if column == "loss":
        return Series(name=name, x=x, y=found.column("loss"))
    return accuracy_series(name, x, found)


def accuracy_series(name: str, x: tuple[float, ...], found: Measurements) -> Series:
    """A line of the rows' accuracy, in per cent, with intervals."""
    return shares_series(name, x, found.shares)


def shares_series(name: str, x: tuple[float, ...], shares: Sequence[Proportion]) -> Series:
    """A line of proportions, in per cent, with intervals."""
    return Series(
        name=name,
        x=x,
        y=tuple(100 * share.share for share in shares),
        low=tuple(100 * share.interval.low for share in shares),
        high=tuple(100 * share.interval.high for share in shares),
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
        title="Adversarial examples of one network, classified by another (Table 1)",
        caption=f"Accuracy of the target on the first {images:,} test images, as adversarial "
        "examples of the source. Outlined: white-box. A target that is more accurate under its "
        "own attack than under another network's hides its gradients.",
        alternative="Heat maps of accuracy, targets in rows and sources in columns.",
        drawing=HeatMap(
            rows=Axis(label="target: classifies"),
            columns=Axis(label="source: is attacked"),
            row_names=tuple(map(network_label, names)),
            column_names=tuple(map(network_label, names)),
            value=Axis(label="correct", unit="%"),
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
    """Cost of a network's updates, and its final robust accuracy."""
    trials = found.where(of="time")
    strongest = max((int(steps) for steps in found.where(of="test").column("steps")), default=0)
    points = []
    for row in trials.rows:
        name = str(row["recipe"])
        looks = found.where(network=name, of="test", steps=strongest).sorted("version")
        if looks:
            cost = 1000 * float(row["spent"] or 0) / float(row["trained"] or 1)
            last = Measurements(rows=[looks.rows[-1]])
            points.append(accuracy_series(network_label(name), (cost,), last))
    if not points:
        return
    timed = int(trials.column("trained")[0])
    title = f"trained against κ steps, attacked with {strongest}"
    yield Figure(
        name="balance",
        title="Cost and effect of more attack steps",
        caption=f"A point for each network: milliseconds of an update with its attack, timed over "
        f"{timed} updates on one thread, and accuracy under {strongest} steps at its last "
        "snapshot with 95 % intervals.",
        alternative="Accuracy against the cost of an update, a point for each training attack.",
        drawing=Curves(
            x=Axis(label="an update", unit="ms", scale="log"),
            y=ACCURACY,
            panels=(Panel(title=title, series=tuple(points)),),
        ),
        provenance=provenance,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferTable(Measurement):
    """Accuracy of every network on every network's adversarial examples."""

    runs: Mapping[str, RunDirectory]
    """The networks' runs, at least two."""
    steps: int
    """Gradient steps of the attack."""
    images: int
    """Test images, the first ones."""

    @property
    @override
    def name(self) -> str:
        networks = " ".join(f"{name}@{reached(run)}" for name, run in self.runs.items())
        return f"transfer of {self.steps} steps among {networks}, {self.images} test images"

    @property
    @override
    def subject(self) -> str:
        return " ".join(map(weights_digest, self.runs.values()))

    @override
    def __call__(self) -> Sequence[Row]:
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
"""κ of the attacks in their evaluation, as in the paper."""
IMAGES = {"smoke": 16, "short": 256, "paper": 512}
"""Images for each snapshot."""
TRANSFERRED = {"smoke": 16, "short": 1000, "paper": 1000}
"""Test images of the transfer matrix."""
TIMED = 20
"""Updates from which the cost of an update is measured; half of them are timed."""
SECOND_SEEDS = {"paper": (4,)}
"""κ of the networks from other initial weights that have a second seed."""
WEAK, STRONG = (1, 4), (8, 128)
"""κ that the paper finds too weak, and those that it finds strong enough."""
SAME = 0.05
"""Accuracies on a few hundred images count as equal if they differ by less."""


@dataclass(frozen=True, slots=True)
class AttackerPower(Study):
    """Networks trained against κ = 1 to 128, each under attacks of other lengths."""

    name: str = "attacker-power"
    title: str = "When are a few attack steps enough to train a robust network?"
    covers: str = "section 4, Figures 3 and 4, Table 1"
    initialisation: Initialisation | None = None
    """Initial weights of the networks; `None` for those of the scale."""

    @override
    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        lengths = LENGTHS.get(scale, LENGTHS["short"])
        return {
            self._network(k, seed): varied(attacked(scale, k), self.initialisation, seed)
            for k in lengths
            for seed in self._seeds(scale, k)
        }

    def _network(self, kappa: int, seed: int) -> str:
        return network_variant(f"k{kappa}", self.initialisation, seed)

    def _seeds(self, scale: Scale, kappa: int) -> Sequence[int]:
        second = self.initialisation and kappa in SECOND_SEEDS.get(scale, ())
        return (0, 1) if second else (0,)

    @override
    def enough(self, scale: Scale, network: str) -> int | None:
        return enough_attacked(scale)

    @override
    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        attackers = ATTACKERS.get(scale, ATTACKERS["short"])
        looks = [
            SnapshotUnderAttack(
                network=name, run=run, version=version, steps=attackers, images=IMAGES[scale], of=of
            )
            for name, run in runs.items()
            for version in run.snapshots()
            for of in ("test", "training")
        ]
        tables = [TransferTable(runs=runs, steps=k, images=TRANSFERRED[scale]) for k in attackers]
        recipes = self.networks(scale)
        costs = [
            TimeTrial(
                recipe=name,
                config=with_short_validation(recipes[name]),
                updates=min(TIMED, recipes[name].updates),
            )
            for name in runs
        ]
        # The longest first, so that none runs alone at the end.
        return [*reversed(tables if len(runs) > 1 else []), *looks, *costs]

    @override
    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        weak, strong, every = (
            self._judged(scale, found, lengths) for lengths in (WEAK, STRONG, (*WEAK, *STRONG))
        )
        return [
            judged(
                "Networks trained against κ = 1 and κ = 4 are robust only to the attack that they "
                "were trained on (Figures 3a and 3b).",
                " ".join(_accuracies(found, name) for name in weak),
                standing=standing(self, scale, found, weak),
                holds=lambda: all(_only_to_own_attack(found, name) for name in weak),
            ),
            judged(
                "Networks trained against κ = 8 and κ = 128 are robust to attacks of all lengths "
                "(Figures 3c and 3d).",
                " ".join(_accuracies(found, name) for name in strong),
                standing=standing(self, scale, found, strong),
                holds=lambda: all(_robust(found, name) for name in strong),
            ),
            judged(
                "Networks of κ = 1 and κ = 4 survive their own attack, but not the same attack "
                "crafted on another network, a sign of shattered gradients. Those of κ = 8 and "
                "κ = 128 show no such sign (Table 1).",
                " ".join(_white_box_and_transfer(found, name) for name in every),
                standing=standing(self, scale, found, every),
                holds=lambda: all_of(_as_in_table_1(found, name) for name in every),
            ),
        ]

    def _judged(self, scale: Scale, found: Measurements, lengths: Sequence[int]) -> Sequence[str]:
        """The networks of these κ by which claims are judged; a second seed only if measured."""
        names = {self._network(k, seed): seed for k in lengths for seed in self._seeds(scale, k)}
        return [
            name
            for name, seed in names.items()
            if not seed or (_shares(found, name) and _attacks_on(found, name))
        ]

    @override
    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        return [*curves(found, provenance), *matrix(found, provenance), *balance(found, provenance)]


def _kappa(network: str) -> int:
    matched = NETWORK.fullmatch(network)
    return int(matched[2]) if matched else 0


def _shares(found: Measurements, network: str) -> dict[int, float]:
    """Accuracy on test images under each attack, at the last snapshot."""
    looks = found.where(network=network, of="test").sorted("version")
    return {
        int(steps): counted.share
        for steps, counted in zip(looks.column("steps"), looks.shares, strict=True)
    }


def _robust(found: Measurements, network: str) -> bool:
    """Whether over half survive the strongest attack, and no fewer than survive its own."""
    shares = _shares(found, network)
    strongest = shares[max(shares)]
    return strongest > 0.5 and strongest > shares.get(_kappa(network), strongest) - SAME


def _only_to_own_attack(found: Measurements, network: str) -> bool:
    """Whether over half survive its own attack, and fewer survive the strongest."""
    shares = _shares(found, network)
    own, strongest = shares[_kappa(network)], shares[max(shares)]
    return own > 0.5 and strongest < own - SAME


def _accuracies(found: Measurements, network: str) -> str:
    shares = _shares(found, network)
    if not shares:
        return f"{network_label(network)} has not been trained."
    each = ", ".join(f"{per_cent(share)} under κ = {k}" for k, share in shares.items())
    return f"{network_label(network)}: correct {each}."


def _attacks_on(found: Measurements, network: str) -> tuple[Row, list[Row]] | None:
    """Rows of its own κ: white-box and transferred attacks; `None` if either is missing."""
    cells = found.where(target=network, steps=_kappa(network)).rows
    own = [row for row in cells if row["source"] == row["target"]]
    others = [row for row in cells if row["source"] != row["target"]]
    return (own[-1], others) if own and others else None


def _as_in_table_1(found: Measurements, network: str) -> bool | None:
    """Whether a transferred attack is stronger exactly where it is so in the paper."""
    if (attacks := _attacks_on(found, network)) is None:
        return None
    chances = (
        sign_test(int(row["only_transferred"] or 0), int(row["only_white_box"] or 0))
        for row in attacks[1]
    )
    return (min(chances) < SIGNIFICANT / len(attacks[1])) == (_kappa(network) in WEAK)


def _white_box_and_transfer(found: Measurements, network: str) -> str:
    if (attacks := _attacks_on(found, network)) is None:
        return f"{network_label(network)} has not been compared."
    own, others = attacks
    worst = min(others, key=lambda row: int(row["right"] or 0))
    (white,), (other,) = (Measurements(rows=[row]).shares for row in (own, worst))
    return (
        f"{network_label(network)}: {per_cent(white.share)} correct under its own attack, and "
        f"{per_cent(other.share)} under the same attack crafted on "
        f"{network_label(str(worst['source']))}."
    )
