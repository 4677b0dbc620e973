"""Examples on disk: what was written is read again, and sizes must agree."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from report.pages import some_examples
from sparring.errors import ConfigError
from sparring.records import Examples
from sparring.records.evaluation import MOST_CLASSES


def test_examples_are_read_as_they_were_written(tmp_path: Path) -> None:
    some_examples().save(tmp_path / "examples.json")
    assert Examples.load(tmp_path / "examples.json") == some_examples()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 4}, "image 0 must hold 8 bytes in base64; got 6"),
        ({"channels": 2}, "1 or 3 channels; got 2"),
        ({"height": -2, "width": -3}, "height and width .* must be 1 or more; got -2 and -3"),
        ({"height": 0, "images": ()}, "height and width .* must be 1 or more; got 0 and 3"),
    ],
)
def test_another_size_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(some_examples(), **change)


@pytest.mark.parametrize("name", ["label", "natural", "adversarial"])
@pytest.mark.parametrize("number", [-1, MOST_CLASSES])
def test_a_number_that_no_class_has_is_refused(name: str, number: int) -> None:
    with pytest.raises(ConfigError, match=rf"classes of an example image .*; got {number}"):
        replace(some_examples().images[0], **{name: number})


def test_pixels_that_are_no_base64_are_refused() -> None:
    image = replace(some_examples().images[0], attacked="no base64")
    with pytest.raises(ConfigError, match="got -1"):
        replace(some_examples(), images=(image,))
