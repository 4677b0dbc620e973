"""What a study says of hand-made measurements is what these say."""

import re
from dataclasses import replace

import pytest

from sparring.models import PaperNetwork
from sparring.records import Curves, HeatMap, Provenance, Row, describe
from sparring.studies import STUDIES, Measurements, StudyRun
from sparring.studies.attacker_power import AttackerPower
from sparring.studies.staleness import Staleness

HERE = Provenance(
    command="", seeds=(0,), environment=describe(threads=1, device="cpu", precision="fp32")
)


def looked(
    network: str, shares: dict[int, float], of: str = "test", version: int = 980
) -> list[Row]:
    return [
        {
            "network": network,
            "version": version,
            "of": of,
            "steps": steps,
            "images": 100,
            "right": round(100 * share),
            "loss": 1 - share,
        }
        for steps, share in shares.items()
    ]


def crossed(target: str, steps: int, shares: dict[str, float]) -> list[Row]:
    """As if of two attacks one broke all that the other did."""
    own = round(100 * shares[target])
    rows: list[Row] = []
    for name, share in shares.items():
        right = round(100 * share)
        broken = {"only_transferred": max(0, own - right), "only_white_box": max(0, right - own)}
        cell: Row = {"source": name, "target": target, "steps": steps, "images": 100}
        rows.append({**cell, "right": right, **broken})
    return rows


FOOLED, FIRM = {1: 0.98, 4: 0.3, 8: 0.1, 128: 0.0}, {1: 0.96, 4: 0.95, 8: 0.94, 128: 0.93}
DEAD = dict.fromkeys(FIRM, 0.11)
BLUNTED = {1: 0.7, 4: 0.99, 8: 0.6, 128: 0.5}
NETWORKS = {"k1": FOOLED, "k4": BLUNTED, "k8": FIRM, "k128": FIRM}


def as_in_the_paper() -> Measurements:
    rows = [row for name, shares in NETWORKS.items() for row in looked(name, shares)]
    rows += [row for name in NETWORKS for row in looked(name, dict.fromkeys(FIRM, 0.5), version=5)]
    for target, own in (("k1", 1), ("k4", 4), ("k8", 8), ("k128", 128)):
        shattered = target in ("k1", "k4")
        shares = {name: 0.5 if shattered else 0.95 for name in NETWORKS}
        rows += crossed(target, own, shares | {target: 0.98 if shattered else 0.93})
    return Measurements(rows=rows)


def test_what_the_paper_found_is_said_to_hold_by_the_last_looks():
    claims = AttackerPower().claims("short", as_in_the_paper())
    assert [claim.holds for claim in claims] == [True, True, True]
    told = claims[0].found.replace("\N{NO-BREAK SPACE}", " ")
    assert "κ = 1: correct 98.0 % under κ = 1, 30.0 % under κ = 4" in told


@pytest.mark.parametrize(
    ("network", "shares", "holds"),
    [
        ("k1", FIRM, [False, True, True]),
        ("k1", DEAD, [False, True, True]),
        ("k8", FOOLED, [True, False, True]),
    ],
)
def test_a_network_that_does_otherwise_makes_the_claim_fail(network, shares, holds):
    rows = [row for row in as_in_the_paper().rows if row.get("network") != network]
    found = Measurements(rows=[*rows, *looked(network, shares)])
    assert [claim.holds for claim in AttackerPower().claims("short", found)] == holds


def test_a_missing_network_leaves_its_claims_open():
    rows = [row for row in as_in_the_paper().rows if row.get("network") != "k128"]
    first, *others = AttackerPower().claims("short", Measurements(rows=rows))
    assert (first.holds, first.open) == (True, "")
    for claim in others:
        assert claim.holds is None and "there are no networks κ = 128 yet" in claim.open
        assert claim.verdict == f"no verdict: {claim.open}"


@pytest.mark.parametrize(
    ("shares", "verdict"), [(FIRM, "so far: holds"), (FOOLED, "so far: does not hold")]
)
def test_a_network_on_the_way_gives_a_verdict_so_far(shares, verdict):
    rows = [row for row in as_in_the_paper().rows if row.get("network") != "k128"]
    rows += [row for row in as_in_the_paper().rows if row.get("source") and "k128" in row.values()]
    rows += looked("k128", shares, version=882)
    first, second, third = AttackerPower().claims("short", Measurements(rows=rows))
    assert first.verdict == "holds here"
    assert second.verdict == f"{verdict} (κ = 128: 882 of 980 updates)"
    assert third.so_far == second.so_far


