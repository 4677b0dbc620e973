"""A folder of class folders of pictures: which files there are, and what is wrong with them.

    PATH/train/cat/1.png       PATH/train, PATH/test and, if wanted, PATH/validation (or valid, or
    PATH/test/cat/2.png        val), in any capitals, each with a folder for every class; or
    PATH/cat/1.png             a folder for every class only: a sixth is held out as test set

The name of a class is that of its folder in train. Classes are numbered in the order of their
names, by code points: `10` comes before `9`, `Z` before `a`. A folder of another part is the class
whose name looks the same, however its accents are stored. Links are followed. Hidden files and
folders (`.DS_Store`, macOS' `._1.png`, `.ipynb_checkpoints`), what else systems leave there
(`__MACOSX`, `Thumbs.db`) and files of other endings are no pictures and are left aside.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparring.data.entries import PARTS, is_folder, part_of, same_name, visible
from sparring.data.labels import never_trained, only_elsewhere
from sparring.data.pictures import SUFFIXES
from sparring.errors import DataError

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
