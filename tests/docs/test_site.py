"""The site: built without a warning, from the program itself, and in need of no network."""

import re
import subprocess
import sys

import pytest

from docs.blocks import ROOT
from sparring.cli.main import VERBS

pytest.importorskip("sphinx", reason="the extra docs is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    into = tmp_path_factory.mktemp("site")
    command = ["sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-b", "html", "-c", "docs"]
    built = subprocess.run(
        [sys.executable, "-m", *command, ".", str(into)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return into


def test_a_page_loads_nothing_from_elsewhere(site):
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]+src=[\"']?(?:https?:)?//"
        r"|<link[^>]+rel=[\"']?(?:stylesheet|preload|icon)[^>]+href=[\"']?(?:https?:)?//"
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert [page.name for page in pages if loads.search(page.read_text())] == []
    outside = re.compile(r"@import|url\([\"']?(?:https?:)?//")
    assert [sheet.name for sheet in site.rglob("*.css") if outside.search(sheet.read_text())] == []


def test_help_settings_and_docstrings_are_the_programs_own(site):
    reference = site / "docs" / "reference"
    page = (reference / "command-line.html").read_text()
    assert all(f'id="sparring-{verb}"' in page for verb in VERBS)
    settings = (reference / "settings.html").read_text()
    assert "checkpoint_every" in settings
    assert "Updates between two checkpoints" in settings
    functions = (reference / "api" / "training.html").read_text()
    assert 0 < functions.index('id="sparring.training.train"') < functions.index('id="classes"')


def test_every_page_has_a_title_of_its_own_and_its_code_can_be_copied(site):
    pages = [page.read_text() for page in (site / "docs").rglob("*.html")]
    pages.append((site / "README.html").read_text())
    titles = [re.findall(r"<h1>(.*?)<a ", page)[0] for page in pages]
    assert len(titles) == len(set(titles))
    assert all("copy.js" in page for page in pages)


def test_the_first_page_leads_to_all_others(site):
    assert "url=docs/index.html" in (site / "index.html").read_text()
    first = (site / "docs" / "index.html").read_text()
    assert "tutorial.html" in first
