"""One self-contained page of studies and runs: no network, no other file."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from jinja2 import BaseLoader, Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from sparring.errors import ConfigError, RunError
from sparring.records import RunDirectory, StudyResult
from sparring.records.files import from_home, run_errors, write_atomically
from sparring.records.text import count_text, counted, duration_text, hardware_text
from sparring.report.images import amplification
from sparring.report.run_story import RunStory
from sparring.report.sections import Section, Shown, comparison, sections, verdicts

MEGABYTE = 1_000_000
USUAL = 5 * MEGABYTE
"""Bytes above which a page counts as large."""
FILES = ("study.json", "config.json")
"""The files that make a folder a study's folder or a run directory."""
WITHIN = ("*/study.json", "*/*/study.json", "*/config.json")
"""Their places in a folder of runs, of studies, or of studies by scale."""
FIRST = "staleness"
"""The study that a page begins with: its collapse explains the paper best."""
ENDINGS = (".html", ".htm")
"""Endings that the name of a page may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A written page."""

    path: Path
    size: int
    """Bytes."""
    largest: str
    """The largest figure, with the name of its section; empty if there is none."""
    largest_size: int
    """Characters of that figure's drawings and data."""


def stories_in(path: Path | str) -> list[Path]:
    """Folders of the studies and runs in a folder; the folder itself if it is one, or holds none.

    By name, the study `FIRST` before the others. Studies of one scale or of all are found, the
    networks that they share are not.
    """
    path = from_home(path)
    if path.name in FILES:
        return [path.parent]
    with run_errors("open", path):
        if any((path / name).is_file() for name in FILES):
            return [path]
        inside = {file.parent for each in WITHIN for file in path.glob(each)}
    return sorted(inside, key=lambda folder: (folder.name != FIRST, folder)) or [path]


def read_story(path: Path | str) -> StudyResult | RunStory:
    """A study or a run from its folder.

    Raises `RunError` if it is neither, `RunError` or `ConfigError` if its files are damaged.
    """
    path = from_home(path)
    with run_errors("open", path):
        is_study = (path / "study.json").is_file()
    if is_study:
        return StudyResult.load(path / "study.json")
    try:
        run = RunDirectory.open(path)
    except RunError as error:
        raise RunError(f"{error} A study's folder must hold study.json.") from error
    return RunStory.read(run)


def write_page(stories: Sequence[StudyResult | RunStory], path: Path) -> Written:
    """Draw everything into one page. The same stories give the same file.

    The file is written whole or not at all. Cost: about 0.1 s for each panel.
    Raises `ConfigError` for no stories or a name that ends in none of `ENDINGS`, `RunError` if the
    file cannot be written.
    """
    path = from_home(path)
    check_page_name(path)
    if not stories:
        raise ConfigError.expected("a report needs a run or a study", "none", "Name one.")
    parts = sections(stories)
    content = page(parts, comparison(stories)).encode(errors="replace")
    with run_errors("write", path):
        write_atomically(path, content)
    sizes = {
        f"{shown.figure.title} of {part.name}": len(shown.data)
        + sum(len(panel.svg) for panel in shown.panels)
        for part in parts
        for shown in part.figures
    }
    largest = max(sizes, key=lambda name: sizes[name], default="")
    return Written(
        path=path, size=len(content), largest=largest, largest_size=sizes.get(largest, 0)
    )


def check_page_name(path: Path) -> None:
    """Raise `ConfigError` for a name that ends in none of `ENDINGS`."""
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError.expected(
            f"a report's name must end in {' or '.join(ENDINGS)}",
            path,
            f"Take {path.with_suffix(ENDINGS[0])}.",
        )


def page(parts: Sequence[Section], compared: Sequence[Shown] = ()) -> str:
    """The page in HTML."""
    template = _environment().get_template("page.html")
    script = _resource("page.js")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return template.render(
        parts=parts,
        title=_title(parts),
        verdicts=verdicts(parts),
        compared=compared,
        style=Markup(_resource("page.css")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        version=_version(),
    )


def _title(parts: Sequence[Section]) -> str:
    """The name of a single section, else the number of studies and runs."""
    if len(parts) == 1:
        return parts[0].name
    studies = sum(part.study is not None for part in parts)
    counts = ((studies, "study", "studies"), (len(parts) - studies, "run", "runs"))
    return ", ".join(f"{n} {one if n == 1 else more}" for n, one, more in counts if n)


def _environment() -> Environment:
    loader: BaseLoader = FunctionLoader(_resource)
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": count_text,
        "counted": counted,
        "duration": duration_text,
        "hardware": hardware_text,
        "percent": lambda share: f"{100 * share:.1f} %",
        "amplification": amplification,
        "interval": lambda ends: f"[{100 * ends.low:.1f}, {100 * ends.high:.1f}]",
        "drawn": Markup,
    }
    return environment


def _resource(name: str) -> str:
    return (files("sparring.report") / "assets" / name).read_text(encoding="utf-8")


def _version() -> str:
    try:
        return version("sparring")
    except PackageNotFoundError:
        return ""
