"""Picture files as the network of a run takes them.

Shapes: B batch, C channels, H rows, W columns.  Units: pixels in [0, 1].
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from sparring.data.class_folders import is_picture
from sparring.data.entries import is_folder, visible
from sparring.data.of_run import image_size_of
from sparring.data.pictures import read_picture
from sparring.errors import DataError
from sparring.records import RunDirectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Unread:
    """A file of which nothing can be said."""

    source: str
    """The file."""
    reason: str
    """What is wrong with it, and what to do, in a sentence or two."""


def picture_files(named: Sequence[Path | str]) -> tuple[list[Path], list[Unread]]:
    """Files that were named, and the pictures in folders that were, sorted, those below too.

    Hidden files and folders, and what systems leave in folders, are no pictures, as in training.
    """
    files, unread = [], []
    for path in map(Path, named):
        if not is_folder(path):
            files.append(path)
            continue
        try:
            inside = sorted(_below(path, frozenset()))
        except DataError as error:
            unread.append(Unread(source=str(path), reason=str(error)))
            continue
        files += inside
        if not inside:
            reason = f"{path} must hold pictures, because it is a folder; it holds none."
            unread.append(Unread(source=str(path), reason=reason))
    return files, unread


def _below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Pictures in a folder and those in it; a link to a folder that it lies in is not followed."""
    about = folder.stat()
    here = (about.st_dev, about.st_ino)
    if here in above:
        return
    for path in visible(folder):
        if is_folder(path):
            yield from _below(path, above | {here})
        elif is_picture(path):
            yield path


def read_pictures(
    files: Sequence[Path], run: RunDirectory, size: tuple[int, int, int], *, resize: bool
) -> tuple[Float32[Tensor, " B C H W"], list[str], list[Unread]]:
    """Pixels of the files that can be read, their names, and the others.

    `size` is what the network takes: channels, rows, columns.
    """
    image_size = image_size_of(run)
    levels, sources, unread = [], [], []
    for file in files:
        try:
            levels.append(_levels(file, image_size, size, resize=resize))
            sources.append(str(file))
        except DataError as error:
            unread.append(Unread(source=str(file), reason=str(error)))
    pixels = torch.stack(levels) if levels else torch.empty(0, *size, dtype=torch.uint8)
    return pixels.float().div_(255), sources, unread


def _levels(
    file: Path, image_size: int | None, size: tuple[int, int, int], *, resize: bool
) -> UInt8[Tensor, " C H W"]:
    channels, rows, columns = size
    if image_size is None and resize and rows == columns:
        image_size = rows
    picture = read_picture(file, image_size=image_size, channels=channels)
    if picture.shape[1:] == (rows, columns):
        return picture
    if not resize:
        raise DataError(
            f"{file} must be {columns} x {rows} pixels, because the network was trained on such; "
            f"it is {picture.shape[2]} x {picture.shape[1]}. --resize fits it."
        )
    scaled = interpolate(
        picture[None].float(), size=(rows, columns), mode="bilinear", antialias=True
    )
    return scaled[0].round().clamp(0, 255).to(torch.uint8)
