"""Studies: every figure and table of the paper, made again."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from sparring.records.checks import choice
from sparring.studies.asynchrony import Asynchrony
from sparring.studies.attacker_power import AttackerPower
from sparring.studies.beyond_staleness import BeyondStaleness
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
            BeyondStaleness(),
            Asynchrony(),
            Headline(),
            AttackerPower(
                name="attacker-power-torch",
                title="Are few attack steps enough from PyTorch's initial weights?",
                covers="section 4, Figures 3 and 4, Table 1",
                initialisation="torch",
            ),
            Landscape(
                name="landscape-torch",
                title="What does the loss look like from PyTorch's initial weights?",
                initialisation="torch",
            ),
            Staleness(
                name="staleness-torch",
                title="How old may the weights be from PyTorch's initial weights?",
                covers="section 5, Figures 5, 7 and 8",
                initialisation="torch",
            ),
            Cycling(
                name="cycling-torch",
                title="Do adversarial examples cycle from PyTorch's initial weights?",
                initialisation="torch",
            ),
        )
    }
)
"""All studies by name, in the paper's order, then four of them from other initial weights."""
MAKES: Mapping[str, str] = MappingProxyType(
    {
        "figure2": Landscape().name,
        "figure3": AttackerPower().name,
        "figure4": AttackerPower().name,
        "table1": AttackerPower().name,
        "figure5": Staleness().name,
        "figure6": Cycling().name,
        "figure7": Staleness().name,
        "figure8": Staleness().name,
        "figure9": Asynchrony().name,
    }
)
"""The study that makes each figure and table of the paper, or takes its place."""


def named_study(name: str) -> Study:
    """The study of this name, or the one that makes this figure or table, such as fig8 or table-1.

    Raises `ConfigError` for another name.
    """
    word = re.sub(r"[\s_.-]", "", name.casefold())
    word = re.sub(r"^fig(?=\d)", "figure", re.sub(r"^tab(?=\d)", "table", word))
    known = MAKES.get(word, name)
    choice("a study", known, [*STUDIES, *MAKES])
    return STUDIES[known]


__all__ = [
    "MAKES",
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
    "named_study",
]
