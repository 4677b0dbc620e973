"""The part of an evaluation that comes before its attacks: images that bounds prove robust.

A proved image needs no attack. The proof holds for the network that the trace shows, so some of the
proved images are attacked nevertheless, briefly: one that breaks withdraws the certificate, in all
threats that are evaluated together.

Shapes: N images of the set.  Units: seconds are wall-clock.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sparring.attacks import PGD, Threat
from sparring.errors import ConfigError, cause
from sparring.evaluation.certificates import certificate
from sparring.evaluation.model_under_test import ModelUnderTest, starts
from sparring.records.text import counted, few
from sparring.seeds import derive_seed

SAMPLE = 64
"""Most proved images that are attacked."""
STEPS = 10
"""Steps of that attack."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Proof:
    """What bounds prove of the images of an evaluation."""

    held: Bool[Tensor, " N"] | None = None
    """Where an image is proved robust; `None` without a certificate."""
    unfinished: Bool[Tensor, " N"] | None = None
    """Where the budget ended before an image was bounded in full; `None` without a certificate."""
    why: str | None = None
    """Why there is none."""
    seconds: float = 0.0
    """Time it took."""

    def caveat(self, robust: Bool[Tensor, " N"]) -> str | None:
        """A sentence on the images that are `robust` so far, and unfinished; `None` without any."""
        if self.unfinished is None or not bool((self.unfinished & robust).any()):
            return None
        places = (self.unfinished & robust).nonzero().flatten().tolist()
        return (
            f"the budget of the proofs ended before {counted(len(places), 'image')} that no attack "
            f"broke could be bounded in full, counted from 0: {few(list(map(str, places)))}; some "
            "may be provable"
        )

    def checked(
        self, robust: Bool[Tensor, " N"], broken_by: Callable[[int], str | None]
    ) -> "Proof":
        """This proof, or its withdrawal if a proved image is not `robust`."""
        if self.held is None or not bool((self.held & ~robust).any()):
            return self
        broken = (self.held & ~robust).nonzero().flatten()
        first = int(broken[0])
        why = (
            f"no certificate: bounds would certify {int(self.held.sum())} of {len(robust)} images, "
            f"but {len(broken)} of these are misclassified, first image {first} (counted from 0, "
            f"by {broken_by(first) or 'the clean image itself'}). The network computes something "
            "that its trace does not show, so the certificate is withdrawn; the attacks' results "
            "stand, and may be too weak"
        )
        return Proof(why=why, seconds=self.seconds)


@dataclass(kw_only=True, slots=True, eq=False)
class Prover:
    """Proves images robust in one or more threats of one kind, the largest first.

    An image that is proved in one threat counts as proved in the smaller ones.
    """

    tested: ModelUnderTest
    images: Tensor
    """Clean images [N, *S]."""
    threats: Sequence[Threat]
    seed: int
    """Of the attack on some of the proved images."""
    _found: dict[int, Proof] = field(default_factory=dict)

    def proof(self, threat: Threat) -> Proof:
        """What is proved in this threat, one of `threats`; nothing if one has no certificate.

        Cost, once for all threats: that of `certificate` over the images that are right when clean
        and not proved in a larger threat; `STEPS` passes over `SAMPLE` images for each.
        """
        if not self._found:
            known: Tensor | None = None
            for number, each in sorted(enumerate(self.threats), key=lambda one: -one[1].eps):
                found = self._found[number] = self._proof(each, known)
                known = found.held
                if known is None:
                    self._found = dict.fromkeys(range(len(self.threats)), found)
                    break
        (number,) = (place for place, each in enumerate(self.threats) if each is threat)
        return self._found[number]

    def _proof(self, threat: Threat, known: Tensor | None) -> Proof:
        begun = time.perf_counter()
        judge = self.tested.judge
        model, labels = judge.model, judge.labels
        if not isinstance(model, nn.Module):
            return Proof(why="no certificate: it needs a torch.nn.Module")
        right = self.tested.logits.argmax(1) == labels
        held = torch.zeros(len(labels), dtype=torch.bool) if known is None else known.clone()
        unfinished = torch.zeros_like(held)
        places = (right & ~held).nonzero().flatten()
        try:
            if len(places):
                some = (self.images[places], labels[places], threat)
                found = certificate(model, *some, batch_size=self.tested.batch_size)
                held[places], unfinished[places] = found.proved, found.unfinished
        except ConfigError as error:
            return Proof(why=f"no certificate: {error}")
        except Exception as error:  # from a user's network, or for lack of memory
            return Proof(why=f"no certificate: it could not be computed ({cause(error)})")
        attack = PGD(threat=threat, steps=STEPS, loss="margin")
        proof = Proof(held=held, unfinished=unfinished).checked(
            self._survives(held, attack), lambda _: attack.name
        )
        return replace(proof, seconds=time.perf_counter() - begun)

    def _survives(self, held: Tensor, attack: PGD) -> Bool[Tensor, " N"]:
        """Whether images survive this attack, of which some of the proved ones are tried."""
        survives = torch.ones_like(held)
        places = held.nonzero().flatten()
        if not len(places):
            return survives
        count = min(SAMPLE, len(places))
        places = places[torch.linspace(0, len(places) - 1, count).round().long()]
        clean, labels = self.images[places], self.tested.judge.labels[places]
        begin = starts(attack, clean, derive_seed(self.seed, "proofs"))
        points = self.tested.examples(attack, begin, clean, labels)
        judge = replace(self.tested.judge, threat=attack.threat)
        inside = judge.allowed(points, clean.to(points.device)).cpu()
        survives[places] = (judge.predictions(points) == labels) | ~inside
        return survives
