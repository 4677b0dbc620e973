"""A study's table tells of what is asked for now, and of nothing else that is in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sparring.records import MetricsLog, Row, describe
from sparring.studies.table import StudyTable

HERE = describe(threads=1, device="cpu", precision="fp32")
ELSEWHERE = replace(HERE, commit="0123", threads=2)


@dataclass(frozen=True)
class Counted:
    name: str
    subject: str = "some weights"

    def __call__(self) -> Sequence[Row]:
        return []


@pytest.fixture
def table(tmp_path: Path) -> StudyTable:
    return StudyTable(tmp_path / "table.jsonl")


def test_what_is_no_longer_asked_for_is_kept_and_left_out(table: StudyTable):
    before, now = Counted("of one@4"), Counted("of one@8")
    table.add(before, [{"right": 4}], 1.0, ELSEWHERE)
    table.add(now, [{"right": 7}, {"right": 8}], 2.0, HERE)
    assert table.found([now]).column("right") == (7.0, 8.0)
    assert (table.seconds([now]), table.environments([now])) == (2.0, (HERE,))
    assert table.environments([before, now]) == (ELSEWHERE, HERE)
    assert table.missing([before, now]) == []


def test_what_was_made_of_other_weights_is_lacking_and_gives_way(table: StudyTable):
    before, now, other = Counted("of one@8", "old"), Counted("of one@8", "new"), Counted("other")
    table.add(before, [{"right": 4}], 1.0, HERE)
    table.add(other, [{"right": 5}], 1.0, HERE)
    assert table.missing([now, other]) == [now]
    table.clear([now])
    table.add(now, [{"right": 6}], 1.0, HERE)
    assert table.found([now, other]).column("right") == (6.0, 5.0)
    assert table.missing([now, other]) == []


def test_rows_are_in_the_order_of_the_study_whichever_measurement_was_complete_first(
    table: StudyTable,
):
    first, second = Counted("of k1"), Counted("of k8")
    table.add(second, [{"right": 8}, {"right": 9}], 1.0, HERE)
    table.add(first, [{"right": 1}, {"right": 2}], 1.0, HERE)
    assert table.found([first, second]).column("right") == (1.0, 2.0, 8.0, 9.0)


def test_rows_without_their_last_one_are_cleared_away(table: StudyTable):
    table.add(Counted("whole"), [{"right": 1}], 1.0, HERE)
    MetricsLog(table.path).append({"measurement": "cut short", "right": 2})
    assert table.missing([Counted("cut short")]) == [Counted("cut short")]
    table.clear([])
    assert {row["measurement"] for row in MetricsLog(table.path).rows()} == {"whole"}