def test_without_a_network_nothing_is_claimed_of_it():
    nothing = AttackerPower().claims("short", Measurements(rows=[]))
    assert [claim.holds for claim in nothing] == [None, None, None]
    smoke = AttackerPower().claims("smoke", as_in_the_paper())
    assert [claim.holds for claim in smoke] == [None, None, None]


def test_the_transfer_matrix_has_targets_in_rows_and_sources_in_columns():
    rows = crossed("k1", 1, {"k1": 0.9, "k8": 0.2}) + crossed("k8", 1, {"k1": 0.7, "k8": 0.6})
    (figure,) = AttackerPower().figures(Measurements(rows=rows), HERE)
    assert isinstance(figure.drawing, HeatMap)
    assert figure.drawing.row_names == ("κ = 1", "κ = 8")
    (table,) = figure.drawing.tables
    assert table.cells == ((90.0, 20.0), (70.0, 60.0))


def aged(network: str, fresh: float, stale: float, robust: float, natural: float) -> list[Row]:
    old: Row = {"network": network, "version": 1274, "stale": stale}
    return [
        *looked(network, {8: fresh}, of="training", version=1274),
        *looked(network, {8: robust, 0: natural}, version=1274),
        old,
    ]


@pytest.mark.parametrize(
    ("of_32", "of_64", "holds"),
    [
        ((0.9, 0.92, 0.9, 0.98), (0.1, 0.95, 0.1, 0.97), [True, True, True]),
        ((0.1, 0.92, 0.9, 0.98), (0.9, 0.95, 0.9, 0.97), [False, False, False]),
        ((0.9, 0.92, 0.9, 0.98), (0.1, 0.95, 0.1, 0.10), [True, True, False]),
        (None, (0.1, 0.95, 0.1, 0.97), [None, True, None]),
    ],
)
def test_staleness_is_judged_by_the_gap_and_the_end(of_32, of_64, holds):
    rows = aged("s0", 0.9, 0.91, 0.92, 0.98) + aged("s64", *of_64)
    rows += aged("s32", *of_32) if of_32 else aged("s16", 0.9, 0.9, 0.9, 0.9)
    claims = Staleness().claims("short", Measurements(rows=rows))
    assert [claim.holds for claim in claims] == holds
    ends, along = Staleness().figures(Measurements(rows=rows), HERE)
    assert along.name == "fresh-and-stale"
    assert ends.name == "ends"


def test_a_verdict_on_large_staleness_is_so_far_while_one_of_its_networks_is():
    rows = aged("s0", 0.9, 0.91, 0.92, 0.98) + aged("s32", 0.9, 0.9, 0.9, 0.98)
    rows += aged("s64", 0.1, 0.95, 0.1, 0.97)
    last = Staleness().claims("short", Measurements(rows=rows))[2]
    assert (last.holds, last.so_far) == (True, "")
    rows += [{**row, "version": 98} for row in aged("s1024", 0.1, 0.5, 0.1, 0.2)]
    last = Staleness().claims("short", Measurements(rows=rows))[2]
    assert (last.holds, last.so_far) == (False, "s = 1024: 98 of 1,274 updates")


@pytest.mark.parametrize(
    ("of_0", "of_32", "said"),
    [
        ((0.9, 0.9, 0.9, 0.98), (0.05, 0.11, 0.04, 0.9), "s = 32 has hardly learned yet"),
        (
            (0.3, 0.3, 0.9, 0.98),
            (0.3, 0.3, 0.9, 0.98),
            "without staleness robust accuracy is below 50 % on training images",
        ),
    ],
)
def test_what_has_not_learned_follows_nothing(of_0, of_32, said):
    rows = aged("s0", *of_0) + aged("s32", *of_32) + aged("s64", 0.1, 0.95, 0.1, 0.97)
    first = Staleness().claims("short", Measurements(rows=rows))[0]
    assert (first.holds, first.open) == (None, said)


def test_without_robust_accuracy_none_is_lost():
    rows = aged("s0", 0.9, 0.9, 0.4, 0.98) + aged("s32", 0.9, 0.9, 0.4, 0.98)
    rows += aged("s64", 0.1, 0.95, 0.1, 0.97)
    last = Staleness().claims("short", Measurements(rows=rows))[2]
    assert last.holds is None
    assert last.open == "without staleness robust accuracy is below 50 % on test images"


