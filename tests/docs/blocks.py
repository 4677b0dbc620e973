"""The code blocks of a page, and what is to be done with each.

A comment that readers do not see, on the line above a block, says what its language does not:

    <!-- not run: REASON -->           a program or commands that a test cannot run, and why
    <!-- run with: OLD -> NEW; ... -->  these words are replaced before it is run: tiny settings
    <!-- file: NAME -->                it is the contents of this file, which is written first

and once for all commands of a page: <!-- commands of this page are not run: REASON -->
A page that needs a package which is no dependency names it: <!-- page needs: PACKAGE -->
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SITE = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "results").rglob("*.md")),
]
"""Every page of the site that may hold a block."""

RUN = ("python", "sh")
DRAWN = ("text",)
"""Output and drawings: nothing to run."""

_FENCE = re.compile(r"^( *)(`{3,}|:{3,})(.*)$")
_COMMENT = re.compile(r"<!-- (not run|run with|file|commands of this page are not run): (.*?) -->")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    text: str
    excuse: str = ""
    """Why it is not run; empty if it is."""
    replaced: tuple[tuple[str, str], ...] = ()
    file: str = ""
    """The file that it is the contents of."""

    @property
    def where(self) -> str:
        return (
            f"{self.page.relative_to(ROOT) if self.page.is_absolute() else self.page}:{self.line}"
        )

    @property
    def runnable(self) -> str:
        """The text with tiny settings. Raises `ValueError` for words that are not in it."""
        text = self.text
        for old, new in self.replaced:
            if old not in text:
                raise ValueError(f"{self.where}: there is no {old!r} to replace")
            text = text.replace(old, new)
        return text


def needed(page: Path) -> list[str]:
    """Packages without which the blocks of a page cannot run."""
    return re.findall(r"<!-- page needs: (\w+) -->", page.read_text())


def blocks_of(page: Path, text: str | None = None) -> list[Block]:
    """All blocks of a page but Sphinx's own directives, in order."""
    found: list[Block] = []
    lines = (page.read_text() if text is None else text).splitlines()
    place, excuse_of_page = 0, ""
    while place < len(lines):
        if comment := _COMMENT.match(lines[place]):
            excuse_of_page = excuse_of_page or _page_excuse(comment)
        fence = _FENCE.match(lines[place])
        if not fence:
            place += 1
            continue
        end = next(i for i in range(place + 1, len(lines)) if lines[i].strip() == fence[2])
        if not fence[3].startswith("{"):
            inside = [line.removeprefix(fence[1]) for line in lines[place + 1 : end]]
            above = _COMMENT.match(lines[place - 1].strip()) if place else None
            found.append(_block(page, place + 1, fence[3], inside, above, excuse_of_page))
        place = end + 1
    return found


def _page_excuse(comment: re.Match[str]) -> str:
    return comment[2] if comment[1].startswith("commands") else ""


def _block(  # noqa: PLR0913 - where it is and what it says
    page: Path,
    line: int,
    language: str,
    inside: list[str],
    above: re.Match[str] | None,
    excuse_of_page: str,
) -> Block:
    what, said = (above[1], above[2]) if above else ("", "")
    pairs = said.split("; ") if what == "run with" else []
    excuse = said if what == "not run" else excuse_of_page if language == "sh" else ""
    return Block(
        page=page,
        line=line,
        language=language,
        text="\n".join(inside) + "\n",
        excuse=excuse,
        replaced=tuple((old, new) for old, _, new in (pair.partition(" -> ") for pair in pairs)),
        file=said if what == "file" else "",
    )
