"""Checks for gradient masking: whether attacks fail because gradients mislead them.

They use some of the images that the model classifies correctly when clean.

Shapes: B images of the subset, K classes, S one image (C H W).  Units: pixels in [0, 1].
Source: the signs are those of Athalye, Carlini & Wagner 2018, "Obfuscated Gradients Give a False
Sense of Security", and of Carlini et al. 2019, "On Evaluating Adversarial Robustness"; one step
against many is that of Wong, Rice & Kolter 2020.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparring.attacks import PGD, Attack, Square, checked, cross_entropy, fgsm, margin
from sparring.attacks.checks import differentiated
from sparring.attacks.search import FORWARD, no_trace
from sparring.evaluation.model_under_test import ModelUnderTest, Subset, outputs, starts
from sparring.records import Finding, Reading, sign_test
from sparring.records.text import counted
from sparring.seeds import derive_seed

STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Numbers of steps to compare."""
UNLIKELY = 0.001
"""The p-value below which a difference is significant; 28 pairs are compared."""
SHARE = 0.05
"""The share of images above which a check is flagged."""
HALF = 0.5
"""Catastrophic overfitting: more than this share survive one step, less of them many steps."""
RANDOM = 64
"""Uniform points of the threat to try."""
QUERIES = 256
"""Queries of Square, a twentieth of the published attack."""
VANISHING = 1e-20
"""A gradient counts as zero if its largest component is at most this, near float32's limit."""


MISLED, FEWEST = 0.01, 5
"""Share and number of images that attacks without gradients must break to say that those before
were misled. Of networks of the preset `fast` they break 0.2 to 0.5 %."""


GONE = "share of images without a gradient of the {}"
"""A reading of each loss."""
ODD = "share of images with NaN or infinity in the gradient of the {}"
"""A reading of each loss, where there are such images."""


def gradients(subset: Subset) -> Iterator[Finding]:
    """Gradients that are zero or not finite, at clean images and at one random point around each.

    Cost: four forward and backward passes.
    """
    images, labels = _on_device(subset)
    threat = subset.tested.judge.threat
    generator = torch.Generator().manual_seed(derive_seed(subset.seed, "gradients"))
    around = threat.uniform(images, generator)
    gone, broken = {}, {}
    with no_trace(subset.tested.judge.model):
        logits_of = checked(subset.tested.attacked, subset.labels)
        for name, loss in (("cross-entropy", cross_entropy), ("margin", margin)):
            of = lambda logits, loss=loss: loss(logits, labels)  # noqa: E731
            there, near = (differentiated(logits_of, x, of)[2].flatten(1) for x in (images, around))
            vanishes = there.nan_to_num(nan=0, posinf=0, neginf=0).abs().amax(1) <= VANISHING
            gone[name] = float(vanishes.float().mean())
            odd = ~(there.isfinite() & near.isfinite()).all(1)
            broken[name] = float(odd.float().mean())
    subset.observer(4)
    yield Finding(
        check="vanishing gradients",
        flagged=max(gone.values()) > SHARE or max(broken.values()) > 0,
        sentence=_about_gradients(gone, broken),
        evidence=(
            *_each(gone, GONE),
            *(_each(broken, ODD) if max(broken.values()) else ()),
        ),
    )


def _about_gradients(gone: Mapping[str, float], broken: Mapping[str, float]) -> str:
    (zero, odd) = (max(shares, key=lambda name: shares[name]) for shares in (gone, broken))
    said = []
    if broken[odd] > 0:
        said.append(
            f"the gradient of the {odd} has NaN or infinity in {broken[odd]:.1%} of the images: "
            "attacks do not change those pixels, so accuracy may be overstated"
        )
    if gone[zero] > SHARE:
        said.append(
            f"the gradient of the {zero} is zero at {gone[zero]:.0%} of the images: attacks do "
            "not move there"
        )
    return "; ".join(said) or "gradients do not vanish"


def _each(shares: Mapping[str, float], what: str) -> Iterator[Reading]:
    return (Reading(what=what.format(name), value=share) for name, share in shares.items())


def steps(subset: Subset) -> Iterator[Finding]:
    """Images broken by PGD with 1 to 128 steps, and those broken only by Square or at random.

    Cost: 256 forward and backward passes, and 330 forward passes.
    """
    threat = subset.tested.judge.threat
    tried = {count: _tried(subset, PGD(threat=threat, steps=count)) for count in STEPS}
    right = {count: one.right for count, one in tried.items()}
    yield _monotone(right)
    single = _tried(subset, fgsm(threat))
    yield _one_against_many(right, single.right)
    yield _converged(right)
    yield _blind(subset, _together([*tried.values(), single]))


