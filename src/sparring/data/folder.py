"""A folder with the four IDX files of a data set, under any of the names in use.

Known names: `train-images-idx3-ubyte` and `t10k-labels-idx1-ubyte` as published, the same with
a dot before `idx`, `test` for `t10k`, anything ending in a hyphen in front (EMNIST's
`emnist-balanced-train-images-idx3-ubyte`), each with or without `.gz`.
"""

import re
from collections import defaultdict
from itertools import product
from pathlib import Path

from sparring.data.entries import visible
from sparring.data.idx import (
    IdxHeader,
    have_same_content,
    read_header,
    read_images,
    read_labels,
)
from sparring.data.images import Dataset
from sparring.data.raw_pixels import RawPixels
from sparring.data.split import Labelled, assemble, one_label_each
from sparring.data.streamed import DATA_MEMORY, too_large
from sparring.errors import DataError

_NAME = re.compile(
    r"(?P<prefix>(?:.+-)?)(?P<part>train|t10k|test)-"
    r"(?P<kind>images[-.]idx3|labels[-.]idx1)-ubyte(?:\.gz)?"
)
_PARTS = {"train": "train", "t10k": "test", "test": "test"}
_STANDARD = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}
_DIMENSIONS = {"images": 3, "labels": 1}
_LISTED = 20
"""Names in a message: enough to see what kind of folder it is."""


def is_idx_folder(folder: Path) -> bool:
    """Whether a file there is called as those of IDX data sets are."""
    return any(_NAME.fullmatch(path.name) and path.is_file() for path in visible(folder))


def load_folder(folder: Path, *, data_memory: int = DATA_MEMORY) -> Dataset:
    """The data set of a folder with four IDX files, gzipped or not; other files are ignored.

    A file that lies beside its own gzipped copy counts once. The last twelfth of the training
    images is held out for validation. Images of more than `data_memory` bytes are streamed.
    Raises `DataError` if one of the four is missing, if several could be meant, if a file is
    damaged, or if images are to be streamed from a gzipped one.
    """
    files = _find(folder)
    headers = {role: read_header(path, _DIMENSIONS[role[1]]) for role, path in files.items()}
    size = sum(headers[part, "images"].numbers for part in ("train", "test"))
    parts = {}
    for part in ("train", "test"):
        images, labels = files[part, "images"], files[part, "labels"]
        header = headers[part, "images"]
        _check_pair(images, header, labels, headers[part, "labels"])
        if size > data_memory:
            pixels = _streamed(images, header, size, data_memory)
        else:
            pixels = read_images(images).unsqueeze(1)
        parts[part] = Labelled(
            pixels=pixels,
            labels=read_labels(labels),
            pixels_from=str(images),
            labels_from=str(labels),
        )
    return assemble(folder.resolve().name, parts["train"], parts["test"])


def listing(folder: Path) -> str:
    """What lies in a folder, for a message."""
    return _listing(visible(folder))


def _check_pair(images: Path, of_images: IdxHeader, labels: Path, of_labels: IdxHeader) -> None:
    """Refuse two files that do not announce one label for each image, before they are read."""
    if of_images.shape[0] != of_labels.shape[0]:
        raise one_label_each(of_labels.shape[0], str(labels), of_images.shape[0], str(images))


def _streamed(path: Path, header: IdxHeader, size: int, data_memory: int) -> RawPixels:
    """The images of a file, where they lie."""
    if header.is_gzipped:
        raise too_large(str(path), size, data_memory, "Unpack the files (gunzip)")
    num_images, rows, columns = header.shape
    return RawPixels(
        path=path.resolve(), offset=header.begin, count=num_images, image_shape=(1, rows, columns)
    )


def _find(folder: Path) -> dict[tuple[str, str], Path]:
    """Which file is which of the four."""
    candidates: dict[tuple[str, str], list[Path]] = defaultdict(list)
    entries = visible(folder)
    for path in entries:
        match = _NAME.fullmatch(path.name)
        if match and path.is_file():
            role = _PARTS[match["part"]], match["kind"][:6]
            candidates[role].append(path)
    missing = [
        _STANDARD[role]
        for role in product(("train", "test"), ("images", "labels"))
        if role not in candidates
    ]
    if missing:
        raise DataError(
            f"{folder} must hold four IDX files, {', '.join(_STANDARD.values())} (.gz or not); "
            f"missing: {', '.join(missing)}; found: {_listing(entries)}. "
            "Give the folder that the files lie in, or an .npz file."
        )
    files = {role: _only(paths, folder) for role, paths in candidates.items()}
    prefixes = {match["prefix"] for p in files.values() if (match := _NAME.fullmatch(p.name))}
    if len(prefixes) > 1:
        raise _ambiguous(folder, list(files.values()))
    return files


def _only(paths: list[Path], folder: Path) -> Path:
    """The one file meant: a file and its own gzipped copy are one."""
    first, *others = paths
    if not others:
        return first
    copies = {path.name.removesuffix(".gz") for path in paths}
    if len(copies) > 1 or not have_same_content(first, others[0]):
        raise _ambiguous(folder, paths)
    return first


def _ambiguous(folder: Path, paths: list[Path]) -> DataError:
    """Several files claim one place."""
    return DataError(
        f"{folder} must hold the four IDX files of one data set only, because otherwise it is "
        f"unclear which are meant; found: {_listing(paths)}. "
        "Keep each data set in a folder of its own, and each file once."
    )


def _listing(paths: list[Path]) -> str:
    """Names for a message, folders with a slash, a few of them."""
    names = [path.name + "/" * path.is_dir() for path in sorted(paths)]
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) + more) or "nothing"
