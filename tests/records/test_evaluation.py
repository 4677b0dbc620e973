"""An evaluation is stored whole and cannot contradict itself."""

from dataclasses import replace
from pathlib import Path

import pytest

from sparring.errors import ConfigError, RunError
from sparring.records import AttackResult, Evaluation, Finding, Proportion, describe


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
        with pytest.raises(ConfigError, match="can only lower"):
            replace(evaluation, natural=of_100(natural), robust=of_100(robust))


def test_all_shares_are_of_the_same_images(evaluation: Evaluation) -> None:
    with pytest.raises(ConfigError, match="the same 99 images"):
        replace(evaluation, num_images=99)


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