def large(subset: Subset) -> Iterator[Finding]:
    """Whether images survive an unlimited threat. Cost: 64 forward and backward passes."""
    threat = subset.tested.judge.threat.unlimited(subset.images)
    if threat is None:
        return
    points = _examples(subset, PGD(threat=threat, steps=64))
    right = subset.tested.judge.predictions(points) == subset.labels
    left = float(right.float().mean())
    flagged = left > SHARE
    yield Finding(
        check="unlimited threat",
        flagged=flagged,
        sentence=(
            f"{left:.0%} of the images survive 64 steps of PGD with ε = {threat.eps:g}, within "
            "which every image lies: gradients mislead the attack"
            if flagged
            else "with an unlimited ε the attack succeeds"
        ),
        evidence=(Reading(what=f"accuracy at ε = {threat.eps:g}", value=left),),
    )


def _on_device(subset: Subset) -> tuple[Tensor, Tensor]:
    device = subset.tested.judge.device
    return subset.images.to(device), subset.labels.to(device)


class _Tried(NamedTuple):
    """Where attacks led."""

    right: Bool[Tensor, " B"]
    """The images that they left."""
    margins: Float[Tensor, " B"]
    """The largest logit of another class minus that of the label, at the worst of their ends."""


def _judged(subset: Subset, points: Tensor) -> _Tried:
    logits = subset.tested.logits_at(points, subset.images)
    return _Tried(logits.argmax(1) == subset.labels, margin(logits, subset.labels))


def _together(tried: Sequence[_Tried]) -> _Tried:
    return _Tried(
        torch.stack([one.right for one in tried]).all(0),
        torch.stack([one.margins for one in tried]).amax(0),
    )


def _tried(subset: Subset, attack: PGD) -> _Tried:
    return _judged(subset, _examples(subset, attack))


def _examples(subset: Subset, attack: PGD) -> Tensor:
    start = starts(attack, subset.images, subset.seed)
    found = subset.tested.examples(attack, start, subset.images, subset.labels)
    subset.observer(attack.steps)
    return found


def _monotone(right: Mapping[int, Tensor]) -> Finding:
    found = []
    for weak, strong in combinations(right, 2):
        only_weak = int((~right[weak] & right[strong]).sum())
        only_strong = int((right[weak] & ~right[strong]).sum())
        found.append((sign_test(only_weak, only_strong), weak, strong, only_weak, only_strong))
    chance, weak, strong, only_weak, only_strong = min(found)
    flagged = chance < UNLIKELY
    return Finding(
        check="weaker attack stronger",
        flagged=flagged,
        sentence=(
            f"PGD with {weak} steps breaks {only_weak} images that {strong} steps do not, and "
            f"{strong} steps only {only_strong} that {weak} do not: the loss surface misleads long "
            "attacks"
            if flagged
            else "more steps of PGD never break significantly fewer images"
        ),
        evidence=tuple(_accuracy(f"{count} steps", of) for count, of in right.items()),
    )


def _one_against_many(right: Mapping[int, Tensor], single: Tensor) -> Finding:
    few, many = min(right), max(right)
    one = max((right[few], single), key=lambda of: int(of.sum()))
    weak, strong = float(one.float().mean()), float((one & right[many]).float().mean())
    lost, won = int((one & ~right[many]).sum()), int((~one & right[many]).sum())
    misled = weak > HALF and strong < HALF * weak
    flagged = misled and sign_test(lost, won) < UNLIKELY
    return Finding(
        check="one step against many",
        flagged=flagged,
        sentence=(
            f"{weak:.0%} of the images survive a single step, {strong:.0%} also {many} steps: "
            "the network misleads single-step attacks (catastrophic overfitting)"
            if flagged
            else f"{weak:.0%} of the images survive a single step, {strong:.0%} also {many} steps, "
            "but they are too few to conclude anything"
            if misled
            else f"many images that survive one step also survive {many} steps"
            if weak > HALF
            else "even a single step breaks most images"
        ),
        evidence=(
            _accuracy("one step", right[few]),
            _accuracy("FGSM", single),
            _accuracy(f"{many} steps", right[many]),
        ),
    )


def _converged(right: Mapping[int, Tensor]) -> Finding:
    *_, half, whole = sorted(right)
    before, after = (float(right[count].float().mean()) for count in (half, whole))
    more = int((right[half] & ~right[whole]).sum())
    fewer = int((~right[half] & right[whole]).sum())
    flagged = before - after > SHARE and sign_test(more, fewer) < UNLIKELY
    return Finding(
        check="attack not converged",
        flagged=flagged,
        sentence=(
            f"from {half} to {whole} steps of PGD accuracy still falls from {before:.0%} to "
            f"{after:.0%}: a longer attack will break more"
            if flagged
            else f"from {half} to {whole} steps of PGD accuracy hardly changes"
        ),
        evidence=(
            _accuracy(f"{half} steps", right[half]),
            _accuracy(f"{whole} steps", right[whole]),
        ),
    )


