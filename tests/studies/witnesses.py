"""A study whose measurements give their times and their number of threads."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from typing_extensions import override

from sparring.records import Claim, Figure, Provenance, Row
from sparring.studies import Measurement, Measurements, Runs, Scale, Study
from sparring.training import TrainConfig

LASTING = 0.3


@dataclass(frozen=True, slots=True)
class Witness:
    """Needs one core, and has no `alone`."""

    name: str
    subject: str = ""

    def __call__(self) -> Sequence[Row]:
        return _seen()


@dataclass(frozen=True, slots=True)
class LonelyWitness:
    name: str
    alone: bool = True
    subject: str = ""

    def __call__(self) -> Sequence[Row]:
        return _seen()


def _seen() -> Sequence[Row]:
    begun = time.monotonic()
    time.sleep(LASTING)
    return [{"begun": begun, "ended": time.monotonic(), "threads": torch.get_num_threads()}]


@dataclass(frozen=True, slots=True)
class Witnessed(Study):
    name: str = "witnessed"
    title: str = "Which jobs run at the same time?"
    covers: str = "nothing"

    @override
    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        return {}

    @override
    def enough(self, scale: Scale, network: str) -> int | None:
        return None

    @override
    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        return [
            LonelyWitness("lonely 1"),
            Witness("sociable 1"),
            LonelyWitness("lonely 2"),
            Witness("sociable 2"),
        ]

    @override
    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        return []

    @override
    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        return []
