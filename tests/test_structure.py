"""The packages are as docs/architecture.md draws them, without circles, none a heap of files."""

import importlib
import re
from functools import reduce
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sparring"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| .+ \| (.+) \|$", re.MULTILINE)
STEP = re.compile(r"^\d\. `([\w/]+)\.py`: `([\w.]+)`", re.MULTILINE)
MOST_FILES, MOST_LINES = 19, 460
"""Files of a package, and lines of a file."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("sparring", cache_dir=None)


def allowed() -> dict[str, set[str]]:
    """What each package may import, directly or not, by the table; from the lowest on."""
    found: dict[str, set[str]] = {}
    for package, names in ROW.findall(ARCHITECTURE):
        if names == "everything":
            found[package] = set(found)
        else:
            named = re.findall(r"`(\w+)`", names)
            found[package] = {*named, *(lower for name in named for lower in found[name])}
    return found


def test_the_table_of_packages_is_all_that_there_is(graph):
    above = graph.find_children("sparring") - {"sparring.__main__"}
    assert {name.removeprefix("sparring.") for name in above} == set(allowed())


def test_packages_import_only_what_the_table_allows(graph):
    may = allowed()
    for importer in graph.modules:
        package = importer.split(".")[1] if "." in importer else ""
        if package not in may:
            continue
        for imported in graph.find_modules_directly_imported_by(importer):
            lower = imported.split(".")[1] if "." in imported else package
            assert lower == package or lower in may[package], f"{importer} imports {imported}"


def test_no_modules_import_each_other_in_a_circle(graph):
    """Not even by an import in a function, or one for type checkers."""
    TopologicalSorter(
        {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    ).prepare()


@pytest.mark.parametrize(("module", "name"), STEP.findall(ARCHITECTURE))
def test_every_call_of_the_walk_of_a_batch_exists(module: str, name: str) -> None:
    found: Any = importlib.import_module(f"sparring.{module.replace('/', '.')}")
    assert callable(reduce(getattr, name.split("."), found))


def test_the_walk_has_at_most_eight_calls():
    first, second = re.split(r"^Made by a worker", ARCHITECTURE, flags=re.MULTILINE)
    assert len(STEP.findall(first)) == 8
    assert len(STEP.findall(second)) == 6


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCE.rglob("*.py")}), ids=str)
def test_a_package_is_no_heap_and_a_file_is_one_thought(folder: Path) -> None:
    files = list(folder.glob("*.py"))
    assert len(files) <= MOST_FILES
    for file in files:
        assert len(file.read_text().splitlines()) <= MOST_LINES, file
