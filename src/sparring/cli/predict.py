"""`sparring predict`: classes of images, and whether predictions withstand an attack."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from sparring.cli.arguments import PLAIN, Form, flag, whole
from sparring.cli.console import PROGRESS, print_json, print_result, print_table, result_table
from sparring.errors import ConfigError, DataError
from sparring.records import RunDirectory, to_json
from sparring.records.checks import at_least
from sparring.records.text import counted

if TYPE_CHECKING:
    from sparring.prediction import Prediction, Predictions

ABOUT = """Say which class each picture is of, and with --attack whether that withstands.

RUN is a run directory, IMAGE a picture file or a folder of some. Exits with 2
if a file could not be used; the others are printed.

examples:
  sparring predict runs/fast-20300101-120000 seven.png three.png
  sparring predict runs/fast-20300101-120000 --test 10 --attack"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictFlags:
    """The flags of `sparring predict`."""

    test: Annotated[int | None, flag("--test", whole, "N"), PLAIN] = None
    """Also the first N test images of the run's data."""
    attack: Annotated[bool, PLAIN] = False
    """Attack each within the run's threat: does the prediction withstand?"""
    seed: Annotated[int, flag("--seed", whole, "N"), PLAIN] = 0
    """Determines the attacks' random starts; 0 by default."""
    resize: Annotated[bool, PLAIN] = False
    """Resize images to the network's size."""
    threads: Annotated[int, flag("--threads", whole, "N"), PLAIN] = 0
    """CPU threads; by default as many as there are cores."""
    batch_size: Annotated[int | None, flag("--batch-size", whole, "N"), PLAIN] = None
    """Images that pass through the network at once; 256 by default."""
    trust_code: Annotated[bool, PLAIN] = False
    """Run code of a run that you did not train here."""
    json: Annotated[bool, PLAIN] = False
    """Print the result as JSON."""


FORM = Form(
    verb="predict",
    flags=PredictFlags,
    about=ABOUT,
    word="RUN",
    many=True,
    then="IMAGE",
    needed=1,
)


def run(argv: list[str]) -> int:
    """Predict the images that the words name; return the exit code."""
    flags, words = FORM.read_all(argv)
    if flags.test is not None:
        at_least("--test", flags.test, 1)
    if not words or (not words[1:] and flags.test is None):
        raise ConfigError.expected(
            "sparring predict needs a run and images",
            words[0] if words else "neither",
            "Name picture files or a folder after the run, or give --test N.",
        )
    chosen = RunDirectory.open(words[0])
    # torch takes seconds to load: after the words are known to be right.
    from sparring.prediction import predict

    found = predict(
        chosen,
        words[1:],
        test=flags.test or 0,
        resize=flags.resize,
        attack=flags.attack,
        seed=flags.seed,
        threads=flags.threads,
        batch_size=flags.batch_size,
        trust_code=flags.trust_code,
    )
    if flags.json:
        answer = {"run": str(chosen.path), **to_json(found)}
        print_json(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        _print(found)
    for wrong in found.unread:
        PROGRESS.print(f"error: {wrong.reason}", soft_wrap=True)
    return DataError.exit_code if found.unread else 0


def _print(found: "Predictions") -> None:
    if not found.found:
        return
    with_truth = any(one.true is not None for one in found.found)
    headings = ["image", "class", "probability", "then"]
    headings += ["true"] * with_truth + ["withstands"] * (found.attack is not None)
    table = result_table(*headings)
    for one in found.found:
        table.add_row(*_cells(one, with_truth=with_truth, attacked=found.attack is not None))
    print_table(table, fold=False)
    if found.attack is not None:
        safe = sum(one.withstands is True for one in found.found)
        print_result()
        print_result(
            f"{safe} of {counted(len(found.found), 'prediction')} withstood {found.attack}"
        )
        print_result("to withstand it is no proof: a stronger attack may succeed")


def _cells(one: "Prediction", *, with_truth: bool, attacked: bool) -> list[str]:
    first, *others = one.top
    then = ", ".join(f"{other.name} {100 * other.probability:.1f} %" for other in others)
    cells = [one.source, first.name, f"{100 * first.probability:.1f} %", then]
    cells += [one.true or ""] * with_truth
    return cells + ["yes" if one.withstands else "no"] * attacked
