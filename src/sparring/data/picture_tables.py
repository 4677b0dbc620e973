"""A data set of pictures in tables, decoded when they are needed.

The encoded pictures are copied once to a temporary file (in TMPDIR), because tables can only be
read group by group.

Shapes: N images of a set, B images of a batch, C channels, H rows, W columns.
Units:  grey levels 0 to 255.
"""

import os
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sparring.data.arrow_tables import Picture, Tables
from sparring.data.class_folders import differing
from sparring.data.files import check_unpacked
from sparring.data.images import Dataset, numbered
from sparring.data.labels import PartLabels, num_classes_of
from sparring.data.pictures import AS_IS, Conversion, Kind, read_kind, read_picture
from sparring.data.splits import TEST, VALIDATION, dealt, mixed
from sparring.data.streamed import StreamedSet
from sparring.errors import DataError
from sparring.records.files import temporary_file


class Spool:
    """A temporary file that is removed with this object; another process gets its path."""

    def __init__(self) -> None:
        self.file, self.path = temporary_file()
        weakref.finalize(self, _remove, self.file, self.path)

    def __reduce__(self) -> tuple[object, ...]:
        return Path, (self.path,)


def _remove(file: BinaryIO, path: Path) -> None:
    file.close()
    path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PictureBytes:
    """Encoded pictures of one kind, one after another in a file."""

    spool: Spool | Path
    ends: Int64[Tensor, " N"]
    """Offset after each picture."""
    kind: Kind
    root: Path
    """Their origin, for messages."""
    conversion: Conversion = AS_IS

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        return self.kind.channels, self.kind.rows, self.kind.columns

    def __len__(self) -> int:
        return len(self.ends)

    def read(self, places: Int64[Tensor, " B"]) -> UInt8[Tensor, " B C H W"]:
        """Decode the pictures at these places. Raises `DataError` for one that is damaged."""
        images = torch.empty((len(places), *self.kind), dtype=torch.uint8)
        for row, place in enumerate(places.tolist()):
            content = self.encoded(place, 0, self.encoded_size(place))
            name = f"picture {place} of {self.root}"
            image = read_picture(content, self.conversion, name=name)
            if image.shape != images.shape[1:]:
                found = Kind(*image.shape)
                raise DataError(f"{name} is {found}; its header says {self.kind}. Leave it out.")
            images[row] = image
        return images

    def encoded_size(self, place: int) -> int:
        """Bytes of the picture."""
        return int(self.ends[place]) - self._start(place)

    def encoded(self, place: int, start: int, stop: int) -> bytes:
        """Some of its bytes. Raises `DataError` if the copy is gone."""
        try:
            with self._path.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), stop - start, self._start(place) + start)
        except OSError as error:
            raise DataError(
                f"{self._path}, the copy of the pictures of {self.root}, cannot be read: "
                f"{error.strerror or error}. Start again."
            ) from error

    def encoded_name(self, place: int) -> str:
        """Its row."""
        return str(place)

    @property
    def _path(self) -> Path:
        return self.spool.path if isinstance(self.spool, Spool) else self.spool

    def _start(self, place: int) -> int:
        return int(self.ends[place - 1]) if place else 0


def open_tables(tables: Tables, conversion: Conversion = AS_IS) -> Dataset:
    """The data set of tables of pictures; they are decoded when they are needed.

    Without a test part, a sixth of every class is held out; without a validation part, a twelfth.
    Which rows, and the order of every part, depends on their numbers only.
    Cost: reading every file once, and a copy of the encoded pictures on disk. Raises `DataError`
    for anything that prevents training, except damage after a header, or without pyarrow.
    """
    root = tables.root.resolve()
    ends, labels = [], {part: [] for part in tables.parts}
    kinds: Counter[Kind] = Counter()
    example: dict[Kind, str] = {}
    end, stored = 0, tables.stored_bytes
    with _copying(root):
        spool = Spool()
    with _copying(root), spool.path.open("wb") as file:
        for part, row in _rows(tables):
            kind = read_kind(row.content, conversion, name=row.name)
            kinds[kind] += 1
            example.setdefault(kind, row.name)
            end += file.write(row.content)
            ends.append(end)
            labels[part].append(row.label)
            stored += len(row.content) if row.is_elsewhere else 0
            check_unpacked(str(root), stored, end)
    if not all(labels.values()):
        raise DataError(f"A part of {root} has no picture.")
    if len(kinds) > 1:
        raise DataError(differing(kinds, example))
    pixels = PictureBytes(
        spool=spool,
        ends=torch.tensor(ends),
        kind=next(iter(kinds)),
        root=root,
        conversion=conversion,
    )
    return _dealt(pixels, {p: torch.tensor(of) for p, of in labels.items()}, tables.class_names())


@contextmanager
def _copying(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The pictures of {root} cannot be copied to a temporary file: "
            f"{error.strerror or error}. Set the environment variable TMPDIR to a folder with room."
        ) from error


def _rows(tables: Tables) -> Iterator[tuple[str, Picture]]:
    for part in tables.parts:
        for row in tables.rows(part):
            yield part, row


def _dealt(
    pixels: PictureBytes, labels: dict[str, Int64[Tensor, " _"]], names: tuple[str, ...]
) -> Dataset:
    """All parts; missing ones are held out."""
    train, *others = (PartLabels(of, f"{part} of {pixels.root}") for part, of in labels.items())
    num_classes = num_classes_of(train, others, names=names)
    names = names or numbered(num_classes)
    places, start = {}, 0
    for part, of_part in labels.items():
        places[part] = torch.arange(start, start + len(of_part))
        start += len(of_part)
    every = torch.cat(list(labels.values()))
    missing = [part for part in ("validation", "test") if part not in labels]
    shares = [{"validation": VALIDATION, "test": TEST}[part] for part in missing]
    trained = places.pop("train")
    *held, rest = dealt(labels["train"], [str(n) for n in range(len(trained))], shares, names)
    chosen = {part: of[mixed([str(n) for n in range(len(of))])] for part, of in places.items()}
    chosen |= {part: trained[of] for part, of in zip(missing, held, strict=True)}
    sets = {
        part: StreamedSet(pixels=pixels, places=of, labels=every[of], num_classes=num_classes)
        for part, of in (chosen | {"train": trained[rest]}).items()
    }
    return Dataset(
        name=pixels.root.stem,
        train=sets["train"],
        validation=sets["validation"],
        test=sets["test"],
        class_names=names,
        held_out=tuple(missing),
    )
