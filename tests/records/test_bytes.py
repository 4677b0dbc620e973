"""Amounts of memory as people write them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.records.text import bytes_from, bytes_text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("4096", 4096),
        ("7 B", 7),
        ("64MiB", 64 << 20),
        ("2GB", 2_000_000_000),
        ("1.5kib", 1536),
        (" 3 TiB ", 3 << 40),
    ],
)
def test_amounts_have_units_of_a_thousand_or_of_1024(text, count):
    assert bytes_from(text) == count


@pytest.mark.parametrize("text", ["", "lots", "5 XB", "-1", "1e9", "3 MiB/s", "MiB"])
def test_what_is_no_amount_is_refused_with_examples(text):
    with pytest.raises(ValueError, match=r"such as 4096, 64MiB or 2GB"):
        bytes_from(text)


@settings(derandomize=True)
@given(st.integers(0, 1 << 50))
def test_what_is_written_is_read_back_to_three_digits(count):
    assert bytes_from(bytes_text(count)) == pytest.approx(count, rel=0.006)
