"""Attacker power: when are a few attack steps enough to train a robust network?

The paper's section 4, its Figures 3 and 4 and Table 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparring.records import Claim, Figure, Provenance, Row, sign_test
from sparring.records.transfer import SIGNIFICANT
from sparring.studies.attacker_figures import balance, curves, matrix
from sparring.studies.networks import attacked, enough_attacked, hardly_watched
from sparring.studies.recipes import TimeTrial
from sparring.studies.snapshots import SnapshotUnderAttack
from sparring.studies.study import Measurement, Measurements, Runs, Scale
from sparring.studies.transfer_table import TransferTable
from sparring.studies.verdicts import Standing, all_of, judged, per_cent, standing
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
        f"{per_cent(other.share)} under the same attack crafted on {worst['source']}."
    )
