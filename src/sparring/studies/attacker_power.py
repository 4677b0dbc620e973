"""Attacker power: when are a few attack steps enough to train a robust network?

The paper's section 4, its Figures 3 and 4 and Table 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparring.records import Claim, Figure, Provenance
from sparring.studies.attacker_figures import balance, curves, matrix
from sparring.studies.networks import attacked, hardly_watched
from sparring.studies.recipes import TimeTrial
from sparring.studies.snapshots import SnapshotUnderAttack
from sparring.studies.study import Measurement, Measurements, Runs, Scale
from sparring.studies.transfer_table import TransferTable
from sparring.studies.verdicts import all_of, per_cent
from sparring.training import TrainConfig

LENGTHS = {"smoke": (1, 8), "short": (1, 2, 4, 8, 16, 32, 64, 128)}
"""κ of the networks; the scale paper has those of short."""
ATTACKERS = {"smoke": (1, 2), "short": (1, 4, 8, 128)}
"""κ of the attacks that judge them, the paper's."""
IMAGES = {"smoke": 16, "short": 256, "paper": 512}
"""Images of a look along training."""
CONTEST = {"smoke": 16, "short": 1000, "paper": 1000}
"""Test images of the transfer matrix."""
TIMED = 20
"""Updates from which a network's cost is told; half of them are timed."""
WEAK, STRONG = (1, 4), (8, 128)
"""κ that the paper finds too weak, and strong enough."""
SAME = 0.05
"""Shares that differ by less count as the same: those of a few hundred images."""


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
        """All updates."""
        return None

    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        """Every snapshot under all attackers, on images trained on and not; who breaks whom."""
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
        tells = scale != "smoke"
        return [
            Claim(
                paper="Networks trained against κ = 1 and κ = 4 are robust only to the attack that "
                "they were trained on (Figures 3a and 3b).",
                found=" ".join(_withstood(found, k) for k in WEAK),
                holds=all_of(not _robust(found, k) for k in _trained(found, WEAK))
                if tells
                else None,
            ),
            Claim(
                paper="Networks trained against κ = 8 and κ = 128 are robust to attacks of all "
                "lengths (Figures 3c and 3d).",
                found=" ".join(_withstood(found, k) for k in STRONG),
                holds=all_of(_robust(found, k) for k in _trained(found, STRONG)) if tells else None,
            ),
            Claim(
                paper="Networks of κ = 1 and κ = 4 withstand their own attack only on themselves: "
                "made on another network it breaks them, a sign of shattered gradients; those of "
                "κ = 8 and κ = 128 show no such sign (Table 1).",
                found=" ".join(_transferred(found, k) for k in (*WEAK, *STRONG)),
                holds=all_of(
                    _shattered(found, k) == (k in WEAK) for k in _trained(found, (*WEAK, *STRONG))
                )
                if tells
                else None,
            ),
        ]

    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        """Loss and accuracy along training, the transfer matrix, and cost against robustness."""
        return [*curves(found, provenance), *matrix(found, provenance), *balance(found, provenance)]


def _trained(found: Measurements, lengths: Sequence[int]) -> list[int]:
    """Which of these networks there are."""
    return [k for k in lengths if found.where(network=f"k{k}", of="test")]


def _shares(found: Measurements, kappa: int) -> dict[int, float]:
    """Share of test images that the network gets right under each attack, at its last look."""
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


def _withstood(found: Measurements, kappa: int) -> str:
    shares = _shares(found, kappa)
    if not shares:
        return f"κ = {kappa} has not been trained."
    each = ", ".join(f"{per_cent(share)} under κ = {k}" for k, share in shares.items())
    return f"κ = {kappa}: right are {each}."


def _worst_source(found: Measurements, kappa: int) -> tuple[float, float, str] | None:
    """Accuracy under its own κ: white-box, and as least of the others' examples, and whose."""
    cells = found.where(target=f"k{kappa}", steps=kappa)
    shares = {
        str(row["source"]): counted.share
        for row, counted in zip(cells.rows, cells.shares, strict=True)
    }
    own = shares.pop(f"k{kappa}", None)
    if own is None or not shares:
        return None
    source = min(shares, key=shares.__getitem__)
    return own, shares[source], source


def _shattered(found: Measurements, kappa: int) -> bool | None:
    """Whether an attack from elsewhere is the stronger one, by more than noise."""
    worst = _worst_source(found, kappa)
    return None if worst is None else worst[1] < worst[0] - SAME


def _transferred(found: Measurements, kappa: int) -> str:
    worst = _worst_source(found, kappa)
    if worst is None:
        return f"κ = {kappa} has not been compared."
    own, other, source = worst
    return (
        f"κ = {kappa}: right are {per_cent(own)} under its own attack, and {per_cent(other)} under "
        f"the same from {source}."
    )
