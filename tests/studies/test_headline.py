"""The study headline on rows made by hand, and once for real."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import pytest
import torch

from sparring.models import PaperNetwork, working_copy
from sparring.records import (
    Claim,
    Lengths,
    MetricsLog,
    Provenance,
    Row,
    RunDirectory,
    describe,
)
from sparring.studies import STUDIES, Measurements, Scale
from sparring.studies.headline import CAUSES, CHAIN, durations, factors, whole
from sparring.studies.recipes import FAST, FAST_ASYNC, PLAIN, Clock, PlainNetwork, recipes
from training.small_runs import small

STUDY = STUDIES["headline"]
PROVENANCE = Provenance(
    command="by hand",
    seeds=(0,),
    environment=describe(threads=1, device="cpu", precision="none"),
)
HOURS = dict(zip(CHAIN, (20.0, 10.0, 2.0, 2.5, 0.02, 0.02), strict=True))


def time(recipe: str, trained: int, planned: int, spent: float) -> Row:
    counted: Row = {"trained": trained, "planned": planned, "spent": spent}
    return {"of": "time", "recipe": recipe, **counted}


def timed() -> list[Row]:
    """Fast networks trained whole, a hundredth of the others."""
    return [
        time(name, 1000, 1000, 3600 * hours)
        if name in (FAST, FAST_ASYNC)
        else time(name, 10, 1000, 36 * hours)
        for name, hours in HOURS.items()
    ]


def judged(recipe: str, robust: int, natural: int = 985, flags: int = 0) -> Row:
    counted: Row = {"images": 1000, "robust": robust, "natural": natural, "flags": flags}
    return {"of": "robustness", "recipe": recipe, "suite": "pgd-100x5", **counted}


def claims(rows: list[Row], scale: Scale = "short") -> Sequence[Claim]:
    return STUDY.claims(scale, Measurements(rows=rows))


def test_factors_multiply_to_the_whole() -> None:
    found = Measurements(rows=timed())
    split = factors(found)
    assert tuple(split) == CAUSES
    assert whole(found) == pytest.approx(1000)
    assert prod(split.values()) == pytest.approx(whole(found))
    assert split["attack steps"] == pytest.approx(5)
    assert split["batch and updates"] == pytest.approx(0.8)
    causes = {figure.name: figure.drawing for figure in STUDY.figures(found, PROVENANCE)}["causes"]
    assert isinstance(causes, Lengths)
    for group in causes.groups:
        *each, product = group.numbers
        assert prod(each) == pytest.approx(product)


@pytest.mark.parametrize("missing", CHAIN)
def test_nothing_is_split_while_a_recipe_is_not_timed(missing: str) -> None:
    found = Measurements(rows=[row for row in timed() if row["recipe"] != missing])
    assert factors(found) == {}
    assert "causes" not in {figure.name for figure in STUDY.figures(found, PROVENANCE)}


def test_what_was_not_trained_whole_is_marked_as_extrapolated() -> None:
    found = Measurements(rows=timed())
    lasting = durations(found)
    assert [name for name, duration in lasting.items() if not duration.extrapolated] == [
        FAST,
        FAST_ASYNC,
    ]
    assert str(lasting[PLAIN]) == "20.0 h [extrapolated from 10 of 1,000 updates]"
    assert str(lasting[FAST]) == "72.0 s [measured, 1,000 updates]"
    (times, _) = STUDY.figures(found, PROVENANCE)
    assert isinstance(times.drawing, Lengths)
    for name in times.drawing.names:
        assert ("extrapolated" in name) is not name.startswith("fast")
    told = claims(timed())[0].found
    assert "20.0 h [extrapolated" in told
    assert "72.0 s [measured" in told


def test_the_longest_training_of_a_recipe_counts() -> None:
    rows = [time(PLAIN, 500, 1000, 50.0), time(PLAIN, 30, 1000, 30.0)]
    assert durations(Measurements(rows=rows))[PLAIN].seconds == pytest.approx(100)


def test_a_network_that_is_not_complete_is_extrapolated_from_its_own_log(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.write_config(small(updates=100))
    for step in range(1, 11):
        MetricsLog(run.metrics).append({"step": step, "loss": 1.0, "seconds": 2.0 * step})
    duration = durations(Measurements(rows=Clock(FAST, run)()))[FAST]
    assert str(duration) == "3.3 min [extrapolated from 10 of 100 updates]"


@pytest.mark.parametrize(
    ("robust", "natural", "flags", "holds"),
    [(905, 985, 0, True), (880, 985, 0, False), (905, 970, 0, False), (905, 985, 1, False)],
)
def test_fast_alone_is_not_enough_the_network_must_be_as_robust(
    robust: int, natural: int, flags: int, holds: bool
) -> None:
    rows = [*timed(), *(judged(name, robust, natural, flags) for name in (FAST, FAST_ASYNC))]
    first, *_, last = claims(rows)
    assert first.holds is holds
    assert last.holds is holds
    assert claims(timed())[0].holds is None


def test_a_robust_network_that_takes_a_tenth_of_the_time_does_not_reproduce_26() -> None:
    slow = [row | {"spent": 7200.0} if row["recipe"] == FAST_ASYNC else row for row in timed()]
    rows = [*slow, judged(FAST, 910), judged(FAST_ASYNC, 910)]
    assert claims(rows)[0].holds is False


def test_eight_devices_are_simulated_and_so_nothing_is_decided() -> None:
    simulated: Row = {"of": "simulated", "devices": 8, "trainer": "waits", "speed_up": 7.83}
    claim = claims([*timed(), simulated])[2]
    assert claim.holds is None
    assert "simulated on a virtual clock, κ = 8: 7.83 if the trainer waits" in claim.found


def test_without_rows_nothing_is_claimed_or_drawn() -> None:
    assert all(claim.holds is None for claim in claims([]))
    assert all(claim.holds is None for claim in claims(timed(), scale="smoke"))
    assert not STUDY.figures(Measurements(rows=[]), PROVENANCE)


def test_the_plain_network_is_the_papers_computed_layer_by_layer() -> None:
    plain, ours = PlainNetwork().build(3), PaperNetwork().build(3)
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain(images), ours(images))
    config = recipes("short")[PLAIN]
    assert working_copy(config.model.build(0), config.precision).name == "fp32 direct"
