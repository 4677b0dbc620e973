"""Tables of pictures as Hugging Face keeps them: Parquet files, and data sets saved to disk.

A row has a picture, as a struct of its file's bytes and path or as bytes only, and a label, a whole
number. Names of classes are those of the `ClassLabel` in the table's metadata.
Needs pyarrow, the extra `parquet`; nothing else imports it.
"""

import mmap
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sparring.data.files import PARTS, check_unpacked, damage, data_file, visible
from sparring.data.labels import whole_label
from sparring.data.pictures import LARGEST_FILE
from sparring.errors import DataError
from sparring.records.files import LARGEST_JSON, parse_json

_PART = re.compile(r"(?<![a-z])(train|test|validation|valid|val)(?:ing)?(?![a-z])", re.IGNORECASE)
_HIDDEN_PART = re.compile(r"train|test", re.IGNORECASE)
_ROWS = 64
"""Rows in memory at a time."""
_LABELS = ("label", "labels", "class", "target")
"""Names of the column of labels, if several hold whole numbers."""


class Picture(NamedTuple):
    """A row of a table."""

    content: bytes
    """The encoded picture."""
    label: int
    name: str
    """For messages."""
    is_elsewhere: bool
    """Whether the row names a file that holds the picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """The files of a data set by part; only train, if there are no parts."""

    root: Path
    parts: dict[str, tuple[Path, ...]]
    """Files of each part, sorted."""
    is_arrow: bool
    """Whether they are Arrow streams, as `save_to_disk` writes them, and not Parquet."""

    def rows(self, part: str) -> Iterator[Picture]:
        """Every row of a part. Raises `DataError` for a damaged file."""
        first, names = self.parts["train"][0], self.class_names()
        for path in self.parts[part]:
            number_of = _renumbering(path, self._names_in(path), first, names)
            with _naming(path):
                number = 0
                for batch in _batches(path, self.is_arrow):
                    for stored, labelled in _stored(batch, path):
                        name = f"row {number} of {path}"
                        content, is_elsewhere = _content(stored, path, name)
                        label = _label(labelled, name)
                        if number_of is not None:
                            label = _renumbered(label, number_of, name)
                        yield Picture(content, label, name, is_elsewhere)
                        number += 1

    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the first file's metadata; empty if there are none."""
        return self._names_in(self.parts["train"][0])

    def _names_in(self, path: Path) -> tuple[str, ...]:
        with _naming(path):
            schema = _schema(path, self.is_arrow)
        stored = (schema.metadata or {}).get(b"huggingface")
        _, label = _columns(schema, path)
        return _names_in(stored, label)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all files."""
        files = (path for paths in self.parts.values() for path in paths if path.is_file())
        return sum(path.stat().st_size for path in files)


def find_tables(root: Path) -> Tables | None:
    """The tables of a folder or file; `None` if there are none. Only JSON files are opened."""
    if root.is_file():
        return Tables(root=root, parts={"train": (root,)}, is_arrow=False)
    if (root / "dataset_dict.json").is_file():
        splits = _listed(root / "dataset_dict.json", "splits")
        _check_parts(root, [name for name in splits if name not in PARTS])
        saved = {PARTS[name]: _saved(root / name) for name in splits}
        return Tables(root=root, parts=_with_train(saved, root, splits), is_arrow=True)
    if (root / "state.json").is_file():
        return Tables(root=root, parts={"train": _saved(root)}, is_arrow=True)
    folders = [path for path in visible(root) if path.is_dir()]
    files = sorted(path for folder in (root, *folders) for path in _parquet(folder))
    if not files:
        return _of_only_folder(folders)
    parts: dict[str, list[Path]] = {}
    for path in files:
        parts.setdefault(_part_of(path.relative_to(root)), []).append(path)
    others = [str(path.relative_to(root)) for path in parts.pop("", [])]
    if parts or (len(files) > 1 and any(map(_HIDDEN_PART.search, others))):
        _check_parts(root, others)
    named = {part: tuple(paths) for part, paths in parts.items()} or {"train": tuple(files)}
    return Tables(
        root=root, parts=_with_train(named, root, [p.name for p in files]), is_arrow=False
    )


def _of_only_folder(folders: Sequence[Path]) -> Tables | None:
    """The tables of a folder that is alone, named after a configuration, as the Hub has them."""
    alone = folders[0] if len(folders) == 1 else None
    if alone is None or _part_of(Path(alone.name)):
        return None
    inner = [path for path in visible(alone) if path.is_dir()]
    return find_tables(alone) if any(any(_parquet(folder)) for folder in inner) else None


def _parquet(folder: Path) -> Iterator[Path]:
    return (path for path in visible(folder) if path.suffix == ".parquet")


def _with_train(
    parts: dict[str, tuple[Path, ...]], root: Path, found: Sequence[str]
) -> dict[str, tuple[Path, ...]]:
    if "train" in parts:
        return {"train": parts["train"]} | parts
    raise DataError(
        f"{root} has no part named train, only {', '.join(found[:20])}. Rename the files "
        "(train-0.parquet, test-0.parquet) or folders."
    )


def _part_of(path: Path) -> str:
    """The part that the name of the folder says, else that of the file; empty if neither does."""
    for name in path.parts:
        said = {PARTS[found.lower()] for found in _PART.findall(name)}
        if len(said) == 1:
            return said.pop()
    return ""


def _check_parts(root: Path, others: Sequence[str]) -> None:
    """Refuse files and splits whose names do not say a part: each could be test images."""
    if others:
        raise DataError.expected(
            f"each file of {root}, or its folder, must be named after one part: train, validation "
            "or test",
            f"{', '.join(others[:20])}",
            "Rename it (train-0.parquet, test-0.parquet), or move it elsewhere.",
        )


def _saved(folder: Path) -> tuple[Path, ...]:
    """The files of one split that `save_to_disk` wrote."""
    listed = folder / "state.json"
    return tuple(_below(folder, name, str(listed)) for name in _listed(listed, "_data_files"))


def _listed(path: Path, name: str) -> list[str]:
    """A list of names in a JSON file that `save_to_disk` wrote."""
    with (
        damage(f"{path} must list {name}, as save_to_disk writes it", "Save the data set again."),
        data_file(path, at_most=LARGEST_JSON) as file,
    ):
        found: Any = parse_json(file.read())
        listed = [item["filename"] if isinstance(item, dict) else item for item in found[name]]
        if not all(isinstance(item, str) for item in listed):
            raise TypeError("not all are names")
        return listed


def _below(folder: Path, name: str, where: str) -> Path:
    """A file below a folder. Raises `DataError` for one elsewhere."""
    path = folder / name
    if not path.is_relative_to(folder) or ".." in path.relative_to(folder).parts:
        rule = f"{where} must name files in {folder}"
        raise DataError.expected(rule, name, "Save the data set with its pictures.")
    return path


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "pyarrow, which reads tables, is not installed: pip install 'sparring[parquet]'"
        ) from error
    return pyarrow


@contextmanager
def _mapped(path: Path) -> Iterator[Any]:
    """A memory-mapped file for pyarrow."""
    arrow = _pyarrow()
    with data_file(path) as file:
        if not file.seek(0, 2):
            raise ValueError("it is empty")
        # Not closed: pyarrow's buffers may still point into it.
        yield arrow.BufferReader(
            arrow.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        )


def _batches(path: Path, is_arrow: bool) -> Iterator[Any]:
    arrow = _pyarrow()
    with _mapped(path) as source:
        if not is_arrow:
            with arrow.parquet.ParquetFile(source) as file:
                image, label = _columns(file.schema_arrow, path)
                _check_groups(file.metadata, path)
                yield from file.iter_batches(_ROWS, columns=[image, label])
            return
        with arrow.ipc.open_stream(source) as stream:
            for batch in stream:
                yield from (batch.slice(start, _ROWS) for start in range(0, batch.num_rows, _ROWS))


def _check_groups(about: Any, path: Path) -> None:
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        columns = [group.column(place) for place in range(group.num_columns)]
        stored = sum(column.total_compressed_size for column in columns)
        unpacked = sum(column.total_uncompressed_size for column in columns)
        check_unpacked(f"row group {number} of {path}", stored, unpacked)


def _stored(batch: Any, path: Path) -> Iterator[tuple[object, object]]:
    """Pictures and labels of a batch as they are stored."""
    # A damaged file may point anywhere in memory.
    batch.validate(full=True)
    image, label = _columns(batch.schema, path)
    return zip(batch.column(image).to_pylist(), batch.column(label).to_pylist(), strict=True)


def _schema(path: Path, is_arrow: bool) -> Any:
    arrow = _pyarrow()
    with _mapped(path) as source:
        if not is_arrow:
            return arrow.parquet.read_schema(source)
        with arrow.ipc.open_stream(source) as stream:
            return stream.schema


def _names_in(stored: bytes | None, label: str) -> tuple[str, ...]:
    """Names of the classes in Hugging Face's metadata; empty if there are none."""
    try:
        known: Any = parse_json(stored or b"{}")
        names = known["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return ()
    is_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_named else ()


def _renumbering(
    path: Path, own: Sequence[str], first: Path, names: Sequence[str]
) -> Sequence[int] | None:
    """The number of each of a file's classes among those of the first file.

    `None` if the numbers are the same, as those of a file without names are taken to be.
    """
    if not own or not names or tuple(own) == tuple(names):
        return None
    if unknown := [name for name in own if name not in names]:
        raise DataError(
            f"{path} has classes that {first} does not name: {', '.join(unknown[:20])}. Give all "
            "files the classes of the whole data set."
        )
    return [names.index(name) for name in own]


def _renumbered(label: int, number_of: Sequence[int], name: str) -> int:
    if not 0 <= label < len(number_of):
        rule = f"the label of {name} must be one of its {len(number_of)} named classes"
        raise DataError.expected(rule, label)
    return number_of[label]


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
            f"numbers, called label if there are several; found: {found}. "
            f"{_mended(schema, images, labels)}"
        )
    return images[0], labels[0]


