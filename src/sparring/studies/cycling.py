"""Cycling: with large staleness, do the adversarial examples of an image cycle?

The paper's section 5 and its Figure 6.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from typing_extensions import override

from sparring.data.run_data import RunData
from sparring.models import Initialisation
from sparring.records import (
    Axis,
    Claim,
    Curves,
    Figure,
    Film,
    Panel,
    Provenance,
    Row,
    RunDirectory,
    Series,
    Strip,
)
from sparring.records.text import counted
from sparring.studies.networks import enough, reached, stale, varied, weights_digest
from sparring.studies.staleness import network_name, setting
from sparring.studies.study import (
    Measurement,
    Measurements,
    Runs,
    Scale,
    Study,
    judged,
    network_variant,
    standing,
)
from sparring.training import TrainConfig, Trainer
from sparring.training.checkpoint import restore_checkpoint
from sparring.training.config import stored_config

LAGS = {"smoke": (0, 2), "short": (0, 64), "paper": (0, 64)}
"""s of the networks, the paper's two."""
FRAMES = {"smoke": 4, "short": 384, "paper": 384}
"""Consecutive updates that are filmed: six times the larger staleness."""
SHOWN = 96
"""Frames of a film in the report, evenly chosen."""
RETURNS = 0.3
"""A correlation that falls and then rises by more than this shows a cycle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filming(Measurement):
    """A run continues for some updates; after each, the same image is attacked the same way.

    It gives a row for the clean image, and one for each update's adversarial example.
    """

    network: str
    """Its name in the study."""
    run: RunDirectory
    """Its run, with at least `frames` updates left."""
    frames: int
    """Updates to film."""

    @property
    @override
    def name(self) -> str:
        return f"film of {self.frames} updates of {self.network}@{reached(self.run)}"

    @property
    @override
    def subject(self) -> str:
        return weights_digest(self.run)

    @override
    def __call__(self) -> Sequence[Row]:
        config = stored_config(self.run)
        dataset = RunData.of(self.run).load()[0]
        image, label = dataset.test.batch(torch.arange(1))
        trainer = Trainer(config, dataset, torch.device("cpu"))
        rows = [self._row("clean", 0, image)]
        with trainer.loader as loader:
            restore_checkpoint(self.run, trainer)
            for batch in loader:
                trainer.update(batch)
                example = config.pgd(
                    trainer.copy.attacked, image, label, generator=Generator().manual_seed(0)
                )
                rows.append(self._row("attacked", trainer.version, example))
                if len(rows) > self.frames:
                    break
        return rows

    def _row(self, frame: str, version: int, image: Tensor) -> Row:
        grey = (image.flatten() * 255).round().to(torch.uint8).numpy().tobytes()
        pixels = b64encode(grey).decode()
        return {"network": self.network, "frame": frame, "version": version, "pixels": pixels}


@dataclass(frozen=True, slots=True)
class Cycling(Study):
    """A network without staleness and one of s = 64, filmed."""

    name: str = "cycling"
    title: str = "Do the adversarial examples of an image cycle?"
    covers: str = "section 5, Figure 6"
    initialisation: Initialisation | None = None
    """Initial weights of the networks; `None` for those of the scale."""

    @override
    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        return {
            self._network(scale, lag): varied(stale(scale, lag), self.initialisation)
            for lag in LAGS[scale]
        }

    def _network(self, scale: Scale, staleness: int) -> str:
        return network_variant(network_name(scale, staleness), self.initialisation)

    @override
    def enough(self, scale: Scale, network: str) -> int | None:
        return enough(scale)

    @override
    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        return [
            Filming(network=name, run=run, frames=FRAMES[scale])
            for name, run in runs.items()
            if reached(run) + FRAMES[scale] <= run.section("updates", int)
        ]

    @override
    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        filmed = {name: return_of(found, name) for name in found.names("network")}
        findings = [
            f"{_name(name)}: the correlation of the perturbation with itself falls to "
            f"{seen.low:.2f} after {seen.after} updates and then rises to {seen.high:.2f} at "
            f"{seen.again}."
            for name, seen in filmed.items()
        ]
        names = [self._network(scale, lag) for lag in LAGS[scale]]
        fresh, old = (filmed.get(name) for name in names)
        return [
            judged(
                "With s = 64 the adversarial examples of an image cycle; without staleness they "
                "look random (Figure 6).",
                " ".join(findings) or "No network has been filmed.",
                standing=standing(self, scale, found, names),
                holds=lambda: only_one_returns(fresh, old),
            )
        ]

    @override
    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        return [*_films(found, provenance), *correlations(found, provenance)]


def _name(network: str) -> str:
    fresh, lag = setting(network)
    return f"s = {lag}" + (f", {counted(fresh, 'fresh step')}" if fresh else "")


def _perturbations(found: Measurements, network: str) -> np.ndarray:
    """The perturbation of each frame [T, pixels], in [-1, 1]."""
    own = found.where(network=network).having("pixels")
    clean, *frames = (
        np.frombuffer(b64decode(str(row["pixels"])), np.uint8).astype(float) / 255
        for row in own.sorted("version").rows
    )
    return np.array(frames) - clean


def autocorrelation(perturbations: np.ndarray) -> np.ndarray:
    """Correlation of a film [T, pixels] with itself, for lags of 0 to T / 2 frames.

    It is the mean cosine of two frames minus the film's mean frame; 1 for lag 0.
    """
    moving = perturbations - perturbations.mean(0)
    size = np.linalg.norm(moving, axis=1, keepdims=True)
    unit = moving / np.maximum(size, 1e-12)
    return np.array(
        [(unit[: len(unit) - lag] * unit[lag:]).sum(1).mean() for lag in range(len(unit) // 2 + 1)]
    )


class Return(NamedTuple):
    """The low of the correlation after `after` updates, and the high at `again` updates."""

    low: float
    after: int
    high: float
    again: int


def return_of(found: Measurements, network: str) -> Return:
    """The largest rise of the correlation of a film's perturbations."""
    curve = autocorrelation(_perturbations(found, network))
    lowest_so_far = np.minimum.accumulate(curve)
    again = int(np.argmax(curve - lowest_so_far))
    after = int(np.argmin(curve[: again + 1]))
    return Return(float(curve[after]), after, float(curve[again]), again)


