"""The study asynchrony on rows made by hand, and once for real."""

from pathlib import Path

import pytest

from sparring.records import (
    Curves,
    Figure,
    MetricsLog,
    Provenance,
    Row,
    RunDirectory,
    describe,
)
from sparring.studies import SCALES, STUDIES, Measurements, Scale
from sparring.studies.asynchrony import ONE_CORE, OWN_ENGINE, PAPERS_ENGINE
from sparring.studies.devices import RealCores
from sparring.training import Asynchronous

STUDY = STUDIES["asynchrony"]
PROVENANCE = Provenance(
    command="by hand",
    seeds=(0,),
    environment=describe(threads=1, device="cpu", precision="none"),
)


def points(ceiling: float = 9.0) -> list[Row]:
    """Devices 1 to 10 as the formula has them at κ = 8, up to a ceiling."""
    rows: list[Row] = []
    for trainer in ("waits", "helps"):
        for devices in range(1, 11):
            waiting = max(1.0, 1.125 * (devices - 1))
            ideal = min(ceiling, waiting if trainer == "waits" else float(devices))
            found: Row = {"emulated": ideal, "simulated": ideal, "formula": ideal}
            rows.append({"of": "devices", "trainer": trainer, "devices": devices, **found})
    return rows


def cores(network: str, seconds: float, workers: int, version: int = 300) -> Row:
    return {
        "of": "cores",
        "network": network,
        "version": version,
        "update_seconds": seconds,
        "workers": workers,
    }


def age(network: str, staleness: int, updates: int, version: int = 300) -> Row:
    counted: Row = {"staleness": staleness, "updates": updates}
    return {"of": "staleness", "network": network, "version": version, **counted}


def verdicts(rows: list[Row]) -> list[bool | None]:
    return [claim.holds for claim in STUDY.claims("short", Measurements(rows=rows))]


def figures(rows: list[Row]) -> dict[str, Figure]:
    found = STUDY.figures(Measurements(rows=rows), PROVENANCE)
    return {figure.name: figure for figure in found}


def curves(figure: Figure) -> Curves:
    assert isinstance(figure.drawing, Curves)
    return figure.drawing


def test_all_but_the_claim_of_two_devices_hold_for_an_engine_that_is_the_formula() -> None:
    real = [cores(ONE_CORE, 0.4, 0), cores(PAPERS_ENGINE, 0.21, 1), age(PAPERS_ENGINE, 7, 300)]
    assert verdicts(points() + real) == [False, True, True, True, True, True]


def test_no_claim_holds_for_an_engine_that_gains_nothing_and_trains_on_old_examples() -> None:
    slow = [row | {"emulated": 0.5 * float(row["devices"] or 0)} for row in points()]
    real = [cores(ONE_CORE, 0.4, 0), cores(PAPERS_ENGINE, 0.4, 1), age(PAPERS_ENGINE, 33, 1)]
    assert verdicts(slow + real) == [False] * 6


def test_nothing_is_claimed_of_what_was_not_measured_nor_at_smoke() -> None:
    assert verdicts([]) == [None] * 6
    found = Measurements(rows=points())
    assert all(claim.holds is None for claim in STUDY.claims("smoke", found))
    assert not STUDY.figures(Measurements(rows=[]), PROVENANCE)


def test_claims_say_what_is_emulated_simulated_and_real() -> None:
    rows = [*points(), cores(ONE_CORE, 0.4, 0), cores(OWN_ENGINE, 0.2, 1)]
    told = [claim.found for claim in STUDY.claims("short", Measurements(rows=rows))]
    assert all("emulated" in words and "simulated" in words for words in told[:4])
    assert "Measured on cores of this machine" in told[4]
    assert "no fresh steps 2.00" in told[4]


def test_the_paper_has_only_what_its_text_states_and_real_cores_their_own_line() -> None:
    rows = [*points(), cores(ONE_CORE, 0.4, 0), cores(OWN_ENGINE, 0.2, 1)]
    waits, helps = curves(figures(rows)["speed-up"]).panels
    (paper,) = (line for line in waits.series if "paper" in line.name)
    assert dict(zip(paper.x, paper.y, strict=True)) == {1.0: 1.0, 7.0: 5.0, 8.0: 5.0}
    assert not any("paper" in line.name for line in helps.series)
    (real,) = (line for line in helps.series if "real" in line.name)
    assert (real.x, real.y) == ((1.0, 2.0), (1.0, 2.0))
    assert {"emulated", "simulated", "formula"} < {line.name for line in waits.series}


def test_the_distribution_of_staleness_is_that_of_the_longest_training() -> None:
    early = [age(PAPERS_ENGINE, 0, 8, version=8)]
    late = [age(PAPERS_ENGINE, 0, 75, version=100), age(PAPERS_ENGINE, 40, 25, version=100)]
    (panel,) = curves(figures(early + late)["staleness"]).panels
    (line,) = panel.series
    assert (line.x, line.y) == ((0.0, 40.0), (75.0, 25.0))
    last = STUDY.claims("short", Measurements(rows=early + late))[-1]
    assert "mean staleness 10.0, at most 40" in last.found
    assert "25.0\N{NO-BREAK SPACE}% of 100 updates above 32" in last.found
    assert last.holds is False


def test_speed_is_that_of_the_second_half_and_staleness_that_of_all_updates(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    metrics = MetricsLog(run.metrics)
    spent: Row = {"attack_seconds": 0.8, "update_seconds": 0.1, "workers_attack_seconds": 0.8}
    for step, (supply, workers) in enumerate([(0.8, 0), (0.8, 0), (0.3, 1), (0.5, 1)], start=1):
        found: Row = {"step": step, "loss": 1.0, "staleness": min(step, 3) - 1, "workers": workers}
        metrics.append(found | spent | {"supply_seconds": supply})
        metrics.append({"step": step, "robust_accuracy": 0.5})
    speed, *ages = RealCores("n", run)()
    assert (speed["update_seconds"], speed["updates"]) == (pytest.approx(0.5), 2)
    assert speed["workers"] == 1
    assert {row["staleness"]: row["updates"] for row in ages} == {0: 1, 1: 1, 2: 2}


@pytest.mark.parametrize("scale", SCALES)
def test_networks_differ_only_in_who_attacks(scale: Scale) -> None:
    networks = STUDY.networks(scale)
    base = networks[ONE_CORE]
    assert base.threads == 1
    for config in networks.values():
        assert (config.attack, config.updates, config.batch_size, config.seed) == (
            base.attack,
            base.updates,
            base.batch_size,
            base.seed,
        )
        if isinstance(config.source, Asynchronous):
            assert config.source.workers == 1
            assert config.computing_threads == 1
