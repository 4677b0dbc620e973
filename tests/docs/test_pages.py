"""Every code block of the documentation is run, or says why not."""

import importlib.util
import re
from pathlib import Path

import pytest

from docs.blocks import ROOT, SITE, blocks_of, needed
from docs.running import run_page


@pytest.mark.usefixtures("forked_jobs", "forked_workers")
@pytest.mark.parametrize("page", SITE, ids=[str(page.relative_to(ROOT)) for page in SITE])
def test_the_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    for package in needed(page):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = blocks_of(page)
    done = run_page(blocks)
    handled = [where for places in done.values() for where in places]
    assert sorted(handled) == sorted(block.where for block in blocks)


def test_no_fence_of_any_page_escapes_the_reader():
    for page in SITE:
        opened = re.findall(r"^ *```(?=[^`{\s])", page.read_text(), re.MULTILINE)
        assert len(opened) == len(blocks_of(page)), page


def test_every_excuse_has_a_reason():
    for page in SITE:
        for block in blocks_of(page):
            if block.excuse:
                assert len(block.excuse) > 8, block.where


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```\nsparring train\n```", "a block of no language"),
        ("```bash\nsparring train\n```", "a block of bash"),
        ("```sh\nmake train\n```", "nobody knows how to run make"),
        ("```text\nsparring train\n```", "looks like a program"),
        ("<!-- run with: 300 -> 2 -->\n```sh\nsparring train\n```", "no '300' to replace"),
        ("<!-- not run: GPU -->\n```python\nx =\n```", "invalid syntax"),
        ("<!-- not run: GPU -->\n```sh\nsparring tarin\n```", "no verb tarin"),
        ("<!-- not run: GPU -->\n```sh\nsparring train --gpu\n```", "--gpu"),
        ("```python\nassert False, 'ran'\n```", "ran"),
        ("```sh\nsparring inspect nowhere\n```", "sparring inspect nowhere"),
    ],
)
def test_a_block_that_is_wrong_or_unexplained_fails(text, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, AssertionError, SyntaxError), match=complaint):
        run_page(blocks_of(Path("page.md"), text + "\n"))


def test_blocks_share_names_files_and_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (
        "<!-- file: nets.py -->\n```python\nwidth = 3\n```\n"
        "<!-- run with: 300 -> 2 -->\n```python\nnumber = 300\n```\n"
        "1. in a list\n\n   ```python\n   import nets\n   assert (number, nets.width) == (2, 3)\n"
        "   ```\n```{toctree}\n```\n```text\na drawing\n```\n"
        "<!-- not run: days of training -->\n```sh\nsparring train --preset paper\n```\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = run_page(blocks_of(Path("page.md"), page))
    assert [len(where) for where in done.values()] == [2, 1, 1, 1]