def only_one_returns(fresh: Return | None, old: Return | None) -> bool | None:
    """Whether the second film shows a cycle and the first does not; `None` if one is missing."""
    if fresh is None or old is None:
        return None
    return old.high - old.low > RETURNS > fresh.high - fresh.low


def _films(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    films = []
    for network in found.names("network"):
        rows = found.where(network=network, frame="attacked").sorted("version").rows
        chosen = rows[:: -(-len(rows) // SHOWN)]
        films.append(
            Film(
                title=_name(network),
                frames=tuple(str(row["pixels"]) for row in chosen),
                captions=tuple(f"after {int(row['version'] or 0):,} updates" for row in chosen),
            )
        )
    if films:
        yield Figure(
            name="films",
            title="Adversarial examples of one test image at successive updates (Figure 6)",
            caption="The first test image, attacked after each update from the same start; every "
            "few updates are shown.",
            alternative="Images of a handwritten digit with changing perturbations.",
            drawing=Strip(height=28, width=28, films=tuple(films)),
            provenance=provenance,
        )


def correlations(found: Measurements, provenance: Provenance) -> Iterator[Figure]:
    """The correlation of each filmed perturbation with itself."""
    lines = []
    for network in found.having("pixels").names("network"):
        curve = autocorrelation(_perturbations(found, network))
        x, y = tuple(map(float, range(len(curve)))), tuple(map(float, curve))
        lines.append(Series(name=_name(network), x=x, y=y))
    if lines:
        yield Figure(
            name="autocorrelation",
            title="Correlation of the perturbation with itself, by lag",
            caption="Mean cosine between the perturbation, minus its mean over the film, and "
            "itself some updates later. A line that rises again shows a cycle.",
            alternative="Correlation against lag in updates, one line for each network.",
            drawing=Curves(
                x=Axis(label="lag", unit="updates"),
                y=Axis(label="correlation"),
                panels=(Panel(title="", series=tuple(lines)),),
            ),
            provenance=provenance,
        )
