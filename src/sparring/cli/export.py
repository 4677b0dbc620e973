"""`sparring export`: a run's network in a folder of its own, to be used or shared elsewhere."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import tyro

from sparring.cli.arguments import PLAIN, Form, flag, one_of, path, several
from sparring.cli.console import print_ending, print_json, print_result, print_table, result_table
from sparring.records import RunDirectory

if TYPE_CHECKING:
    from sparring.exporting import Exported, FormatName

ABOUT = """Put a run's network into a folder: in one format or more, with a model card.

RUN is a run directory; left out, the newest in runs/. Pixels in [0, 1] go in
and logits come out, normalisation included. Each file must reproduce the logits
of test images. onnx needs the extra sparring[onnx].

examples:
  sparring export
  sparring export runs/fast-20300101-120000 --to safetensors torch onnx
  sparring export runs/fast-20300101-120000 -o my-classifier"""

EXPORTS = Path("exports")
"""The default folder of exports, each named as its run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFlags:
    """The flags of `sparring export`."""

    to: Annotated[
        tuple[str, ...],
        several("--to", one_of("safetensors", "torch", "onnx"), "FORMAT ..."),
        PLAIN,
    ] = ("safetensors",)
    """Some of safetensors (the default), torch (a .pt2 program), onnx."""
    out: Annotated[
        Path | None,
        flag("--out", path, "FOLDER"),
        PLAIN,
        tyro.conf.arg(aliases=["-o"], help_behavior_hint=""),
    ] = None
    """New or empty; by default in exports/, named as the run."""
    trust_code: Annotated[bool, PLAIN] = False
    """Run code of a run that you did not train here."""
    json: Annotated[bool, PLAIN] = False
    """Print the result as JSON."""


FORM = Form(verb="export", flags=ExportFlags, about=ABOUT, word="RUN")


def run(argv: list[str]) -> int:
    """Export the run that the words name; return the exit code."""
    flags, word = FORM.read(argv)
    chosen = RunDirectory.chosen(word)
    # torch takes seconds to load: after the words are known to be right.
    from sparring.exporting import export

    out = flags.out or EXPORTS / chosen.path.resolve().name
    formats = cast("tuple[FormatName, ...]", flags.to)
    done = export(chosen, out, formats=formats, trust_code=flags.trust_code)
    if flags.json:
        answer = {
            "run": str(chosen.path),
            "folder": str(done.folder),
            "files": list(done.files),
            "differences": done.differences,
            "checked_images": done.checked_images,
            "evaluated": done.evaluated,
        }
        print_json(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        _print(done)
    return 0


def _print(done: "Exported") -> None:
    table = result_table("format", "largest difference of a logit")
    for name, value in done.differences.items():
        table.add_row(name, "none, bit for bit" if value == 0 else f"{value:.1g}")
    print_table(table)
    print_result(f"on {done.checked_images} test images; in units of the largest logit, or of 1")
    if not done.evaluated:
        print_result("note: these weights were not evaluated, and the card says so")
    card = done.folder / "README.md"
    print_ending(f"{done.folder}: {', '.join(done.files)}", f"less {shlex.quote(str(card))}")
