"""A folder of class folders of pictures, decoded when they are needed.

    PATH/train/cat/1.png       PATH/train, PATH/test and, if wanted, PATH/validation (or valid, or
    PATH/test/cat/2.png        val), in any capitals, each with a folder for every class; or
    PATH/cat/1.png             a folder for every class only: a sixth is held out as test set

The name of a class is that of its folder in train. Classes are numbered in the order of their
names, by code points: `10` comes before `9`, `Z` before `a`. Names are compared in their NFC form.
Links are followed. Hidden files and folders, those that systems leave there (`__MACOSX`,
`Thumbs.db`) and files of other endings are left aside.

Shapes: N images of a set, B images of a batch, C channels, H rows, W columns.
Units:  grey levels 0 to 255.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sparring.data.files import PARTS, is_folder, part_of, same_name, visible
from sparring.data.images import Dataset
from sparring.data.labels import never_trained, only_elsewhere
from sparring.data.pictures import AS_IS, SUFFIXES, Conversion, Kind, read_kind, read_picture
from sparring.data.splits import TEST, VALIDATION, dealt, mixed
from sparring.data.streamed import THREADS, StreamedSet
from sparring.errors import DataError
from sparring.records.files import open_regular

_NAMED = 5
"""Names in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFolders:
    """The picture files of a folder, by part and by class."""

    root: Path
    classes: tuple[str, ...]
    """Names of the training set's folders, in order."""
    parts: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Paths below the root by part and class, in order; only train, if there are no parts."""
    aside: tuple[str, ...]
    """Visible files that are no pictures by their endings, and folders beside the parts."""
    problems: tuple[str, ...]
    """Reasons this folder cannot be trained on, each with its remedy; empty if there are none."""

    @property
    def num_files(self) -> int:
        """Pictures in all."""
        return sum(len(files) for part in self.parts.values() for files in part.values())


def has_folders(folder: Path) -> bool:
    """Whether there are folders inside that could be classes."""
    return any(is_folder(path) for path in visible(folder))


def is_picture(path: Path) -> bool:
    """Whether a file has the ending of a picture."""
    return path.suffix.lower() in SUFFIXES


def find_class_folders(root: Path) -> ClassFolders:
    """List the folders; no picture is opened.

    Raises `DataError` if a folder cannot be read, or there is no picture.
    """
    folders = [path for path in visible(root) if is_folder(path)]
    at_parts = _are_parts(folders)
    search = _Search(root)
    if at_parts:
        search.aside += [path.name for path in visible(root) if part_of(path.name) is None]
        problems = [*_between_folders(root, folders)]
        for path in sorted(folders, key=_rank):
            if (part := part_of(path.name)) is not None:
                search.part(part, path)
    else:
        problems = []
        search.part("train", root)
    search.parts.setdefault("train", {})
    found = ClassFolders(
        root=root,
        classes=tuple(sorted(search.parts["train"])),
        parts=search.parts,
        aside=tuple(search.aside),
        problems=(*problems, *search.problems, *_about_classes(root, search.parts, at_parts)),
    )
    if not (found.num_files or problems or search.problems):
        names = [path.name for path in folders]
        raise DataError(
            f"there is no picture (.png, .jpg, .webp …) in the folders {_some(names)} of {root}. "
            f"Give a folder with a folder for each class ({_example(at_parts)})."
        )
    return found


def _are_parts(folders: Sequence[Path]) -> bool:
    """Whether folders are parts of a data set rather than classes."""
    named = [path for path in folders if part_of(path.name)]
    with_classes = {part_of(path.name) for path in named if has_folders(path)}
    only_parts = len(named) == len(folders)
    if "train" in with_classes or (with_classes and only_parts):
        return True
    has_train = any(part_of(path.name) == "train" for path in named)
    # Folders train and test without classes are not meant as classes.
    return has_train and len(named) > 1 and (only_parts or bool(with_classes))


def _rank(folder: Path) -> int:
    """Train first, whose classes the others share."""
    return [*PARTS].index(folder.name.lower()) if part_of(folder.name) else len(PARTS)


@dataclass
class _Search:
    """The contents of the folders of all parts."""

    root: Path
    parts: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    aside: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def part(self, part: str, folder: Path) -> None:
        """Add the classes of one part."""
        inside = visible(folder)
        classes = [path for path in inside if is_folder(path)]
        loose = [path for path in inside if not is_folder(path)]
        self.aside += [str(path.relative_to(self.root)) for path in loose]
        if folder != self.root and not classes:
            pictures = sum(map(is_picture, loose))
            self.problems.append(
                f"{folder} has no class folders but {pictures:,} pictures. Move them into folders "
                f"of their classes, such as {folder.name}/cat/1.png."
            )
            return
        self._check_looks(folder, classes)
        known = {same_name(name): name for name in self.parts.get("train", ())}
        of_part = self.parts.setdefault(part, {})
        for path in classes:
            name = known.get(same_name(path.name), path.name)
            of_part[name] = (*of_part.get(name, ()), *self._pictures(path))

    def _check_looks(self, folder: Path, classes: Sequence[Path]) -> None:
        looks = Counter(same_name(path.name) for path in classes)
        for name in (name for name, count in looks.items() if count > 1):
            self.problems.append(
                f"Two folders of {folder} look the same, {name}, but store accents in two ways "
                "(NFC and NFD). Put their pictures into one folder."
            )

    def _pictures(self, folder: Path) -> Iterator[str]:
        for path in visible(folder):
            below = str(path.relative_to(self.root))
            if is_folder(path):
                self.problems.append(
                    f"{below} is a folder inside a class. Move its pictures up, or it elsewhere."
                )
            elif is_picture(path):
                yield below
            else:
                self.aside.append(below)


def _between_folders(root: Path, folders: Sequence[Path]) -> Iterator[str]:
    """Problems of the folders of parts."""
    by_part: dict[str, list[Path]] = {}
    for path in sorted(folders, key=_rank):
        if (part := part_of(path.name)) is not None:
            by_part.setdefault(part, []).append(path)
    found = _some([path.name for path in folders])
    for part, paths in by_part.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            yield f"{names} in {root} both name the {part} set. Rename or move one away."
    if "train" not in by_part:
        yield (
            f"There is no folder train in {root}, only {found}. Give the folder above it, or "
            "rename the one that is meant. To judge a network on the pictures of one folder alone, "
            "give that folder."
        )
    elif "test" not in by_part:
        yield (
            f"There is no folder test beside train in {root}, only {found}. Rename the folder of "
            "test images to test; a validation set is then held out of train. Or give "
            f"{root / 'train'} alone, of which images to test are then held out as well."
        )


def _about_classes(
    root: Path, parts: Mapping[str, Mapping[str, Sequence[str]]], at_parts: bool
) -> Iterator[str]:
    """Problems of the classes."""
    classes = parts["train"]
    if len(classes) < 2:
        yield (
            f"There must be at least two classes; the folders with pictures in {root} are "
            f"{_some(sorted(classes)) or 'none'}. Give every class a folder ({_example(at_parts)})."
        )
    empty = sorted(name for name, files in classes.items() if not files)
    if empty:
        yield never_trained(empty, remedy="Put pictures there or remove the folder")
    for part in sorted(set(parts) - {"train"}):
        unknown = sorted(name for name in parts[part] if name not in classes)
        if unknown and classes:
            yield only_elsewhere(part, unknown, _spelling(unknown, classes))
        if not any(parts[part].values()):
            yield f"There is no picture in {root / part}."


def _spelling(unknown: Sequence[str], known: Mapping[str, object]) -> str:
    """The remedy for classes that train does not have, or spells in other capitals."""
    same = {name.casefold(): name for name in known}
    for name in unknown:
        if name.casefold() in same:
            return f"Rename {name} to {same[name.casefold()]}, as train has it"
    return "Give train pictures of it, or check how the folders are spelt"


def _example(at_parts: bool) -> str:
    return "such as train/cat/1.png and test/cat/2.png" if at_parts else "such as cat/1.png"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFiles:
    """Picture files of one kind."""

    root: Path
    files: tuple[str, ...] = field(repr=False)
    """Paths below the root."""
    kind: Kind
    """Of each picture."""
    conversion: Conversion = AS_IS

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        return self.kind.channels, self.kind.rows, self.kind.columns

    def __len__(self) -> int:
        return len(self.files)

    def read(self, places: Int64[Tensor, " B"]) -> UInt8[Tensor, " B C H W"]:
        """Decode the pictures at these places. Raises `DataError` for one that is damaged."""
        images = torch.empty((len(places), *self.kind), dtype=torch.uint8)
        for row, place in enumerate(places.tolist()):
            path = self.root / self.files[place]
            image = read_picture(path, self.conversion)
            if image.shape != images.shape[1:]:
                raise DataError(
                    f"{path} is {Kind(*image.shape)} and was {self.kind}. Was it changed meanwhile?"
                )
            images[row] = image
        return images

    def encoded_size(self, place: int) -> int:
        """Bytes of the file. Raises `DataError` if it is gone."""
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
        """Its class and name."""
        return _key(self.files[place])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def open_class_folders(root: Path, conversion: Conversion = AS_IS) -> Dataset:
    """The data set of a folder of class folders; pictures are decoded when they are needed.

    Without a test folder, a sixth of every class is the test set; without a validation folder, a
    twelfth of every class; at least one picture each. Which ones, and the order of
    every part, depends on the files' names only.
    Cost: reading every header. Raises `DataError` for anything that prevents training, except
    damage after a header.
    """
    root = root.resolve()
    found = find_class_folders(root)
    if found.problems:
        more = len(found.problems) - 1
        raise DataError(
            found.problems[0] + (f" ({more} more: sparring data {root})" if more else "")
        )
    files = tuple(chain.from_iterable(f for part in found.parts.values() for f in part.values()))
    pixels = PictureFiles(
        root=root, files=files, kind=_only_kind(root, files, conversion), conversion=conversion
    )
    sets = {}
    label_of = label_by_class(found)
    for name, places in parts_of(found, files).items():
        labels = torch.tensor([label_of[class_of(file)] for file in _those(files, places)])
        sets[name] = StreamedSet(
            pixels=pixels, places=places, labels=labels, num_classes=len(found.classes)
        )
    held_out = tuple(part for part in ("validation", "test") if part not in found.parts)
    return Dataset(name=root.name, class_names=found.classes, held_out=held_out, **sets)


def parts_of(found: ClassFolders, files: Sequence[str]) -> dict[str, Int64[Tensor, " N"]]:
    """Numbers of the files of train, validation and test, in order."""
    numbers = {file: place for place, file in enumerate(files)}
    own: dict[str, Tensor] = {}
    for part, classes in found.parts.items():
        chosen = [numbers[file] for f in classes.values() for file in f]
        own[part] = torch.tensor(chosen, dtype=torch.int64)
    missing = [part for part in ("validation", "test") if part not in own]
    shares = [{"validation": VALIDATION, "test": TEST}[part] for part in missing]
    train = own.pop("train")
    if not len(train):
        raise DataError(f"There is no picture to train on in {found.root}.")
    chosen = _those(files, train)
    label_of = label_by_class(found)
    labels = torch.tensor([label_of[class_of(file)] for file in chosen])
    *held, rest = dealt(labels, [_key(file) for file in chosen], shares, found.classes)
    parts = {part: train[places] for part, places in zip(missing, held, strict=True)}
    for part, places in own.items():
        parts[part] = places[mixed([_key(file) for file in _those(files, places)])]
    return {"train": train[rest], **parts}


def each(files: Sequence[str], do: Callable[[str], Kind | DataError]) -> list[Kind | DataError]:
    """Map all files on some threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(do, files, chunksize=64))


