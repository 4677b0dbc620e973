"""Images on a page: PNG as text, and those of an evaluation with what changed.

Pixels are a byte for each channel, row by row from the top.
"""

import struct
import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import NamedTuple

from sparring.records import Example, Examples
from sparring.report.run_story import RunStory

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2}
"""Channels, and what a PNG calls them: grey, and red with green and blue."""


def data_uri(pixels: str, height: int, width: int, channels: int = 1) -> str:
    """Pixels in base64 as the address of an image that a page holds itself."""
    content = _png(b64decode(pixels), height, width, channels)
    return f"data:image/png;base64,{b64encode(content).decode()}"


def _png(pixels: bytes, height: int, width: int, channels: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    length = width * channels
    rows = b"".join(b"\0" + pixels[row * length :][:length] for row in range(height))
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, content) for name, content in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


GREY = 128
"""The value of a pixel that the attack did not change, in an image of differences."""


class ExampleView(NamedTuple):
    """A test image: clean, attacked, the difference, and what the network said of both."""

    clean: str
    attacked: str
    difference: str
    labels: str
    """Before and after, by the names of the classes."""
    fate: str
    is_broken: bool


def amplification(found: Examples) -> int:
    """The largest whole factor by which no difference leaves the range of a byte; 1 or more."""
    largest = max(
        (
            abs(after - before)
            for one in found.images
            for before, after in zip(b64decode(one.clean), b64decode(one.attacked), strict=True)
        ),
        default=0,
    )
    return max(1, (GREY - 1) // largest) if largest else 1


def example_views(story: RunStory) -> list[ExampleView]:
    """The images of a run's verdict, those first that the first attacks broke."""
    found = story.examples
    if found is None:
        return []
    factor = amplification(found)
    attacks = [attack.name for attack in story.evaluations[0].attacks] if story.evaluations else []
    images = sorted(found.images, key=lambda one: _rank(one, attacks))
    return [_view(one, found, factor, story.classes) for one in images]


def _rank(one: Example, attacks: Sequence[str]) -> int:
    """Broken ones in the order of the attacks, then robust ones, then those wrong when clean."""
    if one.natural != one.label:
        return len(attacks) + 2
    if one.broken_by is None:
        return len(attacks) + 1
    return attacks.index(one.broken_by) if one.broken_by in attacks else len(attacks)


def _view(one: Example, found: Examples, factor: int, classes: Sequence[str]) -> ExampleView:
    size = (found.height, found.width, found.channels)
    pairs = zip(b64decode(one.clean), b64decode(one.attacked), strict=True)
    difference = bytes(
        min(255, max(0, GREY + factor * (after - before))) for before, after in pairs
    )
    label, natural, adversarial = (
        classes[number] if number < len(classes) else str(number)
        for number in (one.label, one.natural, one.adversarial)
    )
    if one.natural != one.label:
        labels, fate = f"{label} \u2192 {natural}", "wrong when clean"
    elif one.broken_by is None:
        labels, fate = label, "robust"
    else:
        labels, fate = f"{label} \u2192 {adversarial}", f"by {one.broken_by}"
    return ExampleView(
        data_uri(one.clean, *size),
        data_uri(one.attacked, *size),
        data_uri(b64encode(difference).decode(), *size),
        labels,
        fate,
        one.natural == one.label and one.broken_by is not None,
    )
