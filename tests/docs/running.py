"""Runs the blocks of a page, in order, in one folder and one namespace."""

import contextlib
import importlib
import io
import runpy
import shlex
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from unittest.mock import patch

from docs.blocks import DRAWN, ROOT, RUN, Block
from sparring.cli.main import VERBS, main

Counts = dict[str, list[str]]
"""Where the blocks are that were run, written, excused or drawn."""


def run_page(blocks: Sequence[Block]) -> Counts:
    """Run what can be run, in the current folder; say what was done with every block."""
    names: dict[str, object] = {"__name__": "page"}
    done: Counts = {"run": [], "written": [], "excused": [], "drawn": []}
    for block in blocks:
        done[run_block(block, names)].append(block.where)
    return done


def run_block(block: Block, names: dict[str, object]) -> str:
    """What was done with a block. Raises `ValueError` for one that nothing is known of."""
    if block.file:
        Path(block.file).write_text(block.runnable)
        sys.modules.pop(Path(block.file).stem, None)  # another page may have such a file, too
        importlib.invalidate_caches()
        return "written"
    if block.language in DRAWN:
        check_drawing(block)
        return "drawn"
    if block.language not in RUN:
        raise ValueError(f"{block.where}: a block of {block.language or 'no language'}")
    if block.excuse:
        check_excused(block)
        return "excused"
    if block.language == "sh":
        for words in commands(block.runnable):
            run_command(words, block.where)
    else:
        lines = "\n" * block.line  # so that tracebacks name the page's line
        exec(compile(lines + block.runnable, block.where, "exec"), names)
    return "run"


def commands(text: str) -> list[list[str]]:
    """The words of each command, comments left out."""
    lines = text.replace("\\\n", " ").replace("; ", "\n").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_command(words: Sequence[str], where: str) -> str:
    """Run `sparring …` or `python FILE …` here, in this process; return what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        if words[0] == "sparring":
            assert main(list(words[1:])) == 0, f"{where}: {shlex.join(words)}"
        elif words[0] == "python":
            file = ROOT / words[1] if words[1].startswith("examples/") else Path(words[1])
            with patch.object(sys, "argv", [words[1], *words[2:]]):
                runpy.run_path(str(file), run_name="__main__")
        else:
            raise ValueError(f"{where}: nobody knows how to run {words[0]} here")
    return said.getvalue()


def check_drawing(block: Block) -> None:
    """A drawing must be none of what is run."""
    for line in block.text.splitlines():
        if line.startswith(("sparring ", "python ", "import ", "from ", "pip ", "make ", "$ ")):
            raise ValueError(f"{block.where}: looks like a program: {line}")


def check_excused(block: Block) -> None:
    """What is not run must at least be there: the program compiles, verbs and flags exist."""
    if block.language == "python":
        compile(block.text, block.where, "exec")
        return
    for words in commands(block.text):
        if words[0] != "sparring":
            continue
        verb = words[1]
        assert verb in VERBS, f"{block.where}: no verb {verb}"
        for word in words[2:]:
            flag = word.partition("=")[0]
            assert not flag.startswith("--") or flag in help_words(verb), f"{block.where}: {flag}"


@cache
def help_words(verb: str) -> frozenset[str]:
    """Everything that a verb's help page names."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        main([verb, "--help"])
    return frozenset(page.getvalue().replace(",", " ").split())
