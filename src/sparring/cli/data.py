"""`sparring data`: the content and the problems of a data set, before training."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from sparring.cli.arguments import PLAIN, Form, flag, one_of, whole
from sparring.cli.console import (
    in_one_line,
    print_ending,
    print_json,
    print_result,
    print_table,
    result_table,
)
from sparring.errors import ConfigError, DataError
from sparring.records import to_json
from sparring.records.text import bytes_from, bytes_text, count_text, counted

if TYPE_CHECKING:
    from sparring.data.inspection import Inspection
    from sparring.data.pictures import Channels

ABOUT = """Look at every image of a data set: classes, sizes, damage, duplicates.

PATH is a folder of class folders of pictures (train/cat/1.png, test/cat/2.png,
or cat/1.png only), a folder of IDX files, an .npz file, Parquet files,
what Hugging Face's save_to_disk wrote, or mnist. Exits with 2 if it cannot be
trained on.

examples:
  sparring data pictures/
  sparring data pictures/ --image-size 64 --json"""

LISTED = 20
"""Classes, and files, that are listed; --json has all."""
PAPERS_IMAGES, PAPERS_CLASSES = (1, 28, 28), 10
"""Channels, rows and columns, and most classes, of the default network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFlags:
    """The flags of `sparring data`."""

    image_size: Annotated[int | None, flag("--image-size", whole, "N"), PLAIN] = None
    """Resize the shorter side to N and take the middle square."""
    channels: Annotated[
        str | None, flag("--channels", one_of("rgb", "grey"), "rgb|grey"), PLAIN
    ] = None
    """Convert all images to colour or to grey."""
    data_memory: Annotated[
        int | None, flag("--data-memory", lambda text: _memory(text), "SIZE"), PLAIN
    ] = None
    """Pixels held in memory, 64MiB or a number; 4GiB by default."""
    json: Annotated[bool, PLAIN] = False
    """Print all results as JSON, with every class and problem."""


FORM = Form(verb="data", flags=DataFlags, about=ABOUT, word="PATH", needed=1)


def run(argv: list[str]) -> int:
    """Look at the data that the words name; return the exit code."""
    flags, source = FORM.read(argv)
    if source is None:
        raise ConfigError("sparring data needs a folder or a file: sparring data PATH")
    # torch takes seconds to load: after the words are known to be right.
    from sparring.data.inspection import inspect_data
    from sparring.data.pictures import Conversion
    from sparring.data.streamed import DATA_MEMORY

    memory = DATA_MEMORY if flags.data_memory is None else flags.data_memory
    channels = cast("Channels | None", flags.channels)
    conversion = Conversion(image_size=flags.image_size, channels=channels)
    found = inspect_data(source, conversion, data_memory=memory)
    command = _command(found, flags)
    if flags.json:
        answer = {**to_json(found), "streamed": found.is_streamed, "next": command}
        print_json(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        _print(found)
        if not found.problems:
            print_ending("", command)
    if found.problems:
        raise DataError(
            f"{source} cannot be trained on: {counted(len(found.problems), 'problem')}, first: "
            f"{in_one_line(found.problems[0])}"
        )
    return 0


def _memory(text: str) -> int:
    try:
        return bytes_from(text)
    except ValueError as error:
        raise ValueError(f"--data-memory {error}") from error


def _command(found: "Inspection", flags: DataFlags) -> str:
    """The next command, with another network if the default one cannot take the images."""
    kind = found.kinds[0] if found.kinds else None
    papers = kind and (kind.channels, kind.rows, kind.columns) == PAPERS_IMAGES
    fits = papers and len(found.classes) <= PAPERS_CLASSES
    settings = {
        "image_size": flags.image_size,
        "data_memory": flags.data_memory and bytes_text(flags.data_memory),
    }
    given = [f"--set {name}={value}" for name, value in settings.items() if value is not None]
    given += [f"--channels {flags.channels}"] if flags.channels else []
    model = [] if fits else ["--model small-cnn"]
    return " ".join(["sparring train --data", shlex.quote(found.source), *model, *given])


def _print(found: "Inspection") -> None:
    classes = "1 class" if len(found.classes) == 1 else f"{count_text(len(found.classes))} classes"
    print_result(f"{found.source}: {found.kind}, {classes}, {counted(found.num_images, 'image')}")
    print_result()
    _print_classes(found)
    print_result()
    for line in (*_about(found), *_duplicates(found), *_files(found)):
        print_result(in_one_line(line))


def _print_classes(found: "Inspection") -> None:
    table = result_table("class", "train", "validation", "test")
    shown = found.classes[:LISTED]
    for of_class in shown:
        counts = (of_class.train, of_class.validation, of_class.test)
        table.add_row(of_class.name, *map(count_text, counts))
    if len(shown) < len(found.classes):
        table.add_row(f"{len(found.classes) - len(shown)} more (--json)", "", "", "")
    totals = (
        sum(getattr(of_class, part) for of_class in found.classes)
        for part in ("train", "validation", "test")
    )
    table.add_row("all", *map(count_text, totals))
    print_table(table)


def _about(found: "Inspection") -> Iterator[str]:
    """Sizes, pixels and memory, a line each."""
    for kind in found.kinds[:LISTED]:
        colour = "grey" if kind.channels == 1 else "colour"
        yield f"{counted(kind.images, 'image')}: {colour}, {kind.columns} x {kind.rows} pixels"
    for number, pixels in enumerate(found.pixels):
        channel = "grey" if len(found.pixels) == 1 else ("red", "green", "blue")[number]
        yield (
            f"{channel}: {pixels.least:.3f} to {pixels.largest:.3f}, mean {pixels.mean:.4f}, "
            f"standard deviation {pixels.std:.4f}"
        )
    memory, room = bytes_text(found.pixel_bytes), bytes_text(found.data_memory)
    how = "streamed, because data_memory is" if found.is_streamed else "held in memory, up to"
    yield f"{memory} of pixels: {how} {room}"


def _duplicates(found: "Inspection") -> Iterator[str]:
    """Duplicate images, and classes without test images."""
    twice = found.duplicates
    yield f"{counted(twice.train_test, 'test image')} in the training set too"
    yield from (f"  {example}" for example in twice.train_test_examples)
    yield f"{counted(twice.contradicting, 'image')} in one part again under another label"
    yield from (f"  {example}" for example in twice.contradicting_examples)
    if found.untested:
        more = ", …" if len(found.untested) > LISTED else ""
        yield f"without a test image: {', '.join(found.untested[:LISTED])}{more}"


def _files(found: "Inspection") -> Iterator[str]:
    """Ignored files, and problems."""
    if found.aside:
        more = ", …" if len(found.aside) > LISTED else ""
        yield (
            f"{counted(len(found.aside), 'name')} left aside, no pictures by ending or place: "
            f"{', '.join(found.aside[:LISTED])}{more}"
        )
    yield from (f"problem: {problem}" for problem in found.problems[:LISTED])
    if len(found.problems) > LISTED:
        yield f"{counted(len(found.problems) - LISTED, 'problem')} more (--json)"
