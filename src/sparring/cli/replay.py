"""`sparring replay`: whether a run's weights follow from its settings and its trace."""

import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from sparring.cli.arguments import PLAIN, Form
from sparring.cli.console import print_ending, print_json, print_result
from sparring.records import RunDirectory
from sparring.records.text import count_text, counted, duration_text

if TYPE_CHECKING:
    from sparring.training import Replay

ABOUT = """Compute a run's weights again, in one process, and compare every bit.

Each batch is attacked with the weights that the run's metrics name for it, so a
run of --source async can be replayed too. Exits with 1 if anything differs.

RUN is a run directory; left out, the newest in runs/.

examples:
  sparring replay
  sparring replay runs/fast-20300101-120000 --json"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayFlags:
    """The flags of `sparring replay`."""

    trust_code: Annotated[bool, PLAIN] = False
    """Run code of a run that you did not train here."""
    json: Annotated[bool, PLAIN] = False
    """Print the result as JSON."""


FORM = Form(verb="replay", flags=ReplayFlags, about=ABOUT, word="RUN")


def run(argv: list[str]) -> int:
    """Replay the run that the words name; return the exit code, 1 if the replay differs."""
    flags, word = FORM.read(argv)
    chosen = RunDirectory.chosen(word)
    # torch takes seconds to load: after the words are known to be right.
    from sparring.training import replay

    found = replay(chosen.path, progress=True, trust_code=flags.trust_code)
    if flags.json:
        print_json(json.dumps(_as_json(found), indent=2, ensure_ascii=False))
    else:
        for line in _lines(found):
            print_result(line)
        print_ending("", f"sparring inspect {shlex.quote(str(chosen.path))}")
    return 0 if found.is_equal else 1


def _as_json(found: "Replay") -> dict[str, object]:
    parting = found.parting
    return {
        "run": str(found.run.path),
        "equal": found.is_equal,
        "updates": found.updates,
        "staleness_max": found.max_staleness,
        "parting": parting
        and {
            "step": parting.step,
            "recorded_loss": parting.recorded,
            "replayed_loss": parting.replayed if math.isfinite(parting.replayed) else None,
        },
        "weights_version": found.version,
        "weights_equal": None if found.different is None else not found.different,
        "different_tensors": found.different,
        "seconds": found.seconds,
    }


def _lines(found: "Replay") -> Iterator[str]:
    """The result, a line each."""
    yield (
        f"{found.run.path}: {counted(found.updates, 'update')} replayed in "
        f"{duration_text(found.seconds)}; staleness {found.max_staleness} at most"
    )
    if found.parting is not None:
        yield (
            f"replay and run part by update {count_text(found.parting.step)}: its loss was "
            f"{found.parting.recorded!r}, and is {found.parting.replayed!r} here"
        )
        return
    yield "every loss is the recorded one"
    if found.version is None:
        yield "no weights are stored that could be compared"
        return
    weights = f"the stored weights, of update {count_text(found.version)},"
    if found.different:
        yield f"{weights} differ in {', '.join(found.different)}"
    else:
        yield f"{weights} are equal bit for bit"
