"""Named sequences of attacks: without its suite a robust accuracy means nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sparring.attacks import APGD, FAB, PGD, Attack, Square, Threat
from sparring.errors import ConfigError
from sparring.records.text import did_you_mean, nearest
from sparring.records.typed import typed_record


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """Attacks in their order; each is run on the images that those before it left robust."""

    name: str
    """How results cite it."""
    summary: str
    """What it does, in one line."""
    attacks: tuple[Attack, ...]
    """The attacks; the threat is replaced by the one that is evaluated."""
    certifies: bool = False
    """Whether a lower bound of robust accuracy goes with it."""

    def against(self, threat: Threat) -> Mapping[str, Attack]:
        """The attacks on one threat by their names, in order."""
        aimed = (attack.against(threat) for attack in self.attacks)
        return {attack.name: attack for attack in aimed}

    def obstacle(self, image_shape: Sequence[int], num_classes: int) -> str | None:
        """Which attack cannot search such images, and why, in a clause; `None` if all can."""
        for attack in self.attacks:
            if why := attack.obstacle(image_shape, num_classes):
                return f"{attack.name} cannot: {why}"
        return None

    def check(self, image_shape: Sequence[int], num_classes: int) -> None:
        """Raise `ConfigError`, naming suites that can, if an attack cannot search such images."""
        why = self.obstacle(image_shape, num_classes)
        if why is None:
            return
        able = [s.name for s in SUITES.values() if s.obstacle(image_shape, num_classes) is None]
        advice = f", or take suite {' or '.join(able)}" if able else ""
        raise ConfigError(
            f"suite {self.name} cannot judge these images, because all its attacks must search "
            f"them; {why}{advice}."
        )


SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        suite.name: suite
        for suite in (
            Suite(
                name="pgd",
                summary="quick: 10 steps on the cross-entropy, then 10 on the margin",
                attacks=(PGD(steps=10), PGD(steps=10, loss="margin")),
            ),
            Suite(
                name="pgd-40",
                summary="40 steps on the cross-entropy",
                attacks=(PGD(steps=40),),
            ),
            Suite(
                name="pgd-100x5",
                summary="strong: 100 steps on the cross-entropy from each of 5 random starts",
                attacks=(PGD(steps=100, restarts=5),),
            ),
            Suite(
                name="standard",
                summary="for publication: APGD-CE, targeted APGD-DLR, targeted FAB, Square",
                attacks=(APGD(), APGD(loss="dlr", targets=9), FAB(), Square()),
                certifies=True,
            ),
        )
    }
)
"""Every suite by its name; `pgd` is the default."""


def named_suite(name: str) -> Suite:
    """The suite of this name. Raises `ConfigError`, with the nearest name, if there is none."""
    if name not in SUITES:
        advice = did_you_mean(nearest(name, SUITES)) or " Take one of those."
        raise ConfigError(
            f"suite must be one of {', '.join(SUITES)}, because robust accuracy means nothing "
            f"without its attacks; got {name}.{advice}"
        )
    return SUITES[name]
