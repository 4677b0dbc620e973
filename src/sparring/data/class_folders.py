"""A folder of class folders of pictures: found, checked, and decoded when they are needed.

    PATH/train/cat/1.png       PATH/train, PATH/test and, if wanted, PATH/validation (or valid, or
    PATH/test/cat/2.png        val), in any capitals, each with a folder for every class; or
    PATH/cat/1.png             a folder for every class only: a sixth is held out as test set

The name of a class is that of its folder in train. Classes are numbered in the order of their
names, by code points: `10` comes before `9`, `Z` before `a`. A folder of another part is the class
whose name looks the same, however its accents are stored. Links are followed. Hidden files and
folders (`.DS_Store`, macOS' `._1.png`, `.ipynb_checkpoints`), those that systems leave there
(`__MACOSX`, `Thumbs.db`) and files of other endings are no pictures and are left aside.

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
"""Names in a message: enough to see the pattern."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFolders:
    """The picture files of a folder, by part and by class."""

    root: Path
    """The folder."""
    classes: tuple[str, ...]
    """Names of the training set's folders, in order."""
    parts: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Files by part (train, test, validation) and class, below the root, in order of their names.

    Only train, if the folder does not say what is held out."""
    aside: tuple[str, ...]
    """What lies beside them: files that are no pictures by their endings, and folders beside the
    parts; hidden ones are not listed."""
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
    """Whether a file is taken for a picture, by its ending."""
    return path.suffix.lower() in SUFFIXES


def find_class_folders(root: Path) -> ClassFolders:
    """What a folder of class folders holds; no picture is opened.

    Cost: listing every folder. Raises `DataError` if one cannot be read, or there is no picture.
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
            f"{root} must hold pictures in a folder for each class ({_example(at_parts)}); there "
            f"is no picture in its folders {_some(names)}. Pictures end in .png, .jpg, "
            ".webp and the like; give the folder above the classes."
        )
    return found


def _are_parts(folders: Sequence[Path]) -> bool:
    """Whether folders are the parts of a data set, and not its classes."""
    named = [path for path in folders if part_of(path.name)]
    with_classes = {part_of(path.name) for path in named if has_folders(path)}
    only_parts = len(named) == len(folders)
    if "train" in with_classes or (with_classes and only_parts):
        return True
    has_train = any(part_of(path.name) == "train" for path in named)
    # Pictures in train and test, without classes: two classes of these names are not meant.
    return has_train and len(named) > 1 and (only_parts or bool(with_classes))


def _rank(folder: Path) -> int:
    """Train first, because the others' classes are its own."""
    return [*PARTS].index(folder.name.lower()) if part_of(folder.name) else len(PARTS)


@dataclass
class _Search:
    """Collects what the folders of the parts hold."""

    root: Path
    parts: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    aside: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def part(self, part: str, folder: Path) -> None:
        """Adds the classes of one part."""
        inside = visible(folder)
        classes = [path for path in inside if is_folder(path)]
        loose = [path for path in inside if not is_folder(path)]
        self.aside += [str(path.relative_to(self.root)) for path in loose]
        if folder != self.root and not classes:
            pictures = sum(map(is_picture, loose))
            self.problems.append(
                f"{folder} must have a folder for each class, such as {folder.name}/cat/1.png; it "
                f"has none{f', and {pictures:,} pictures without a class' if pictures else ''}. "
                "Move pictures into folders of their classes, or it elsewhere."
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
                f"Names of classes must look different; two folders in {folder} look the same, "
                f"{name}, because accents are stored in two ways (NFC and NFD). Put their pictures "
                "into one folder."
            )

    def _pictures(self, folder: Path) -> Iterator[str]:
        """The pictures of one class."""
        for path in visible(folder):
            below = str(path.relative_to(self.root))
            if is_folder(path):
                self.problems.append(
                    f"The pictures of a class must lie in its folder itself, because folders are "
                    f"classes; {below} is a folder inside one. Move its pictures up or it "
                    "elsewhere."
                )
            elif is_picture(path):
                yield below
            else:
                self.aside.append(below)


def _between_folders(root: Path, folders: Sequence[Path]) -> Iterator[str]:
    """What is wrong with the folders of parts beside each other."""
    by_part: dict[str, list[Path]] = {}
    for path in sorted(folders, key=_rank):
        if (part := part_of(path.name)) is not None:
            by_part.setdefault(part, []).append(path)
    found = _some([path.name for path in folders])
    for part, paths in by_part.items():
        if len(paths) > 1:
            yield (
                f"Only one of {' and '.join(path.name for path in paths)} may be there, because "
                f"each names the {part} set; found {len(paths)} ({root}). Rename or move one away."
            )
    if "train" not in by_part:
        yield (
            f"There must be a folder train with a folder for each class, to train on; found "
            f"{found} ({root}). Give the folder above it, or rename the one that is meant."
        )
    elif "test" not in by_part:
        yield (
            "Beside train there must be a folder test with a folder for each class, because what "
            f"a classifier is judged on is yours to say; found {found} ({root}). "
            "If another folder is meant for that, rename it to test; the validation set is then "
            "held out of train."
        )


def _about_classes(
    root: Path, parts: Mapping[str, Mapping[str, Sequence[str]]], at_parts: bool
) -> Iterator[str]:
    """What is wrong with the classes."""
    classes = parts["train"]
    if len(classes) < 2:
        yield (
            "A classifier needs at least two classes to tell apart; the folders that hold "
            f"pictures of classes are {_some(sorted(classes)) or 'none'} ({root}). Give every "
            f"class a folder of its own ({_example(at_parts)})."
        )
    empty = sorted(name for name, files in classes.items() if not files)
    if empty:
        yield never_trained(empty, remedy="Put pictures there or remove the folder")
    for part in sorted(set(parts) - {"train"}):
        unknown = sorted(name for name in parts[part] if name not in classes)
        if unknown and classes:
            yield only_elsewhere(part, unknown, _spelling(unknown, classes))
        if not any(parts[part].values()):
            yield f"There must be at least one picture in {root / part}; there is none."


def _spelling(unknown: Sequence[str], known: Mapping[str, object]) -> str:
    """What to do about classes that train does not have, or spells in other capitals."""
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
    """Pictures of one kind in files."""

    root: Path
    """The folder they are below."""
    files: tuple[str, ...] = field(repr=False)
    """Their paths from there."""
    kind: Kind
    """What each of them is."""
    conversion: Conversion = AS_IS
    """How they are converted."""

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
            image = read_picture(path, self.conversion)
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


def open_class_folders(root: Path, conversion: Conversion = AS_IS) -> Dataset:
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
        root=root, files=files, kind=_only_kind(root, files, conversion), conversion=conversion
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


def kind_or_error(root: Path, conversion: Conversion) -> Callable[[str], Kind | DataError]:
    """Answers a file's kind, or what is wrong with it."""

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
            "--channels rgb (in Python channels='rgb') makes all of them colour pictures, "
            "--channels grey makes them grey."
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
