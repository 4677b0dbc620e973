"""`make gpu` at a small size on the CPU: all of its parts but those that need CUDA."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu  # pyright: ignore[reportMissingImports] - benchmarks/gpu.py
from sparring.attacks import PGD, Linf

SMALL = ["--device", "cpu", "--small"]


def kept(folder: Path) -> Any:
    return json.loads((folder / "gpu.json").read_text())


@pytest.mark.usefixtures("forked_workers")
def test_the_cpu_agrees_with_itself_and_all_is_timed(tmp_path: Path) -> None:
    assert gpu.main([*SMALL, "--out", str(tmp_path / "gpu.json")]) == 0
    found = kept(tmp_path)
    assert found["missing"] == []
    assert all(row["passed"] for row in found["comparisons"])
    assert any("with a worker" in row["what"] for row in found["comparisons"])
    assert any("the same bits" in row["what"] for row in found["comparisons"])
    networks = {row["network"] for row in found["speeds"]}
    for network in networks:
        timed = [row["what"] for row in found["speeds"] if row["network"] == network]
        assert {gpu.PLAIN, "library, float32", "library, bf16"} < set(timed)
        assert sum("standard" in what for what in timed) == 2
    assert len(networks) == 2
    assert any("CUDA graphs" in one for one in found["left_out"])


def test_without_time_everything_is_left_out_and_that_is_no_agreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main([*SMALL, "--minutes", "0", "--out", str(tmp_path / "gpu.json")]) == 1
    found = kept(tmp_path)
    assert found["comparisons"] == found["speeds"] == []
    printed = capsys.readouterr().out
    for name in ("updates", "evaluation", "certificates", "asynchronous workers"):
        assert f"missing: {name}: no time left" in printed
    assert printed.count("no time left") == len(found["missing"]) + len(found["left_out"])


def test_an_error_ends_one_part_and_counts_as_missing(tmp_path: Path) -> None:
    kit = gpu.Kit(device=torch.device("cpu"), size=gpu.SMALL, until=time.perf_counter())
    with kit.part("one"):
        raise RuntimeError("of the device\nand more")
    assert kit.missing == ["one: RuntimeError: of the device"]


def test_a_graph_captures_the_steps_of_the_attack() -> None:
    """All of the capture but the graph, which needs CUDA."""
    case = gpu.networks(gpu.SMALL)[1]
    images, labels = gpu.drawn(3, *case.shape), torch.arange(3)
    attack = PGD(Linf(0.1), steps=3)
    captured = object.__new__(gpu.CapturedAttack)
    captured._attack, captured._model = attack, case.plain
    captured._start = captured._images = images
    captured._labels = labels
    wanted = attack.search_from(images, case.plain, images, labels)
    assert torch.equal(captured._steps(), wanted)
    assert not torch.equal(wanted, images)


@pytest.mark.parametrize(
    ("value", "at_least", "passed"),
    [(1.0, False, True), (2.1, False, False), (2.1, True, True), (math.nan, False, False)],
)
def test_a_number_beyond_its_limit_fails(value: float, at_least: bool, passed: bool) -> None:
    row = gpu.Comparison(what="it", value=value, limit=2.0, at_least=at_least)
    assert row.passed == passed
    assert ("FAILED" in gpu.line(row)) != passed


@pytest.mark.skipif(torch.cuda.is_available(), reason="it needs a machine without CUDA")
def test_without_a_gpu_a_sentence_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert "--device cpu --small" in capsys.readouterr().err
