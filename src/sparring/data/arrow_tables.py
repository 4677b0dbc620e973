"""Tables of pictures as Hugging Face keeps them: Parquet files, and data sets saved to disk.

A row has a picture, as a struct of its file's bytes and path or as bytes only, and a label, a whole
number. Names of classes are taken from the `ClassLabel` in the table's metadata where there is one.
Needs pyarrow, the extra `parquet`; nothing else imports it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sparring.errors import DataError
from sparring.records.files import LARGEST_JSON, open_regular, parse_json

PARTS = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
}
_NAME = re.compile(r"(train|test|validation|valid|val)(?![a-z]).*", re.IGNORECASE)
_ROWS = 64
"""Rows that are in memory at a time: with large pictures some 100 MB."""
_LABELS = ("label", "labels", "class", "target")
"""Names of the column of labels, where several hold whole numbers."""


class Picture(NamedTuple):
    """A row: a picture's file, its label, and what messages call it."""

    content: bytes
    label: int
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """The files of a data set by part; only train, if it does not say what is held out."""

    root: Path
    """The folder or file."""
    parts: dict[str, tuple[Path, ...]]
    """Files of each part, in order of their names."""
    is_arrow: bool
    """Whether they are Arrow streams, as `save_to_disk` writes them, and not Parquet."""

    def rows(self, part: str) -> Iterator[Picture]:
        """Every row of a part, in order. Raises `DataError` for what cannot be read."""
        for path in self.parts[part]:
            with _naming(path):
                number = 0
                for batch in _batches(path, self.is_arrow):
                    image, label = _columns(batch.schema, path)
                    pair = (batch.column(image).to_pylist(), batch.column(label).to_pylist())
                    for stored, labelled in zip(*pair, strict=True):
                        name = f"row {number} of {path}"
                        yield Picture(_content(stored, path, name), _label(labelled, name), name)
                        number += 1

    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, if the first file's metadata has them."""
        path = self.parts["train"][0]
        with _naming(path):
            schema = _schema(path, self.is_arrow)
        stored = (schema.metadata or {}).get(b"huggingface")
        _, label = _columns(schema, path)
        try:
            features: Any = parse_json(stored or b"{}")
            return tuple(map(str, features["info"]["features"][label]["names"]))
        except (ValueError, KeyError, TypeError):
            return ()


def find_tables(root: Path) -> Tables | None:
    """The tables of a folder or file; none if there are none. No file is opened but small JSON."""
    if root.is_file():
        return Tables(root=root, parts={"train": (root,)}, is_arrow=False)
    if (root / "dataset_dict.json").is_file():
        splits = _listed(root / "dataset_dict.json", "splits")
        saved = {PARTS[name]: _saved(root / name) for name in splits if name in PARTS}
        return Tables(root=root, parts=_with_train(saved, root, splits), is_arrow=True)
    if (root / "state.json").is_file():
        return Tables(root=root, parts={"train": _saved(root)}, is_arrow=True)
    found = [*root.glob("*.parquet"), *root.glob("*/*.parquet")]
    files = sorted(path for path in found if not path.name.startswith("."))
    if not files:
        return None
    parts: dict[str, list[Path]] = {}
    for path in files:
        parts.setdefault(_part_of(path.relative_to(root)), []).append(path)
    named = {part: tuple(paths) for part, paths in parts.items() if part}
    if not named:
        named = {"train": tuple(files)}
    return Tables(
        root=root, parts=_with_train(named, root, [p.name for p in files]), is_arrow=False
    )


def _with_train(
    parts: dict[str, tuple[Path, ...]], root: Path, found: Sequence[str]
) -> dict[str, tuple[Path, ...]]:
    if "train" in parts:
        return {"train": parts["train"]} | parts
    raise DataError(
        f"{root} must hold a part named train, to train on; found: {', '.join(found[:20])}. "
        "Rename the files (train-0.parquet, test-0.parquet) or folders."
    )


def _part_of(path: Path) -> str:
    """The part that a file's name, or a folder above it, begins with; empty if none does."""
    for name in (path.name, *reversed(path.parts[:-1])):
        if found := _NAME.fullmatch(name):
            return PARTS[found[1].lower()]
    return ""


def _saved(folder: Path) -> tuple[Path, ...]:
    """The files of one split that `save_to_disk` wrote."""
    files = _listed(folder / "state.json", "_data_files")
    return tuple(folder / str(file["filename"]) for file in files)


def _listed(path: Path, name: str) -> list[Any]:
    """A list in a JSON file that `save_to_disk` wrote."""
    try:
        with open_regular(path, LARGEST_JSON) as file:
            found: Any = parse_json(file.read())
        return list(found[name])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} must list {name}, as save_to_disk writes it; got: {error!r}. "
            "Save the data set again."
        ) from error


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "Parquet files and data sets saved to disk are read with pyarrow, which is not "
            "installed. Install the extra: pip install 'sparring[parquet]'"
        ) from error
    return pyarrow


def _batches(path: Path, is_arrow: bool) -> Iterator[Any]:
    arrow = _pyarrow()
    if not is_arrow:
        with arrow.parquet.ParquetFile(path) as file:
            image, label = _columns(file.schema_arrow, path)
            yield from file.iter_batches(_ROWS, columns=[image, label])
        return
    with arrow.memory_map(str(path)) as source, arrow.ipc.open_stream(source) as stream:
        for batch in stream:
            yield from (batch.slice(start, _ROWS) for start in range(0, batch.num_rows, _ROWS))


def _schema(path: Path, is_arrow: bool) -> Any:
    arrow = _pyarrow()
    if not is_arrow:
        return arrow.parquet.read_schema(path)
    with arrow.memory_map(str(path)) as source, arrow.ipc.open_stream(source) as stream:
        return stream.schema


def _columns(schema: Any, path: Path) -> tuple[str, str]:
    """Names of the columns of pictures and of labels."""
    types = _pyarrow().types
    images = [
        field.name
        for field in schema
        if types.is_binary(field.type)
        or types.is_large_binary(field.type)
        or (types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    labels = [field.name for field in schema if types.is_integer(field.type)]
    if len(labels) > 1:
        labels = [name for name in _LABELS if name in labels] or labels
    if len(images) != 1 or not labels or (len(labels) > 1 and labels[0] not in _LABELS):
        found = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise DataError(
            f"{path} must have one column of pictures (bytes, or bytes and path) and one of whole "
            f"numbers as labels, called label if there are more; found: {found}. "
            "Leave out or rename columns."
        )
    return images[0], labels[0]


def _content(stored: object, path: Path, name: str) -> bytes:
    """A picture's bytes, or those of the file that the row names."""
    content = stored.get("bytes") if isinstance(stored, dict) else stored
    if isinstance(content, bytes):
        return content
    elsewhere = stored.get("path") if isinstance(stored, dict) else None
    if elsewhere:
        try:
            return (path.parent / str(elsewhere)).read_bytes()
        except OSError as error:
            raise DataError(
                f"{name} must hold its picture or name a file that does; got {elsewhere}: "
                f"{error.strerror}. Save the data set with its pictures."
            ) from error
    raise DataError(f"{name} must hold a picture; it is empty. Leave the row out.")


def _label(stored: object, name: str) -> int:
    if isinstance(stored, int):
        return stored
    raise DataError(f"{name} must have a label, a whole number; it has none. Leave the row out.")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into a `DataError`."""
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds too
        raise DataError(
            f"{path} must be a whole file that pyarrow can read; got: "
            f"{str(error).splitlines()[0]}. Fetch the file again."
        ) from error
