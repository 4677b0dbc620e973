"""The loss around test images: smooth enough for gradient steps, or shattered?

The paper illustrates it in Figure 2; these are surfaces of trained networks.
Shapes: N images, S one image (C H W).  Units: pixels in [0, 1].
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cosine_similarity
from typing_extensions import override

from sparring.attacks import Threat, cross_entropy
from sparring.attacks.checks import looked_at
from sparring.data.run_data import dataset_of
from sparring.models import Initialisation, trained_network
from sparring.records import Axis, Claim, Figure, Provenance, Relief, Row, RunDirectory, Table
from sparring.studies.networks import attacked, enough_attacked, reached, varied, weights_digest
from sparring.studies.study import (
    Measurement,
    Measurements,
    Runs,
    Scale,
    Study,
    judged,
    network_label,
    network_variant,
    standing,
)
from sparring.training import TrainConfig

LENGTHS = (1, 8)
"""κ of the networks; the paper finds the first shattered and the second not."""
POINTS = {"smoke": 5, "short": 41, "paper": 41}
"""Points of the surface in each direction."""
IMAGES = {"smoke": 8, "short": 500, "paper": 500}
"""Test images whose gradients are compared."""
STEP = 0.01
"""Change of every pixel over which the change of the gradient is measured, a thirtieth of ε."""
SHATTERED = 0.5
"""Mean cosine of two gradients within the threat, below which the loss counts as shattered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface(Measurement):
    """The loss around one image, and how gradients change around many."""

    network: str
    """Its name in the study."""
    run: RunDirectory
    points: int
    """Points of the surface in each direction."""
    images: int
    """Images whose gradients are compared; the surface is around the first."""

    @property
    @override
    def name(self) -> str:
        size = f"{self.points} x {self.points} points, {self.images} images"
        return f"surface of {self.network}@{reached(self.run)}, {size}"

    @property
    @override
    def subject(self) -> str:
        return weights_digest(self.run)

    @override
    def __call__(self) -> Sequence[Row]:
        # Directions: the signs of the gradient at the clean image, and random signs. The corners of
        # the plane are corners of the threat, cut to [0, 1].
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
        gradients: Row = {
            "network": self.network,
            "version": reached(self.run),
            "images": self.images,
            "alignment": float(aligned.mean()),
            "turning": float((change / size).median()),
        }
        return [*rows, gradients]


def _gradient(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    _, _, found = looked_at(network, images, lambda logits: cross_entropy(logits, labels))
    return found


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    # Scaled first, since gradients of saturated losses are tiny.
    flat = (each.flatten(1) for each in (one, other))
    scaled = [each / each.abs().amax(1, keepdim=True).clamp_min(1e-30) for each in flat]
    return cosine_similarity(*scaled, dim=1)


@dataclass(frozen=True, slots=True)
class Landscape(Study):
    """Networks of κ = 1 and κ = 8, both of attacker power, and the loss around their images."""

    name: str = "landscape"
    title: str = "What does the loss around an image look like?"
    covers: str = "sections 2 and 4, in place of Figure 2"
    initialisation: Initialisation | None = None
    """Initial weights of the networks; `None` for those of the scale."""

    @override
    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        return {self._network(k): varied(attacked(scale, k), self.initialisation) for k in LENGTHS}

    def _network(self, kappa: int) -> str:
        return network_variant(f"k{kappa}", self.initialisation)

    @override
    def enough(self, scale: Scale, network: str) -> int | None:
        return enough_attacked(scale)

    @override
    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        return [
            Surface(network=name, run=run, points=POINTS[scale], images=IMAGES[scale])
            for name, run in runs.items()
        ]

    @override
    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        names = [self._network(k) for k in LENGTHS]
        weak, strong = (_last(found, name, "alignment") for name in names)
        findings = [
            f"{network_label(name)}: the gradients at an image and at a random point of its threat "
            f"have a mean cosine of {cosine:.2f}; a step of 0.01 in every pixel changes the "
            f"gradient by {_last(found, name, 'turning') or 0:.2f} of its length (median)."
            for name, cosine in zip(names, (weak, strong), strict=True)
            if cosine is not None
        ]
        return [
            judged(
                "A network trained against a single step corrupts its loss surface so that a step "
                "of that strength meets no useful gradient; one of κ = 8 does not (section 4).",
                " ".join(findings) or "No such network has been trained.",
                standing=standing(self, scale, found, names),
                holds=lambda: _differ(weak, strong),
            )
        ]

    @override
    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        return list(_surfaces(found, provenance))


def _differ(weak: float | None, strong: float | None) -> bool | None:
    return None if weak is None or strong is None else weak < SHATTERED < strong


def _last(found: Measurements, network: str, column: str) -> float | None:
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
        tables.append(Table(title=f"trained against {network_label(name)}", cells=cells))
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