def test_networks_with_fresh_steps_are_shown_beside_the_others():
    rows = aged("s0", 0.9, 0.91, 0.92, 0.98) + aged("s32", 0.9, 0.9, 0.9, 0.9)
    rows += aged("s64", 0.1, 0.95, 0.1, 0.97)
    claims = Staleness().claims("short", Measurements(rows=rows))
    rows += aged("s64f2", 0.8, 0.8, 0.85, 0.97) + aged("s1024f2", 0.7, 0.7, 0.75, 0.96)
    assert Staleness().claims("short", Measurements(rows=rows)) == claims
    ends, along = Staleness().figures(Measurements(rows=rows), HERE)
    assert isinstance(along.drawing, Curves)
    assert isinstance(ends.drawing, Curves)
    assert [panel.title for panel in along.drawing.panels] == [
        "s = 0",
        "s = 32",
        "s = 64",
        "s = 64, 2 of 8 steps fresh",
        "s = 1024, 2 of 8 steps fresh",
    ]
    attacked, _ = ends.drawing.panels
    assert [(line.name, line.x, line.y) for line in attacked.series] == [
        ("no fresh steps", (0, 32, 64), (92, 90, 10)),
        ("2 of 8 steps fresh", (64, 1024), (85, 75)),
    ]


@pytest.mark.parametrize(("weak", "strong", "holds"), [(0.1, 0.9, True), (0.8, 0.9, False)])
def test_gradients_that_say_nothing_of_each_other_are_shattered(weak, strong, holds):
    for study, ending in (("landscape", ""), ("landscape-torch", "-torch")):
        rows: list[Row] = [
            {"network": name + ending, "version": 980, "alignment": cosine, "turning": 1.0}
            for name, cosine in (("k1", weak), ("k8", strong))
        ]
        (claim,) = STUDIES[study].claims("short", Measurements(rows=rows))
        assert claim.holds is holds
        assert f"mean cosine of {weak:.2f}" in claim.found


@pytest.mark.parametrize("scale", ["smoke", "short", "paper"])
@pytest.mark.parametrize("name", ["attacker-power", "landscape", "staleness", "cycling"])
def test_a_study_from_other_initial_weights_trains_the_same_networks_from_these(name, scale):
    own = STUDIES[name].networks(scale)
    others = STUDIES[f"{name}-torch"].networks(scale)
    assert {re.sub(r"-torch(-seed1)?$", "", other) for other in others} == own.keys()
    for other, config in others.items():
        expected = own[other.partition("-")[0]]
        assert config.model == PaperNetwork(initialisation="torch")
        assert config.seed == other.endswith("-seed1")
        assert replace(config, model=expected.model, seed=0) == expected


def test_a_second_seed_counts_in_every_claim_of_its_network_once_it_is_measured():
    study = STUDIES["attacker-power-torch"]
    rows: list[Row] = []
    for row in as_in_the_paper().rows:
        named = {key: f"{row[key]}-torch" for key in ("network", "source", "target") if key in row}
        rows.append({**row, **named, "version": 60_000 if row.get("version") == 980 else 5})
    claims = study.claims("paper", Measurements(rows=rows))
    assert [claim.holds for claim in claims] == [True, True, True]
    assert not any("seed 1" in claim.found for claim in claims)
    for seen, transferred, holds in ((BLUNTED, 0.5, True), (FIRM, 0.99, False)):
        more = [*rows, *looked("k4-torch-seed1", seen, version=60_000)]
        more += crossed("k4-torch-seed1", 4, {"k4-torch-seed1": 0.98, "k8-torch": transferred})
        first, second, third = study.claims("paper", Measurements(rows=more))
        assert (first.holds, second.holds, third.holds) == (holds, True, holds)
        for claim in (first, third):
            assert "κ = 4, torch, seed 1: " in claim.found


@pytest.mark.parametrize("scale", ["smoke", "short", "paper"])
def test_a_name_means_one_network_in_all_studies_of_a_scale(scale, tmp_path):
    known = {}
    for study in STUDIES.values():
        networks = StudyRun(study=study, scale=scale, into=tmp_path).networks
        for name, config in networks.items():
            assert known.setdefault(name, config) == config
