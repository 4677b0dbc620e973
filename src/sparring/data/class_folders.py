"""A folder of class folders of pictures: which files there are, and what is wrong with them.

    PATH/train/cat/1.png       PATH/train, PATH/test and, if wanted, PATH/validation (or val),
    PATH/test/cat/2.png        each with a folder for every class; or
    PATH/cat/1.png             a folder for every class only: a sixth is held out as test set

The name of a class is that of its folder. Classes are numbered in the order of their names, by code
points: `10` comes before `9`, `Z` before `a`. Links are followed. Hidden files and folders
(`.DS_Store`, macOS' `._1.png`, `.ipynb_checkpoints`), `__MACOSX` and files of other endings are no
pictures and are left aside.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparring.data.pictures import SUFFIXES
from sparring.errors import DataError

PARTS = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}
"""Names of folders that say which part they are."""
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
    """Why nobody can be trained on it as it is: sentences, each with its remedy."""

    @property
    def num_files(self) -> int:
        """Pictures in all."""
        return sum(len(files) for part in self.parts.values() for files in part.values())


def has_folders(folder: Path) -> bool:
    """Whether there are folders inside that could be classes."""
    return any(path.is_dir() for path in _visible(folder))


def find_class_folders(root: Path) -> ClassFolders:
    """What a folder of class folders holds; no picture is opened.

    Cost: listing every folder. Raises `DataError` if one cannot be read, or there is no picture.
    """
    folders = {path.name: path for path in _visible(root) if path.is_dir()}
    named = {
        PARTS[name]: path
        for name, path in folders.items()
        if name in PARTS and any(below.is_dir() for below in _visible(path))
    }
    at_parts = "train" in named
    top = named if at_parts else {"train": root}
    aside = [path.name for path in _visible(root) if at_parts and path.name not in PARTS]
    problems: list[str] = []
    parts: dict[str, dict[str, tuple[str, ...]]] = {}
    for part, folder in top.items():
        parts[part] = {}
        for path in _visible(folder):
            if path.is_dir():
                files = tuple(_pictures(root, path, aside, problems))
                parts[part][path.name] = files
            else:
                aside.append(str(path.relative_to(root)))
    found = ClassFolders(
        root=root,
        classes=tuple(sorted(parts["train"])),
        parts=parts,
        aside=tuple(aside),
        problems=(*problems, *_contradictions(root, parts, folders if at_parts else {})),
    )
    if not found.num_files:
        raise DataError(
            f"{root} must hold pictures in a folder for each class ({_example(at_parts)}); there "
            f"is no picture in its folders {_some(sorted(folders))}. Pictures end in .png, .jpg, "
            ".webp and the like; give the folder above the classes."
        )
    return found


def _pictures(root: Path, folder: Path, aside: list[str], problems: list[str]) -> Iterator[str]:
    """The pictures of one class."""
    for path in _visible(folder):
        below = str(path.relative_to(root))
        if path.is_dir():
            problems.append(
                f"The pictures of a class must lie in its folder itself, because folders are "
                f"classes; {below} is a folder inside one. Move its pictures up or it elsewhere."
            )
        elif path.suffix.lower() in SUFFIXES:
            yield below
        else:
            aside.append(below)


def _contradictions(
    root: Path, parts: Mapping[str, Mapping[str, Sequence[str]]], folders: Mapping[str, Path]
) -> Iterator[str]:
    """What is wrong with the classes."""
    classes = parts["train"]
    if len(classes) < 2:
        yield (
            "A classifier needs at least two classes to tell apart; the folders that hold "
            f"pictures of classes are {_some(sorted(classes)) or 'none'} ({root}). Give every "
            f"class a folder of its own ({_example(bool(folders))})."
        )
    empty = sorted(name for name, files in classes.items() if not files)
    if empty:
        yield (
            "Every class must have pictures to train on, because a model cannot learn a class it "
            f"never sees; without any: {_some(empty)}. Put pictures there or remove the folder."
        )
    if folders:
        yield from _between_parts(root, parts, folders)


def _between_parts(
    root: Path, parts: Mapping[str, Mapping[str, Sequence[str]]], folders: Mapping[str, Path]
) -> Iterator[str]:
    classes = parts["train"]
    if "test" not in parts:
        yield (
            "Beside train there must be a folder test with a folder for each class, because what "
            f"a classifier is judged on is yours to say; found {_some(sorted(folders))} ({root}). "
            "If another folder is meant for that, rename it to test; the validation set is then "
            "held out of train."
        )
    if {"validation", "val"} <= set(folders):
        yield "Only one of validation and val may be there; found both. Rename or move one away."
    for part in sorted(set(parts) - {"train"}):
        unknown = sorted(name for name in parts[part] if name not in classes)
        if unknown:
            yield (
                f"Every class of {part} must be one of train's, because a classifier knows no "
                f"other; only in {part}: {_some(unknown)}. Give train pictures of it, or check how "
                "the folders are spelt."
            )
        if not any(parts[part].values()):
            yield f"There must be at least one picture in {root / part}; there is none."


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, but for what systems leave there."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(
            f"{folder} must be a readable folder; got: {error.strerror}. Check its permissions."
        ) from error
    return [path for path in entries if not path.name.startswith(".") and path.name != "__MACOSX"]


def _example(at_parts: bool) -> str:
    return "such as train/cat/1.png and test/cat/2.png" if at_parts else "such as cat/1.png"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
