"""Every figure and table of the paper, asked again: studies, and what carries them out."""

from collections.abc import Mapping
from types import MappingProxyType

from sparring.studies.asynchrony import Asynchrony
from sparring.studies.attacker_power import AttackerPower
from sparring.studies.cycling import Cycling
from sparring.studies.headline import Headline
from sparring.studies.landscape import Landscape
from sparring.studies.runner import RESULT, TABLE, StudyRun
from sparring.studies.staleness import Staleness
from sparring.studies.study import SCALES, Measurement, Measurements, Runs, Scale, Study

STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        study.name: study
        for study in (
            AttackerPower(),
            Landscape(),
            Staleness(),
            Cycling(),
            Asynchrony(),
            Headline(),
        )
    }
)
"""All studies by name, in the paper's order."""

__all__ = [
    "RESULT",
    "SCALES",
    "STUDIES",
    "TABLE",
    "Measurement",
    "Measurements",
    "Runs",
    "Scale",
    "Study",
    "StudyRun",
]
