"""A data set of picture files, decoded when they are needed.

Shapes: N images of a set, B images of a batch, C channels, H rows, W columns.
Units:  grey levels 0 to 255.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sparring.data.class_folders import ClassFolders, find_class_folders
from sparring.data.entries import same_name
from sparring.data.hold_out import TEST, VALIDATION, dealt, mixed
from sparring.data.images import Dataset
from sparring.data.pictures import Kind, read_kind, read_picture
from sparring.data.reader import THREADS
from sparring.data.streamed import StreamedSet
from sparring.errors import DataError
from sparring.records.files import open_regular


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFiles:
    """Pictures of one kind in files."""

    root: Path
    """The folder they are below."""
    files: tuple[str, ...]
    """Their paths from there."""
    kind: Kind
    """What each of them is."""
    image_size: int | None = None
    """As for `read_picture`."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        return self.kind.channels, self.kind.rows, self.kind.columns

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.files)

    def read(self, places: Int64[Tensor, " B"]) -> UInt8[Tensor, " B C H W"]:
        """Decode the pictures at these places. Raises `DataError` for one that is damaged."""
        images = torch.empty((len(places), *self.kind), dtype=torch.uint8)
        for row, place in enumerate(places.tolist()):
            path = self.root / self.files[place]
            image = read_picture(path, image_size=self.image_size)
            if image.shape != images.shape[1:]:
                raise DataError(
                    f"All pictures must be {self.kind}, as the first ones are; {path} is "
                    f"{Kind(*image.shape)}. Was it changed meanwhile?"
                )
            images[row] = image
        return images

    def encoded_size(self, place: int) -> int:
        """Bytes of the file at this place. Raises `DataError` if it is gone."""
        path = self.root / self.files[place]
        with _readable(path):
            return path.stat().st_size

    def encoded(self, place: int, start: int, stop: int) -> bytes:
        """Some of its bytes. Raises `DataError` if they cannot be read."""
        path = self.root / self.files[place]
        with _readable(path), open_regular(path, sys.maxsize) as file:
            file.seek(start)
            return file.read(stop - start)

    def encoded_name(self, place: int) -> str:
        """Its class and its own name."""
        return _key(self.files[place])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}. Check the file, or leave it out."
        ) from error


def open_class_folders(root: Path, *, image_size: int | None = None) -> Dataset:
    """The data set of a folder of class folders; the pictures are decoded when they are asked for.

    Where there is no test folder, a sixth of every class is the test set; where there is no
    validation folder, a twelfth of every class of what is left; at least one picture each. Which
    ones, and the order of every part, depends on the files' names alone.
    Cost: opening every picture, without decoding it. Raises `DataError` for whatever keeps a
    classifier from being trained on it, damage behind a picture's header excepted.
    """
    root = root.resolve()
    found = find_class_folders(root)
    if found.problems:
        more = len(found.problems) - 1
        told = f" ({more} more: sparring data {root})" if more else ""
        raise DataError(found.problems[0] + told)
    files = tuple(chain.from_iterable(f for part in found.parts.values() for f in part.values()))
    pixels = PictureFiles(
        root=root, files=files, kind=_only_kind(root, files, image_size), image_size=image_size
    )
    sets = {}
    label_of = label_by_class(found)
    for name, places in parts_of(found, files).items():
        labels = torch.tensor([label_of[class_of(file)] for file in _those(files, places)])
        sets[name] = StreamedSet(
            pixels=pixels, places=places, labels=labels, num_classes=len(found.classes)
        )
    return Dataset(name=root.name, class_names=found.classes, **sets)


def parts_of(found: ClassFolders, files: Sequence[str]) -> dict[str, Int64[Tensor, " N"]]:
    """Which files are train, validation and test, each part in its order.

    A file's key is the name of its class and its own, wherever the part's folder lies.
    """
    numbers = {file: place for place, file in enumerate(files)}
    own: dict[str, Tensor] = {}
    for part, classes in found.parts.items():
        chosen = [numbers[file] for f in classes.values() for file in f]
        own[part] = torch.tensor(chosen, dtype=torch.int64)
    missing = [part for part in ("validation", "test") if part not in own]
    shares = [{"validation": VALIDATION, "test": TEST}[part] for part in missing]
    train = own.pop("train")
    if not len(train):
        raise DataError(f"There must be pictures to train on; there is none ({found.root}).")
    chosen = _those(files, train)
    label_of = label_by_class(found)
    labels = torch.tensor([label_of[class_of(file)] for file in chosen])
    *held, rest = dealt(labels, [_key(file) for file in chosen], shares, found.classes)
    parts = {part: train[places] for part, places in zip(missing, held, strict=True)}
    for part, places in own.items():
        parts[part] = places[mixed([_key(file) for file in _those(files, places)])]
    return {"train": train[rest], **parts}


def each(files: Sequence[str], do: Callable[[str], Kind | DataError]) -> list[Kind | DataError]:
    """Do something with every file, on some threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(do, files, chunksize=64))


def kind_or_error(root: Path, image_size: int | None) -> Callable[[str], Kind | DataError]:
    """Answers a file's kind, or what is wrong with it."""

    def answer(file: str) -> Kind | DataError:
        try:
            return read_kind(root / file, image_size=image_size)
        except DataError as error:
            return error

    return answer


def _only_kind(root: Path, files: Sequence[str], image_size: int | None) -> Kind:
    """The kind that all files have. Raises `DataError` if they differ or one is unreadable."""
    kinds: dict[Kind, list[str]] = {}
    for file, kind in zip(files, each(files, kind_or_error(root, image_size)), strict=True):
        if isinstance(kind, DataError):
            raise DataError(f"{kind} All files that cannot be read: sparring data {root}") from kind
        kinds.setdefault(kind, []).append(file)
    if len(kinds) > 1:
        counts = Counter({kind: len(of_kind) for kind, of_kind in kinds.items()})
        raise DataError(differing(counts, {kind: of[0] for kind, of in kinds.items()}))
    return next(iter(kinds))


def differing(counts: Counter[Kind], example: dict[Kind, str]) -> str:
    """Why pictures of several kinds are no data set, and what to do."""
    first, *_ = common = counts.most_common(4)
    listed = "; ".join(f"{count:,} {kind} ({example[kind]})" for kind, count in common)
    more = f"; and {len(counts) - len(common)} kinds more" if len(counts) > len(common) else ""
    sentences = [
        "All pictures must have one size and the same channels, because one network sees them "
        f"all; got {listed}{more}."
    ]
    if len({(kind.rows, kind.columns) for kind in counts}) > 1:
        side = min(first[0].rows, first[0].columns)
        sentences.append(
            f"--set image_size={side} resizes the shorter side to {side} and cuts a square from "
            "the middle."
        )
    if len({kind.channels for kind in counts}) > 1:
        sentences.append(
            "Grey and colour pictures are mixed: save all as colour (or all as grey) pictures, or "
            "take out those that are not like the others."
        )
    return " ".join(sentences)


def label_by_class(found: ClassFolders) -> dict[str, int]:
    """The number of each class, by the form of its name that `class_of` gives."""
    return {same_name(name): label for label, name in enumerate(found.classes)}


def class_of(file: str) -> str:
    """The class of a file, by the name of its folder, however its accents are stored."""
    return same_name(Path(file).parent.name)


def _those(files: Sequence[str], places: Int64[Tensor, " B"]) -> list[str]:
    return [files[int(place)] for place in places]


def _key(file: str) -> str:
    return f"{Path(file).parent.name}/{Path(file).name}"