def _blind(subset: Subset, gradient: _Tried) -> Finding:
    """Square and random points, which use no gradient, against all of PGD together.

    They are a twentieth of a search, so that gradients that do not mislead come closer to the
    boundary of nearly every image, whether or not it breaks.
    """
    tested, (images, labels) = subset.tested, _on_device(subset)
    threat = tested.judge.threat
    generator = torch.Generator().manual_seed(derive_seed(subset.seed, "search without gradients"))
    chance = _together([_judged(subset, threat.uniform(images, generator)) for _ in range(RANDOM)])
    found, named, blind = [chance], [], f"{RANDOM} random points"
    attack = Square(threat, queries=QUERIES)
    if attack.obstacle(images.shape[1:], tested.logits.shape[1]) is None:
        square = _judged(subset, attack(tested.attacked, images, labels, generator=generator))
        found, blind = [chance, square], f"{QUERIES} queries of Square or {blind}"
        named = [_accuracy(f"Square with {QUERIES} queries", square.right)]
    subset.observer((QUERIES + RANDOM) / 3)
    without = _together(found)
    only, nearer = gradient.right & ~without.right, without.margins > gradient.margins
    share, closer = float(only.float().mean()), float(nearer.float().mean())
    breaks = share > SHARE and int(only.sum()) >= FEWEST
    comes = closer > HALF and sign_test(int(nearer.sum()), int((~nearer).sum())) < UNLIKELY
    return Finding(
        check="blind search beats gradients",
        flagged=breaks or comes,
        sentence=(
            f"{share:.0%} of the images are broken by {blind}, but not by PGD: gradients mislead it"
            if breaks
            else f"{blind} come nearer to breaking {closer:.0%} of the images than all of PGD: "
            "gradients mislead it"
            if comes
            else f"{blind} break {counted(int(only.sum()), 'image')} that PGD does not"
        ),
        evidence=(
            _accuracy("all PGD together", gradient.right),
            *named,
            _accuracy(f"{RANDOM} random points", chance.right),
            Reading(what="share broken only without gradients", value=share),
            Reading(what="share nearer to the boundary without gradients", value=closer),
        ),
    )


def _accuracy(what: str, right: Tensor) -> Reading:
    return Reading(what=f"accuracy after {what}", value=float(right.float().mean()))


def misled(attacks: Sequence[Attack], broken_by: Tensor, num_classes: int) -> str | None:
    """A caveat if attacks without gradients broke what attacks with gradients left.

    `broken_by` is the number of the attack that broke each image [N].
    """
    blind = [
        all(search.effort <= FORWARD for search in attack.searches(num_classes))
        for attack in attacks
    ]
    after = [
        number for number, has_none in enumerate(blind) if has_none and not all(blind[:number])
    ]
    broken = sum(int((broken_by == number).sum()) for number in after)
    if broken < max(MISLED * len(broken_by), FEWEST):
        return None
    names = " and ".join(attacks[number].name for number in after)
    return (
        f"{names}, without gradients, broke {counted(broken, 'image')} that the attacks before "
        "left: gradients mislead those here, and suites of them alone overstate robust accuracy"
    )


IMAGES = 128
"""Most images, one batch."""
LEAST = 64
"""Images from which on a quarter of the right ones is enough."""
EFFORT = sum(STEPS) + 1 + (QUERIES + RANDOM) / 3 + 64 + 8
"""Forward and backward passes of all checks for each image, roughly."""
CHECKS = (outputs, gradients, steps, large)
"""In the order of execution, the cheap ones first."""


def examine(
    tested: ModelUnderTest,
    images: Tensor,
    *,
    right: Tensor,
    seed: int,
    observer: Callable[[float], None] = lambda effort: None,
) -> tuple[Finding, ...]:
    """Findings of all checks, on images spread evenly over those that are `right` when clean [N].

    `images` are those of the judge of `tested`. `observer` gets the passes, of `EFFORT`, since its
    last call. There are no findings if no image is right.
    Cost: about 330 forward and backward and 400 forward passes over `num_checked` images.
    """
    places = right.nonzero().flatten()
    if not len(places):
        return ()
    chosen = evenly(places)
    subset = Subset(tested, images[chosen], tested.judge.labels[chosen], seed, observer)
    return tuple(finding for check in CHECKS for finding in check(subset))


def num_checked(right: int) -> int:
    """Images that the checks use: a quarter of the right ones, from 64 to 128, at most all."""
    return min(right, IMAGES, max(LEAST, right // 4))


def evenly(places: Tensor) -> Tensor:
    """Some of these [N], evenly spaced from the first to the last."""
    count = num_checked(len(places))
    return places[torch.linspace(0, len(places) - 1, count).round().long()]
