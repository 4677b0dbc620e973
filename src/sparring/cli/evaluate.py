"""`sparring evaluate`: how robust a run's classifier is, with a 95 % interval."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from sparring.cli.arguments import PLAIN, Form, flag, source, whole
from sparring.cli.console import (
    print_ending,
    print_json,
    print_prose,
    print_result,
    print_table,
    result_table,
)
from sparring.records import Evaluation, Proportion, RunDirectory, to_json
from sparring.records.text import count_text, counted, duration_text, hardware_text

if TYPE_CHECKING:
    from sparring.models import Precision

ABOUT = """Measure natural and robust accuracy on the test images, under the run's threat.

RUN is a run directory; left out, the newest in runs/. After a stop, the same
command resumes the evaluation.

examples:
  sparring evaluate
  sparring evaluate runs/fast-20300101-120000 --images 1000
  sparring evaluate --suite standard
  sparring evaluate runs/fast-20300101-120000 --data photographs/"""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateFlags:
    """The flags of `sparring evaluate`."""

    suite: Annotated[str, flag("--suite", str, "NAME"), PLAIN] = "pgd"
    """Attacks: pgd (the default, quick), pgd-40, pgd-100x5, standard (for publication), or a
    suite of your own, file.py:name."""
    images: Annotated[int | None, flag("--images", whole, "N"), PLAIN] = None
    """Only the first N test images."""
    data: Annotated[str | None, flag("--data", source, "PATH"), PLAIN] = None
    """Evaluate on the test set of other data, into a folder of its own."""
    seed: Annotated[int, flag("--seed", whole, "N"), PLAIN] = 0
    """Determines the attacks' random starts; 0 by default."""
    threads: Annotated[int, flag("--threads", whole, "N"), PLAIN] = 0
    """CPU threads; by default as many as there are cores."""
    batch_size: Annotated[int | None, flag("--batch-size", whole, "N"), PLAIN] = None
    """Images that pass through the network at once; by default 128 on a CPU, 1024 elsewhere."""
    precision: Annotated[str, flag("--precision", str, "P"), PLAIN] = "auto"
    """Of the search: fp32, bf16 (then fp32 for the rest), or auto, the faster."""
    no_checks: Annotated[bool, PLAIN] = False
    """Leave out the checks for gradient masking."""
    trust_code: Annotated[bool, PLAIN] = False
    """Run code of a run that you did not train here."""
    json: Annotated[bool, PLAIN] = False
    """Print the result as JSON."""


FORM = Form(
    verb="evaluate",
    flags=EvaluateFlags,
    about=ABOUT,
    word="RUN",
    otherwise=" A run is judged under its own threat; for any other network or threat: "
    "sparring.evaluate(...) in Python.",
)


def run(argv: list[str]) -> int:
    """Evaluate the run that the words name; return the exit code."""
    flags, word = FORM.read(argv)
    chosen = RunDirectory.chosen(word)
    # torch takes seconds to load: after the words are known to be right.
    from sparring.evaluation import evaluate_run
    from sparring.evaluation.run import kept_as, results_on

    found = evaluate_run(
        chosen,
        suite=flags.suite,
        other_data=flags.data,
        num_images=flags.images,
        seed=flags.seed,
        threads=flags.threads,
        precision=cast("Precision", flags.precision),
        checks=not flags.no_checks,
        batch_size=flags.batch_size,
        progress=True,
        trust_code=flags.trust_code,
    )
    if flags.json:
        answer = {"run": str(chosen.path), **to_json(found)}
        print_json(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        place = chosen if flags.data is None else results_on(chosen, flags.data)
        _print(found, chosen, place, kept_as(place, found))
    return 0


def _print(found: Evaluation, run: RunDirectory, place: RunDirectory, aside: str) -> None:
    from sparring.evaluation import SUITES

    known = SUITES.get(found.suite)
    print_result(f"{run.path} against {found.threat} on {count_text(found.num_images)} test images")
    print_result(f"suite {found.suite}: {known.summary if known else 'attacks of your own'}")
    print_result()
    table = result_table("", "accuracy", "95 % interval", "seconds")
    table.add_row("natural", *_cells(found.natural), "")
    if found.certified is not None:
        table.add_row("certified", *_cells(found.certified), _seconds(found.certified_seconds))
    for attack in found.attacks:
        table.add_row(f"after {attack.name}", *_cells(attack.robust), _seconds(attack.seconds))
    table.add_row("robust", *_cells(found.robust), "")
    if found.check_seconds is not None:
        table.add_row("checks", "", "", _seconds(found.check_seconds))
    table.add_row("in all", "", "", _seconds(found.seconds))
    print_table(table)
    print_result()
    for line in doubts(found):
        print_prose(line)
    print_prose(hardware_text(found.environment))
    shares, *others = place.evaluation_files(aside)
    if aside:
        verdict = Evaluation.load(place.evaluation)
        print_prose(
            f"The verdict is still the stronger evaluation in {place.evaluation}: suite "
            f"{verdict.suite} on {counted(verdict.num_images, 'test image')}, robust "
            f"{verdict.robust}."
        )
    files = "".join(f", {path.name}" for path in others if path.exists())
    print_ending(
        f"{shares}{files} in {duration_text(found.seconds)}",
        f"sparring report {shlex.quote(str(run.path))}",
    )


def doubts(found: Evaluation) -> Iterator[str]:
    """The proofs, the checks, every flag, and every caveat."""
    if found.proofs:
        yield found.proofs
    yield found.checks
    yield from (f"flag, {flagged.check}: {flagged.sentence}" for flagged in found.flags)
    yield from (f"note: {caveat}" for caveat in found.caveats)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def _cells(accuracy: Proportion) -> tuple[str, str]:
    low, high = accuracy.interval
    return f"{100 * accuracy.share:.1f} %", f"[{100 * low:.1f}, {100 * high:.1f}]"
