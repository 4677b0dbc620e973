"""Named sequences of attacks; a robust accuracy is meaningless without its suite."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import isfunction, signature
from types import MappingProxyType
from typing import Any

from sparring.attacks import APGD, FAB, PGD, Attack, OwnAttack, Square, Threat
from sparring.attacks.identity import same_threat
from sparring.attacks.plausible import threat_text
from sparring.attacks.threat import DEFAULT
from sparring.errors import ConfigError
from sparring.records.checks import choice
from sparring.records.custom import Custom
from sparring.records.own_code import imported
from sparring.records.typed import check_type, typed_record

AttackList = Sequence[Attack | Callable[..., object]]


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """Attacks in their order; each is run on the images that those before it left robust."""

    name: str
    """How results cite it."""
    summary: str
    """What it does, in one line."""
    attacks: tuple[Attack | Callable[..., object], ...]
    """The attacks. One made without a threat takes the threat that is evaluated; one with another
    threat is refused. A function `attack(model, images, labels)` becomes an `OwnAttack`."""
    certifies: bool = False
    """Whether a lower bound of robust accuracy goes with it."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` without attacks, or if two of them have one name."""
        if not self.attacks:
            raise ConfigError("a suite must have at least one attack.")
        name, times = Counter(one.name for one in self.against(DEFAULT)).most_common(1)[0]
        if times > 1:
            raise ConfigError.expected(
                "attacks of a suite must differ in name",
                f"{name} twice",
                "Leave one of them out; for more random starts pass restarts=2. A function of your "
                "own gets another name by OwnAttack(function, name=...).",
            )

    def against(self, threat: Threat) -> tuple[Attack, ...]:
        """The attacks on one threat, in order."""
        known = (one if isinstance(one, Attack) else OwnAttack(one) for one in self.attacks)
        return tuple(attack.against(threat) for attack in known)

    def obstacle(
        self, image_shape: Sequence[int], num_classes: int, threat: Threat = DEFAULT
    ) -> str | None:
        """Which attack cannot search such images, and why, in a clause; `None` if all can."""
        for attack in self.against(threat):
            if why := attack.obstacle(image_shape, num_classes):
                return f"{attack.name} cannot: {why}"
        return None

    def check(self, image_shape: Sequence[int], num_classes: int, threat: Threat) -> None:
        """Raise `ConfigError` if an attack has another threat, or cannot search such images."""
        for one in self.attacks:
            if not isinstance(one, Attack) or not _has_own_threat(one):
                continue
            if not same_threat(one.threat, threat):
                raise ConfigError.expected(
                    "attacks of a suite must have the threat that is evaluated, or none",
                    f"{threat_text(one.threat)} of {one.name} for an evaluation of "
                    f"{threat_text(threat)}",
                    "Leave the threat (or eps) of the attack out, or evaluate that threat.",
                )
        why = self.obstacle(image_shape, num_classes, threat)
        if why is None:
            return
        others = SUITES.values()
        able = [s.name for s in others if s.obstacle(image_shape, num_classes, threat) is None]
        advice = f" Take suite {' or '.join(able)}." if able else ""
        raise ConfigError(
            f"suite {self.name} cannot judge these images: {why.removesuffix('.')}.{advice}"
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


def _has_own_threat(attack: Attack) -> bool:
    """Whether an attack was made with a threat, and not with the default of its class."""
    known = getattr(type(attack), "__dataclass_fields__", {}).get("threat")
    return known is None or attack.threat is not known.default


ALIASES: Mapping[str, str] = MappingProxyType({"autoattack": "standard", "aa": "standard"})
"""Other names of suites; results cite the suite by its own."""


def named_suite(name: str) -> Suite:
    """The suite of this name, in any case, or alias. Raises `ConfigError` if there is none."""
    folded = name.casefold()
    found = ALIASES.get(folded, folded)
    if found not in SUITES:
        choice("suite", name, (*SUITES, *ALIASES))
    return SUITES[found]


def _needed(function: Callable[..., object]) -> list[str]:
    """The arguments that a call cannot leave out."""
    parameters = signature(function).parameters.values()
    return [one.name for one in parameters if one.default is one.empty]


def _imported(reference: str) -> Suite | Attack | AttackList:
    found: Any = imported(reference, "the suite")
    if isinstance(found, type) or (isfunction(found) and not _needed(found)):
        found = Custom(factory=reference).call()
    if callable(found) and not isinstance(found, Attack):
        return (found,)
    check_type(f"the suite {reference}", Suite | Attack | AttackList, found)
    return found


def suite_of(given: str | Suite | Attack | AttackList | Callable[..., object]) -> Suite:
    """The suite of a name or of file.py:name, itself, or one of this or these attacks.

    In a file, the name is that of a suite, an attack, a list of attacks, or a function without
    arguments that makes one of these. Raises `ConfigError` for another suite with a name of
    `SUITES`.
    """
    if isinstance(given, str):
        return suite_of(_imported(given)) if ":" in given else named_suite(given)
    if isinstance(given, Suite):
        if given != SUITES.get(given.name, given):
            raise ConfigError.expected(
                "a suite of your own must not have the name of another", given.name, "Rename it."
            )
        return given
    attacks = tuple(given) if isinstance(given, Sequence) else (given,)
    unnamed = Suite(name="own", summary="attacks of your own choice", attacks=attacks)
    return replace(unnamed, name=" + ".join(one.name for one in unnamed.against(DEFAULT)))
