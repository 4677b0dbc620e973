"""`sparring transfer`: the transfer matrix of some runs, as tables, JSON and a picture."""

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

from sparring.cli.arguments import PLAIN, Form, flag, path, several, whole
from sparring.cli.console import (
    print_ending,
    print_json,
    print_prose,
    print_result,
    print_table,
    result_table,
)
from sparring.records import RunDirectory, TransferMatrix, to_json
from sparring.records.codec import Refusal
from sparring.records.run import RUNS
from sparring.records.text import counted, duration_text, hardware_text
from sparring.records.transfer import SIGNIFICANT, STEPS, check_contest

ABOUT = """Judge every run's classifier on attacks made on each of them, its own included.

A target that withstands attacks on itself better than those made on a source
hides its gradients: white-box accuracy overstates it. All runs must have the
same data and threat. Writes transfer.json and transfer.svg.

examples:
  sparring transfer runs/fast-20300101-120000 runs/natural-20300101-130000
  sparring transfer runs/a runs/b runs/c --steps 1 8 --images 200"""

BESIDE = 6
"""Sources of one table: more do not fit into 80 columns."""
NAME = 22
"""Characters of a network's name in a table; the list above the tables has it whole."""


def step_count(text: str) -> int:
    """An integer. Raises `Refusal`, with the place of a run's path."""
    try:
        return whole(text)
    except Refusal as error:
        is_path = "/" in text or Path(text).exists()
        hint = " Name runs before the flags: sparring transfer RUN RUN --steps 1 4 8 128"
        raise Refusal("integers", text, hint if is_path else "") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferFlags:
    """The flags of `sparring transfer`."""

    steps: Annotated[tuple[int, ...], several("--steps", step_count, "K ..."), PLAIN] = STEPS
    """Gradient steps of the attacks, one matrix each; 1 4 8 128 by default."""
    images: Annotated[int | None, flag("--images", whole, "N"), PLAIN] = None
    """Only the first N test images; 1000 by default."""
    seed: Annotated[int, flag("--seed", whole, "N"), PLAIN] = 0
    """Determines the attacks' random starts; 0 by default."""
    threads: Annotated[int, flag("--threads", whole, "N"), PLAIN] = 0
    """CPU threads; by default as many as there are cores."""
    out: Annotated[Path | None, flag("--out", path, "FOLDER"), PLAIN] = None
    """Folder for the results, new or empty; by default a new one in runs/."""
    trust_code: Annotated[bool, PLAIN] = False
    """Run code of runs that you did not train here."""
    json: Annotated[bool, PLAIN] = False
    """Print the result as JSON."""


FORM = Form(verb="transfer", flags=TransferFlags, about=ABOUT, word="RUN", many=True, needed=2)


def run(argv: list[str]) -> int:
    """Compare the runs that the words name; return the exit code."""
    flags, words = FORM.read_all(argv)
    check_contest(words, flags.steps)
    runs = [RunDirectory.open(word) for word in words]
    out = flags.out or _unused_folder()
    # torch takes seconds to load: after the words are known to be right.
    from sparring.evaluation import transfer_runs
    from sparring.report import heat_map

    found = transfer_runs(
        runs,
        out,
        steps=flags.steps,
        num_images=flags.images,
        seed=flags.seed,
        threads=flags.threads,
        progress=True,
        trust_code=flags.trust_code,
    )
    heat_map(found, out / "transfer.svg")
    if flags.json:
        answer = {"out": str(out), **to_json(found), "flags": found.flags}
        print_json(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print_matrix(found, runs, out)
    return 0


def _unused_folder() -> Path:
    """An unused name in `RUNS`; the folder is not made yet."""
    name = f"transfer-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(RUNS / free for free in names if not (RUNS / free).exists())


def print_matrix(found: TransferMatrix, runs: Sequence[RunDirectory], out: Path) -> None:
    """Print the tables, findings and the next command."""
    places = range(len(found.networks))
    print_result(
        f"PGD within {found.threat} on the first {counted(found.num_images, 'test image')}"
    )
    print_result()
    table = result_table("", "network", "natural")
    table.columns[1].justify = "left"
    for place in places:
        natural = f"{100 * found.natural[place].share:.1f} %"
        table.add_row(str(place + 1), found.networks[place], natural)
    print_table(table)
    for number in range(len(found.steps)):
        for first in places[::BESIDE]:
            print_result()
            _print_table(found, number, places[first : first + BESIDE])
    print_result()
    print_result("rows are targets, columns the sources that were attacked; * is white-box")
    print_prose(
        f"95 % intervals (Wilson, the choice of images only) are at most "
        f"{100 * found.widest:.1f} points wide"
    )
    for sentence in found.flags:
        print_prose(f"flag: {sentence}")
    if not found.flags:
        by = f"sign tests, p < {SIGNIFICANT:g}"
        print_prose(
            f"no attack from elsewhere was found to be stronger than the white-box one ({by})"
            if found.least_chance < SIGNIFICANT
            else f"{counted(found.num_images, 'image')} are too few to see whether an attack from "
            f"elsewhere is stronger than the white-box one ({by}; here p is at least "
            f"{found.least_chance:.2g})"
        )
    print_prose(hardware_text(found.environment))
    suspect = found.flagged[0][2] if found.flagged else 0
    print_ending(
        f"{out / 'transfer.json'} and transfer.svg in {duration_text(found.seconds)}",
        f"sparring evaluate {shlex.quote(str(runs[suspect].path))} --suite standard",
    )


def _print_table(found: TransferMatrix, number: int, sources: Sequence[int]) -> None:
    """Rows are targets; some sources of one number of steps."""
    steps = counted(found.steps[number], "step")
    table = result_table(f"{steps}, per cent right", *(str(source + 1) for source in sources))
    for target, name in enumerate(found.networks):
        short = name if len(name) <= NAME else f"…{name[1 - NAME :]}"
        cells = (
            f"{'*' if source == target else ''}"
            f"{100 * found.accuracy(number, source, target).share:.1f}"
            for source in sources
        )
        table.add_row(f"{target + 1} {short}", *cells)
    print_table(table)
