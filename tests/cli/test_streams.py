"""What is printed has no control characters, and output that cannot be written is one sentence."""

import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.cli.console import print_json, print_prose, print_table, printable_json, result_table
from sparring.cli.main import main
from sparring.errors import LONGEST, ConfigError, printable
from sparring.records import RunDirectory

NAUGHTY = "\x1b[31mred\x07\x9b\u202e\ud800\r"


@given(st.text(st.characters(codec=None), max_size=100))
def test_printable_text_has_no_control_character_and_can_be_encoded(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert not [each for each in shown if each < " " and each not in "\t\n"]
    assert not set(shown) & set("\x7f\x9b\u202e")
    assert printable(shown) == shown


@given(st.text(max_size=40).filter(str.isprintable))
def test_ordinary_text_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("text", ["x" * 10**6, "\x1b" * 10**6])
def test_a_message_is_no_longer_than_a_screen(text: str) -> None:
    assert len(printable(text)) == LONGEST
    assert printable(text)[-1] == "…"


@given(
    st.recursive(st.text(st.characters(codec=None)), st.lists), st.sampled_from(["utf-8", "ascii"])
)
def test_json_says_the_same_without_control_characters(value: object, encoding: str) -> None:
    text = printable_json(json.dumps(value, ensure_ascii=False), encoding)
    text.encode(encoding)
    assert json.loads(text) == value
    assert not set(text) & set("\x7f\x9b\u202e")


def test_results_are_printed_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_prose(NAUGHTY)
    table = result_table("name", "value")
    table.add_row(NAUGHTY, NAUGHTY)
    print_table(table)
    print_json(json.dumps(NAUGHTY, ensure_ascii=False))
    said = capsys.readouterr().out
    assert "red" in said
    assert not set(said) & set("\x1b\x07\x9b\u202e\ud800\r")


def test_an_error_is_printed_without_control_characters_and_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: list[str]) -> int:
        raise ConfigError(NAUGHTY + "x" * 5000)

    monkeypatch.setattr("sparring.cli.main._dispatch", refuse)
    assert main(["inspect"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: \\x1b[31mred\\x07\\x9b\\u202e\\ud800\\r")
    assert len(said) == LONGEST + len("error: \n")


WORDS = [["--help"], ["--version"], ["study", "list"], ["train", "--dry-run"], ["train", "--help"]]


class Full(io.StringIO):
    def write(self, text: str, /) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_full_standard_output_is_one_sentence(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.count("error: ") == said.count("standard output cannot be written: No space") == 1


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_closed_standard_output_is_one_sentence(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(words) == 1
    assert sys.stdout is None
    assert "Bad file descriptor" in capsys.readouterr().err


def test_standard_error_may_be_full_or_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in (Full(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(["--version"]) == 0
        assert main(["nothing"]) == 2
    assert capsys.readouterr().out.count("sparring") == 2


class Left(io.StringIO):
    """A pipe whose reader has left."""

    def write(self, text: str, /) -> int:
        raise BrokenPipeError


def test_a_run_is_trained_and_stored_though_the_reader_of_its_output_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--model", "small-cnn", "--updates", "2", "--batch-size", "4"]
    with monkeypatch.context() as here:
        here.setattr(sys, "stdout", Left())
        here.setattr(sys, "stderr", Left())
        assert main([*words, "--set", "validation.images=4", "--out", str(tmp_path / "run")]) == 141
    assert RunDirectory(tmp_path / "run").saved_updates == 2
    assert main(["study", "list", "table1"]) == 0
    out = capsys.readouterr().out
    assert "attacker-power" in out
    assert "trained for" not in out
