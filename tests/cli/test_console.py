"""Numbers and sentences as people write and read them."""

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparring.cli.console import RESULTS, WIDTH, print_prose, print_table, result_table
from sparring.records.text import (
    count_text,
    counted,
    duration_text,
    eps_from,
    eps_text,
    kind_text,
    setting_text,
)


@pytest.mark.parametrize("levels", range(1, 256))
def test_whole_grey_levels_survive_printing_and_reading(levels):
    text = eps_text(levels / 255)
    assert text == f"{levels / 255:g}" if levels % 51 == 0 else f"{levels}/255"
    assert eps_from(text) == levels / 255


@pytest.mark.parametrize("eps", [0.3, 0.25, 1e-3, 1e-9, 1.0, 2.0])
def test_other_sizes_are_decimals(eps):
    assert eps_text(eps) == f"{eps:g}"
    assert float(eps_text(eps)) == eps_from(eps_text(eps)) == eps


@pytest.mark.parametrize("text", ["8/0", "", "nan", "inf", "-inf", "8:255", "0.3.1", "1/2/3"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match=r"eps must be a number such as 0\.3 or 8/255; got "):
        eps_from(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (102, "1 min 42 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_never_show_sixty(seconds, text):
    assert duration_text(seconds) == text


def test_thousands_stand_apart():
    assert [count_text(count) for count in (0, 999, 60_000)] == ["0", "999", "60,000"]
    things = [counted(count, "update") for count in (0, 1, 1000)]
    assert things == ["0 updates", "1 update", "1,000 updates"]


WORDS = st.lists(
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=90)
)


@example(words=["runs/:x:", "[bold]"], first="")
@given(words=WORDS, first=st.sampled_from(["", "  ", "claimed  "]))
def test_prose_keeps_every_word_in_lines_that_fit(words, first):
    rest = " " * (len(first) + 2)
    with RESULTS.capture() as said:
        print_prose(" ".join(words), first=first, rest=rest)
    lines = said.get().removesuffix("\n").split("\n")
    assert lines[0].startswith(first if words else "")
    assert all(line.startswith(rest) for line in lines[1:])
    heads = [first if words else "", *[rest] * (len(lines) - 1)]
    bare = [line.removeprefix(head) for line, head in zip(lines, heads, strict=True)]
    assert " ".join(bare).split() == words
    for line, words_of_it in zip(lines, bare, strict=True):
        assert len(line) <= WIDTH or " " not in words_of_it


def test_a_table_that_may_not_fold_keeps_long_cells_whole_in_a_pipe(capsys):
    table = result_table("image", "class")
    path = "/a/very/long/path/" * 9 + "one.png"
    table.add_row(path, "cat\ndog")
    print_table(table, fold=False)
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == [path, "cat\\ndog"]


def test_settings_are_words_and_not_python():
    steps = [{"until": 0.5, "steps": 2}, {"until": 0.8, "steps": 3}]
    assert setting_text(steps) == "until 0.5, steps 2; until 0.8, steps 3"
    assert setting_text([]) == "none"


def test_a_kind_has_its_article():
    kinds = [kind_text(value) for value in (3, "a", None, sys, OSError())]
    assert kinds == ["an int", "a str", "None", "a module", "an OSError"]
