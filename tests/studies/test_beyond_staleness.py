"""What fresh steps do to stale examples, and what the study says of hand-made measurements."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from sparring.records import Axis, Claim, Curves, Proportion, Provenance, Row, describe
from sparring.report.panels import CurvePlan
from sparring.studies import Measurements
from sparring.studies.beyond_staleness import BeyondStaleness
from sparring.studies.freshening import Freshening, SnapshotUnderSuite
from sparring.studies.networks import stale
from sparring.training import train

STUDY = BeyondStaleness()
HERE = Provenance(
    command="", seeds=(0,), environment=describe(threads=1, device="cpu", precision="fp32")
)


def ended(robust: Mapping[str, float]) -> Measurements:
    """All networks at their ends; those that are not named have robust accuracy 0."""
    rows: list[Row] = []
    for name in STUDY.networks("short"):
        kind = name.removeprefix("strided-").partition("-seed")[0]
        versions = {STUDY.enough("short", name) or 0} | ({1274} if kind == "s0" else set())
        for version in versions:
            about: Row = {"network": name, "version": version, "suite": "standard"}
            right = round(1000 * robust.get(kind, 0.0))
            rows.append({**about, "images": 1000, "natural": 980, "robust": right})
    return Measurements(rows=rows)


def claims(robust: Mapping[str, float]) -> list[Claim]:
    return list(STUDY.claims("short", ended(robust)))


KEPT = {"s0": 0.85, "s64f2": 0.845, "s256wf2": 0.835, "s1024wf2": 0.84}


@pytest.mark.parametrize(
    ("robust", "expected"),
    [
        (KEPT, [True, True, False]),
        (KEPT | {"s256wf4": 0.85}, [True, True, True]),
        (KEPT | {"s1024wf2": 0.82}, [True, False, False]),
        (KEPT | {"s64": 0.6}, [False, True, False]),
    ],
)
def test_verdicts_follow_from_the_ends(robust: dict[str, float], expected: list[bool]) -> None:
    assert [claim.holds for claim in claims(robust)[:3]] == expected


def test_the_cheapest_setting_is_the_one_with_the_fewest_fresh_steps() -> None:
    found = claims(KEPT | {"s64f1": 0.842, "s64f4": 0.85})[2].found
    assert "s = 64: 1 fresh step, at most 4.50 times" in found
    assert "s = 256: none of 0, 1, 2, 3, 4 fresh steps" in found
    assert "s = 1,024: 2 fresh steps, at most 3.00 times" in found


def test_a_network_is_compared_with_s_0_after_as_many_updates() -> None:
    rows = list(ended(KEPT | {"s64f2": 0.5}).rows)
    for row in rows:
        if str(row["network"]).startswith("strided-s0") and row["version"] == 1274:
            row["robust"] = 500
    assert "s = 64: 2 fresh steps" in STUDY.claims("short", Measurements(rows=rows))[2].found


def test_seeds_of_one_setting_count_together() -> None:
    rows = list(ended(KEPT).rows)
    for row in rows:
        if row["network"] == "strided-s64f2-seed1":
            row["robust"] = 545
    found = STUDY.claims("short", Measurements(rows=rows))
    assert "s = 64, 2 fresh steps: 98.0\N{NO-BREAK SPACE}% and 74.5" in found[1].found
    assert found[1].holds is False


def test_seeds_see_the_same_images_so_three_are_no_surer_than_one_of_other_images() -> None:
    figures = {figure.name: figure for figure in STUDY.figures(ended(KEPT), HERE)}
    drawing = figures["by-staleness"].drawing
    assert isinstance(drawing, Curves)
    line = next(line for line in drawing.panels[0].series if line.name == "2 of 8 steps fresh")
    of_thousand = Proportion(successes=845, total=1000).interval
    at = line.x.index(64)
    assert (line.low[at], line.high[at]) == pytest.approx([100 * end for end in of_thousand])


def test_the_figure_has_a_line_for_each_number_of_fresh_steps_and_the_papers() -> None:
    figures = {figure.name: figure for figure in STUDY.figures(ended(KEPT), HERE)}
    drawing = figures["by-staleness"].drawing
    assert isinstance(drawing, Curves)
    names = [series.name for series in drawing.panels[0].series]
    fresh = [f"{steps} of 8 steps fresh" for steps in (1, 2, 3, 4)]
    references = ["s = 0, 1,274 updates", "s = 0, 4,018 updates"]
    assert names == ["no fresh steps", *fresh, *references, "the paper's text, rounded"]
    assert drawing.panels[0].series[2].y == pytest.approx((0, 0, 84.5, 83.5, 84))
    assert [panel.title for panel in drawing.panels] == ["under attack", "clean images"]
    assert drawing.y == Axis(label="correct", unit="%")
    assert len({style.hue for style in CurvePlan.of(drawing).styles.values()}) == len(names)


def test_fresh_steps_bring_stale_examples_to_fresh_ones(tmp_path: Path) -> None:
    run = train(stale("smoke", 2), tmp_path / "run", until=8).run
    measured = Freshening(
        network="s2", run=run, version=8, age=4, fresh_steps=(0, 2, 8), images=16
    )()
    distances, agreements = (
        [float(row[what] or 0) for row in measured] for what in ("distance", "agreement")
    )
    assert distances[0] > distances[1] > distances[2] == 0
    assert agreements[0] < agreements[1] < agreements[2] == 1


def test_a_snapshot_is_judged_and_not_the_last_weights(tmp_path: Path) -> None:
    run = train(stale("smoke", 0), tmp_path / "run", until=8).run
    versions = [
        SnapshotUnderSuite(network="s0", run=run, version=version, suite="pgd", images=16)
        for version in (4, 8)
    ]
    assert versions[0].subject != versions[1].subject
    for measurement in versions:
        (row,) = measurement()
        assert row["version"] == measurement.version
        assert int(row["robust"] or 0) <= int(row["natural"] or 0) <= 16