def _mended(schema: Any, images: Sequence[str], labels: Sequence[str]) -> str:
    """What to do about columns that are not as they must be."""
    if not images:
        return "Store each picture as an encoded file (PNG or JPEG) in a column of bytes."
    if len(images) > 1:
        return f"Leave out all but one of {', '.join(images)}."
    if labels:
        return f"Rename the one of {', '.join(labels)} that holds the classes to label."
    named = [name for name in _LABELS if schema.get_field_index(name) >= 0]
    which = f"the classes in {named[0]}" if named else "the classes"
    return (
        f"Number {which} 0, 1, 2, …, and store the numbers as integers: class_encode_column of "
        "Hugging Face's datasets does."
    )


def _content(stored: object, path: Path, name: str) -> tuple[bytes, bool]:
    """A picture's bytes, and whether they are from a file that the row names."""
    content = stored.get("bytes") if isinstance(stored, dict) else stored
    if isinstance(content, bytes):
        return content, False
    elsewhere = stored.get("path") if isinstance(stored, dict) else None
    if elsewhere and isinstance(elsewhere, str):
        below = _below(path.parent, elsewhere, name)
        with data_file(
            below, at_most=LARGEST_FILE, name=f"{elsewhere}, the picture of {name},"
        ) as file:
            return file.read(), True
    raise DataError(f"{name} has no picture. Leave the row out.")


def _label(stored: object, name: str) -> int:
    if isinstance(stored, int):
        return whole_label(stored, name)
    raise DataError(f"{name} has no label that is a whole number. Leave the row out.")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    with damage(f"{path} must be a whole file that pyarrow can read", "Fetch the file again."):
        yield
