"""The loss around test images: is it a slope that a step can follow, or shattered?

The paper argues with its Figure 2; here are the networks' own surfaces.
Shapes: N images, S one image (C H W).  Units: pixels in [0, 1].
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cosine_similarity

from sparring.attacks import Threat, cross_entropy
from sparring.attacks.checks import looked_at
from sparring.data.run_data import dataset_of
from sparring.models import trained_network
from sparring.records import Axis, Claim, Figure, Provenance, Relief, Row, RunDirectory, Table
from sparring.studies.networks import attacked, enough_attacked, reached, weights_digest
from sparring.studies.study import Measurement, Measurements, Runs, Scale, judged, standing
from sparring.training import TrainConfig

LENGTHS = (1, 8)
"""κ of the networks: one that the paper finds shattered, one that it does not."""
POINTS = {"smoke": 5, "short": 41, "paper": 41}
"""Points of the surface in each direction."""
IMAGES = {"smoke": 8, "short": 500, "paper": 500}
"""Test images whose gradients are compared."""
STEP = 0.01
"""Change of every pixel over which a gradient is seen to turn: a thirtieth of ε."""
SHATTERED = 0.5
"""Mean cosine of two gradients within the threat below which one says little of the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface:
    """The loss around one image, and how gradients turn around many."""

    network: str
    """What the study calls it."""
    run: RunDirectory
    """Its run."""
    points: int
    """Points of the surface in each direction."""
    images: int
    """Images whose gradients are compared; the surface is that of the first."""

    @property
    def name(self) -> str:
        """The network, as far as it has come, and how much is looked at."""
        size = f"{self.points} x {self.points} points, {self.images} images"
        return f"surface of {self.network}@{reached(self.run)}, {size}"

    @property
    def subject(self) -> str:
        """The weights that it has come to."""
        return weights_digest(self.run)

    def __call__(self) -> Sequence[Row]:
        """A row for each point of the surface, and one for the gradients.

        The directions are the signs of the gradient at the clean image and random signs; the
        corners of the plane are corners of the threat, cut to [0, 1].
        """
        threat = self.run.section("threat", Threat)
        test = dataset_of(self.run).test
        images, labels = test.batch(torch.arange(self.images))
        network = trained_network(self.run, version=reached(self.run))
        network.requires_grad_(requires_grad=False)
        chance = Generator().manual_seed(0)
        gradient = _gradient(network, images, labels)
        signs = torch.where(torch.rand(images[0].shape, generator=chance) < 0.5, -1.0, 1.0)
        at = torch.linspace(-threat.eps, threat.eps, self.points)
        plane = at[:, None, None, None] * gradient[0].sign(), at[:, None, None, None] * signs
        rows: list[Row] = []
        for down, across in enumerate(plane[1]):
            x = (images[0] + plane[0] + across).clamp(0, 1)
            losses = cross_entropy(network(x), labels[:1].expand(len(x)))
            rows += (
                {"network": self.network, "x": float(at[right]), "y": float(at[down]), "loss": loss}
                for right, loss in enumerate(losses.tolist())
            )
        elsewhere = threat.uniform(images, chance)
        aligned = _cosines(gradient, _gradient(network, elsewhere, labels))
        near = images + STEP * gradient.sign()
        change = (_gradient(network, near, labels) - gradient).flatten(1).norm(dim=1)
        size = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
        told: Row = {
            "network": self.network,
            "version": reached(self.run),
            "images": self.images,
            "alignment": float(aligned.mean()),
            "turning": float((change / size).median()),
        }
        return [*rows, told]


def _gradient(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    _, _, found = looked_at(network, images, lambda logits: cross_entropy(logits, labels))
    return found


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    """Scaled first: gradients of saturated losses are tiny."""
    flat = (each.flatten(1) for each in (one, other))
    scaled = [each / each.abs().amax(1, keepdim=True).clamp_min(1e-30) for each in flat]
    return cosine_similarity(*scaled, dim=1)


@dataclass(frozen=True, slots=True)
class Landscape:
    """Networks of κ = 1 and κ = 8, and the loss around their images."""

    name: str = "landscape"
    title: str = "What does the loss around an image look like?"
    covers: str = "sections 2 and 4, in place of Figure 2"

    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        """Two of attacker power's."""
        return {f"k{k}": attacked(scale, k) for k in LENGTHS}

    def enough(self, scale: Scale) -> int | None:
        """All updates of the recipe."""
        return enough_attacked(scale)

    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        """Each network's surface, as far as it has come."""
        return [
            Surface(network=name, run=run, points=POINTS[scale], images=IMAGES[scale])
            for name, run in runs.items()
        ]

    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        """Shattered gradients say little of each other."""
        names = [f"k{k}" for k in LENGTHS]
        weak, strong = (_seen(found, name, "alignment") for name in names)
        told = [
            f"κ = {k}: the gradients at an image and at a random point of its threat have a mean "
            f"cosine of {cosine:.2f}; a step of 0.01 in every pixel changes the gradient by "
            f"{_seen(found, f'k{k}', 'turning') or 0:.2f} of its length (median)."
            for k, cosine in zip(LENGTHS, (weak, strong), strict=True)
            if cosine is not None
        ]
        return [
            judged(
                "A network trained against a single step corrupts its loss surface so that a step "
                "of that strength meets no useful gradient; one of κ = 8 does not (section 4).",
                " ".join(told) or "No such network has been trained.",
                standing=standing(self, scale, found, names),
                holds=lambda: _differ(weak, strong),
            )
        ]

    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        """Both surfaces at the same heights."""
        return list(_surfaces(found, provenance))


def _differ(weak: float | None, strong: float | None) -> bool | None:
    return None if weak is None or strong is None else weak < SHATTERED < strong


def _seen(found: Measurements, network: str, column: str) -> float | None:
    return found.where(network=network).last(column)


def _surfaces(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    points = found.having("loss")
    if not points:
        return
    names = points.names("network")
    at_x, at_y = (tuple(sorted(set(points.column(axis)))) for axis in ("x", "y"))
    tables = []
    for name in names:
        own = points.where(network=name)
        height = dict(
            zip(zip(own.column("y"), own.column("x"), strict=True), own.column("loss"), strict=True)
        )
        cells = tuple(tuple(height[y, x] for x in at_x) for y in at_y)
        tables.append(Table(title=f"trained against κ = {name[1:]}", cells=cells))
    yield Figure(
        name="surfaces",
        title="The loss around a test image",
        caption="Cross-entropy of the first test image in the plane of two directions: the signs "
        "of its gradient, and random signs. The middle is the clean image, the edges are ε away; "
        "pixels are cut to [0, 1].",
        alternative="Heights of the loss over a plane through an image, one for each network.",
        drawing=Relief(
            x=Axis(label="along the signs of the gradient"),
            y=Axis(label="along random signs"),
            height=Axis(label="cross-entropy"),
            at_x=at_x,
            at_y=at_y,
            tables=tuple(tables),
        ),
        provenance=provenance,
    )