def kind_or_error(root: Path, conversion: Conversion) -> Callable[[str], Kind | DataError]:
    """A function that returns a file's kind, or the error of reading it."""

    def answer(file: str) -> Kind | DataError:
        try:
            return read_kind(root / file, conversion)
        except DataError as error:
            return error

    return answer


def _only_kind(root: Path, files: Sequence[str], conversion: Conversion) -> Kind:
    """The kind that all files have. Raises `DataError` if they differ or one is unreadable."""
    kinds: dict[Kind, list[str]] = {}
    for file, kind in zip(files, each(files, kind_or_error(root, conversion)), strict=True):
        if isinstance(kind, DataError):
            raise DataError(f"{kind} All files that cannot be read: sparring data {root}") from kind
        kinds.setdefault(kind, []).append(file)
    if len(kinds) > 1:
        counts = Counter({kind: len(of_kind) for kind, of_kind in kinds.items()})
        raise DataError(differing(counts, {kind: of[0] for kind, of in kinds.items()}))
    return next(iter(kinds))


def differing(counts: Counter[Kind], example: dict[Kind, str]) -> str:
    """The message about pictures of several kinds."""
    first, *_ = common = counts.most_common(4)
    listed = "; ".join(f"{count:,} {kind} ({example[kind]})" for kind, count in common)
    more = f"; and {len(counts) - len(common)} kinds more" if len(counts) > len(common) else ""
    sentences = [f"All pictures must have one size and the same channels; got {listed}{more}."]
    if len({(kind.rows, kind.columns) for kind in counts}) > 1:
        side = min(first[0].rows, first[0].columns)
        sentences.append(
            f"--set image_size={side} resizes the shorter side to {side} and cuts out the middle."
        )
    if len({kind.channels for kind in counts}) > 1:
        sentences.append(
            "--channels rgb (in Python channels='rgb') makes all of them colour pictures, "
            "--channels grey makes them grey."
        )
    return " ".join(sentences)


def label_by_class(found: ClassFolders) -> dict[str, int]:
    """The number of each class by its name in NFC form."""
    return {same_name(name): label for label, name in enumerate(found.classes)}


def class_of(file: str) -> str:
    """The class of a file in NFC form."""
    return same_name(Path(file).parent.name)


def _those(files: Sequence[str], places: Int64[Tensor, " B"]) -> list[str]:
    return [files[int(place)] for place in places]


def _key(file: str) -> str:
    return f"{Path(file).parent.name}/{Path(file).name}"
