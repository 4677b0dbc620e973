"""An evaluation is stored whole and cannot contradict itself."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparring.errors import ConfigError, RunError
from sparring.records import (
    AttackResult,
    Evaluation,
    Finding,
    Outcomes,
    Proportion,
    describe,
    from_json,
)


def of_100(successes: int) -> Proportion:
    return Proportion(successes=successes, total=100)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return Evaluation(
        suite="standard",
        threat="Linf 0.3",
        natural=of_100(98),
        attacks=(
            AttackResult(name="first", robust=of_100(93), seconds=1.5),
            AttackResult(name="second", robust=of_100(90), seconds=2.5),
        ),
        robust=of_100(90),
        num_images=100,
        seed=0,
        precision="bf16",
        seconds=4.0,
        environment=describe(threads=1, device="cpu", precision="bf16"),
    )


def test_an_evaluation_is_read_as_it_was_written(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == evaluation


def test_an_attack_never_makes_an_image_robust(evaluation: Evaluation) -> None:
    for robust, natural in ((91, 98), (90, 92)):
        with pytest.raises(ConfigError, match="cannot rise"):
            replace(evaluation, natural=of_100(natural), robust=of_100(robust))


def test_all_shares_are_of_the_same_images(evaluation: Evaluation) -> None:
    with pytest.raises(ConfigError, match="the same 99 images"):
        replace(evaluation, num_images=99)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), "one or more, or null for all; got none"),
        ((3, -1), "must lie in 0 to 65535; got -1"),
        ((3, 1 << 40), "must lie in 0 to 65535; got 1099511627776"),
    ],
)
def test_numbers_that_no_class_has_are_refused(
    evaluation: Evaluation, classes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(evaluation, classes=classes)


def test_a_missing_or_damaged_evaluation_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    with pytest.raises(RunError, match=r"cannot read .*evaluation\.json"):
        Evaluation.load(path)
    path.write_text('{"suite": "standard"}')
    with pytest.raises(ConfigError, match=r"evaluation\.json: threat must be given"):
        Evaluation.load(path)


FINE, ALARMING = (
    Finding(check="vanishing gradients", flagged=flagged, sentence="seen")
    for flagged in (False, True)
)


@pytest.mark.parametrize(
    ("findings", "images", "sentence"),
    [
        (None, None, "were not run"),
        ((), 0, "could not look at anything"),
        ((FINE,), None, "1 checks for gradient masking: nothing flagged"),
        ((FINE, FINE), 128, "2 checks for gradient masking on 128 images: nothing flagged."),
        ((FINE,), 3, "on 3 images: nothing flagged, too few"),
        ((FINE, ALARMING), 3, "on 3 images: 1 flagged"),
    ],
)
def test_what_was_not_looked_at_is_not_told_as_nothing_found(
    evaluation: Evaluation,
    findings: tuple[Finding, ...] | None,
    images: int | None,
    sentence: str,
) -> None:
    said = replace(evaluation, findings=findings, checked_images=images).checks
    assert sentence in said
    assert findings or "nothing flagged" not in said


OUTCOMES = Outcomes(
    labels=(0, 0, 0, 2, 2),
    natural=(0, 0, 1, 2, 2),
    broken_by=(None, "pgd", None, "pgd", None),
    adversarial=(0, 2, 1, 3, 2),
)


def test_classes_are_counted_apart_and_add_up_to_the_whole() -> None:
    zero, two = OUTCOMES.per_class()
    assert (zero.label, zero.natural.successes, zero.robust.successes) == (0, 2, 1)
    assert (two.label, two.natural.successes, two.robust.successes) == (2, 2, 1)
    assert zero.robust.total + two.robust.total == len(OUTCOMES.labels)


def test_a_confusion_has_every_image_once_and_the_accuracy_on_its_diagonal() -> None:
    clean, attacked = OUTCOMES.confusion(attacked=False), OUTCOMES.confusion(attacked=True)
    assert [sum(map(sum, table)) for table in (clean, attacked)] == [5, 5]
    assert [sum(table[n][n] for n in range(4)) for table in (clean, attacked)] == [4, 2]
    assert attacked[2] == (0, 0, 1, 1)


def test_an_accuracy_is_a_number(evaluation: Evaluation) -> None:
    assert float(evaluation.robust) == 0.9


def test_what_is_shown_of_an_evaluation_is_short_and_escaped(evaluation: Evaluation) -> None:
    odd = replace(evaluation, threat="<b>", findings=(FINE, ALARMING))
    assert repr(odd).splitlines() == [
        "natural 98.0 % [93.0, 99.4], robust 90.0 % [82.6, 94.5] (suite standard, <b>, 100 images)",
        f"  flag, {ALARMING.check}: {ALARMING.sentence}",
    ]
    assert str(odd) == repr(odd)
    assert "<b>" not in odd._repr_html_()
    assert from_json(Evaluation, odd.to_dict()) == odd


def test_a_data_frame_has_a_row_for_each_accuracy_and_image(monkeypatch, evaluation) -> None:
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    rows = evaluation.to_frame()
    assert [row["images"] for row in rows] == ["natural", "after first", "after second", "robust"]
    assert rows[-1]["accuracy"] == 0.9
    assert rows[-1]["low"] < 0.9 < rows[-1]["high"]
    second = {"labels": 0, "natural": 0, "broken_by": "pgd", "adversarial": 2}
    assert OUTCOMES.to_frame()[1] == second


def test_without_pandas_a_data_frame_is_refused_in_a_sentence(monkeypatch, evaluation) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        evaluation.to_frame()
