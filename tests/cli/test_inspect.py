"""What inspect prints about an engine, from rows whose every number is known."""

import json
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from capacity.engine_rows import row
from report.pages import a_run
from sparring.capacity import EngineStats
from sparring.cli.inspect import BARS, engine_lines, histogram
from sparring.cli.main import main
from sparring.errors import ConfigError
from sparring.records import Evaluation, Row
from sparring.records.files import file_digest

SOURCE = {"policy": {"kind": "FixedLag", "lag": 3, "period": 1, "split": 1}}


def test_the_page_says_who_was_stale_busy_and_to_blame():
    rows = [row(step, staleness=min(step - 1, 3)) for step in range(1, 101)]
    rows += [row(101, worker="0+trainer")]
    totals = {"leased": 102, "done": 101, "lost": 1, "late": 0, "trained": 101}
    ledger: Row = {"step": 101, **totals, "published": 102, "skipped": 0, "deaths": 1}
    rows.append(ledger)
    engine = EngineStats.from_rows(rows, helps=False)
    assert engine is not None
    text = "\n".join(engine_lines(engine, SOURCE, "config.json"))
    assert "4 workers" in text
    assert "3 at most by the policy" in text
    assert "3  ######################################## 98" in text
    assert "0.0 old when leased, 2.0 in flight, 1.0 waiting" in text
    assert "leases done: worker 0 101, trainer 1" in text
    assert "102 leased, 101 done, 1 lost, 0 late, 101 trained, 102 published" in text
    assert "bottleneck: workers; advised: 6 workers" in text


@pytest.mark.parametrize("is_there", [True, False])
def test_damaged_or_missing_weights_are_called_so(is_there: bool, tmp_path: Path, capsys) -> None:
    run = a_run(tmp_path / "run")
    replace(Evaluation.load(run.evaluation), weights=file_digest(run.weights)).save(run.evaluation)
    run.resume.touch()
    run.weights.unlink()
    if is_there:
        run.weights.write_bytes(b"damaged")
    fault = f"weights.safetensors is {'damaged' if is_there else 'missing'}"
    assert main(["inspect", str(run.path)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{run.path}: not finished, 500 of 500 updates done, {fault}\n")
    assert "earlier weights" not in told
    assert told.endswith(f"next: sparring train --resume {shlex.quote(str(run.path))}\n")
    assert main(["inspect", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights_fault"] == fault


@pytest.mark.parametrize("place", ["source.fresh_steps", "attack.steps"])
def test_a_wrong_number_of_steps_is_named_by_file_and_place(place):
    config = {"source": {**SOURCE}, "attack": {}}
    section, name = place.split(".")
    config[section][name] = "8"
    with pytest.raises(ConfigError, match=rf'^here: {place} must be an integer; got "8"\.$'):
        EngineStats.from_run([], config, "here")


def test_many_ages_share_bars_and_none_is_lost():
    ages = Counter({age: age + 1 for age in range(100)})
    lines = list(histogram(ages))
    assert len(lines) <= BARS
    assert sum(int(line.rpartition(" ")[2].replace(",", "")) for line in lines) == ages.total()
    assert "0-12" in lines[0]
    assert "91-99" in lines[-1]
