"""A study whose measurements say when they were carried out, and on how many threads."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sparring.records import Claim, Figure, Provenance, Row
from sparring.studies import Measurement, Measurements, Runs, Scale
from sparring.training import TrainConfig

LASTING = 0.3


@dataclass(frozen=True, slots=True)
class Witness:
    """Needs one core, and does not know that one could ask for more."""

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
class Witnessed:
    name: str = "witnessed"
    title: str = "Who was there?"
    covers: str = "nothing"

    def networks(self, scale: Scale) -> Mapping[str, TrainConfig]:
        return {}

    def enough(self, scale: Scale) -> int | None:
        return None

    def measurements(self, scale: Scale, runs: Runs) -> Sequence[Measurement]:
        return [
            LonelyWitness("lonely 1"),
            Witness("sociable 1"),
            LonelyWitness("lonely 2"),
            Witness("sociable 2"),
        ]

    def claims(self, scale: Scale, found: Measurements) -> Sequence[Claim]:
        return []

    def figures(self, found: Measurements, provenance: Provenance) -> Sequence[Figure]:
        return []
