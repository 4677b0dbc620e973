"""Where a data set comes from: the bundled MNIST, or the files at a path.

Nothing is downloaded. Whenever MNIST is read, the SHA-256 of each file's uncompressed bytes is
checked. They are the bytes that LeCun, Cortes and Burges published: their well-known MD5 sums, in
the README beside the files, hold too. Only the gzip wrapping is new.
"""

import os
from collections.abc import Callable
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import torch

from sparring.data.arrow_tables import find_tables
from sparring.data.class_folders import has_folders, open_class_folders
from sparring.data.files import told
from sparring.data.idx import is_idx_folder, listing, load_folder, parse_idx, read_content
from sparring.data.images import Dataset
from sparring.data.npz import load_npz
from sparring.data.picture_tables import open_tables
from sparring.data.pictures import AS_IS, Channels, Conversion
from sparring.data.splits import Labelled, assemble
from sparring.data.streamed import DATA_MEMORY, within
from sparring.errors import DataError
from sparring.records.typed import typed

FOLDER = Path(__file__).with_name("mnist")

SHA256 = MappingProxyType(
    {
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    }
)
"""Checksum of each file's uncompressed bytes."""
_LARGEST = 64 << 20
"""Bytes of a file; the largest has 47 million."""


def load_mnist(folder: Path = FOLDER) -> Dataset:
    """MNIST: 55,000 images to train on, 5,000 for validation, 10,000 to test; 1 x 28 x 28.

    The validation set is the last 5,000 of the published training images.
    Cost: about half a second and 55 MB. Raises `DataError` if a file is missing or is not,
    byte for byte, the published one.
    """
    return assemble("mnist", _part(folder, "train"), _part(folder, "t10k"))


def _part(folder: Path, part: str) -> Labelled:
    images, labels = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    return Labelled(
        pixels=parse_idx(_verified(folder, images), folder / images, 3).unsqueeze(1),
        labels=parse_idx(_verified(folder, labels), folder / labels, 1).to(torch.int64),
        pixels_from=images,
        labels_from=labels,
    )


def _verified(folder: Path, name: str) -> bytes:
    """The uncompressed bytes of one file, if they are the published ones."""
    path = folder / f"{name}.gz"
    if not path.is_file():
        raise DataError(f"there is no {path}. Reinstall sparring.")
    content = read_content(path, _LARGEST)
    found = sha256(content).hexdigest()
    if found != SHA256[name]:
        raise DataError(
            f"{path} is not MNIST as published: its uncompressed SHA-256 is {found}, not "
            f"{SHA256[name]}. Reinstall sparring, or give your own files as a folder."
        )
    return content


BUNDLED: MappingProxyType[str, Callable[[], Dataset]] = MappingProxyType({"mnist": load_mnist})
"""Grey images that come with the package, by name."""
_TABLES = "tables of pictures"
_FOLDERS = "class folders"
GIVEN = "given:"
"""Begins the names of data sets that were passed in Python."""


@typed
def load_dataset(
    source: str | Path,
    *,
    image_size: int | None = None,
    channels: Channels | None = None,
    data_memory: int = DATA_MEMORY,
) -> Dataset:
    """The data set that `source` names, checked, in memory if its pixels fit into `data_memory`.

    `source` is `mnist` (bundled; write `./mnist` for a folder of that name), or a path: a folder of
    class folders of pictures (`train/cat/1.png`, `test/cat/2.png`, or `cat/1.png` only), a folder
    with the four IDX files of a data set (gzipped or not, MNIST's or EMNIST's names), an .npz file
    with x_train, y_train, x_test and y_test, a Parquet file or a folder of some, or what Hugging
    Face's `save_to_disk` wrote. Where no validation set is given, a twelfth of
    the training images is held out as one: the last ones of IDX and .npz files, else some of every
    class. `image_size` resizes pictures' shorter side and cuts out the middle square; `channels`,
    "rgb" or "grey", converts all pictures to that.
    Pixels of more than `data_memory` bytes are streamed.
    Raises `DataError` if there is nothing of the kind there, or if it is damaged or
    contradicts itself.
    """
    conversion = Conversion(image_size=image_size, channels=channels)
    dataset = open_dataset(str(source), conversion, data_memory=data_memory)
    return within(data_memory, dataset)


def absolute(source: str) -> str:
    """The source, a path made absolute."""
    if not is_path(source):
        return source
    return os.path.abspath(Path(source).expanduser())  # noqa: PTH100 - links stay links


def is_path(source: str) -> bool:
    """Whether a source is a path, neither bundled nor from Python."""
    return source not in BUNDLED and not source.startswith(GIVEN)


def takes_conversion(source: str) -> bool:
    """Whether a source holds picture files. Raises `DataError` if it is no source."""
    return is_path(source) and source_kind(source) in (_TABLES, _FOLDERS, ".parquet file")


def open_dataset(
    source: str, conversion: Conversion = AS_IS, *, data_memory: int = DATA_MEMORY
) -> Dataset:
    """As `load_dataset`, but pictures are decoded when they are needed."""
    if source in BUNDLED:
        _refuse_conversion(source, conversion)
        return BUNDLED[source]()
    if source.startswith(GIVEN):
        raise DataError(
            f"the data {source.removeprefix(GIVEN)!r} came from Python and are not stored. Pass "
            "them again in Python: data=…. On the command line name their files: sparring evaluate "
            "RUN --data PATH"
        )
    path, is_folder = _existing(source)
    if is_folder:
        return _open_folder(path, conversion, data_memory)
    if path.suffix.lower() == ".npz":
        _refuse_conversion(source, conversion)
        return load_npz(path, data_memory=data_memory)
    if path.suffix.lower() == ".parquet":
        return _open_tables(path, conversion)
    raise DataError(
        f"{source} is neither an .npz nor a .parquet file. Of IDX files give the folder; save "
        "anything else with numpy.savez."
    )


def _open_tables(path: Path, conversion: Conversion) -> Dataset:
    tables = find_tables(path)
    assert tables is not None  # the callers have found them
    return open_tables(tables, conversion)


def source_kind(source: str) -> str:
    """The kind of data set, by names only. Raises `DataError` if it is none."""
    if source in BUNDLED:
        return "bundled"
    path, is_folder = _existing(source)
    return folder_kind(path) if is_folder else f"{path.suffix.lower() or 'other'} file"


def _existing(source: str) -> tuple[Path, bool]:
    """The path of a source, and whether it is a folder. Raises `DataError` if it is missing."""
    try:
        path = Path(source).expanduser()
        is_folder, is_file, is_there = path.is_dir(), path.is_file(), os.path.lexists(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{source!r:.200} is no path: {told(error)}. {_KINDS}") from error
    if is_there and not (is_folder or is_file):
        raise DataError(f"data must be a folder or a regular file; {source} is neither. {_KINDS}")
    if not source or not (is_folder or is_file):
        raise DataError(f"there is no file or folder {source or repr(source)}. {_hint(source)}")
    return path, is_folder


def _open_folder(folder: Path, conversion: Conversion, data_memory: int) -> Dataset:
    kind = folder_kind(folder)
    if kind == _TABLES:
        return _open_tables(folder, conversion)
    if kind == "IDX files":
        _refuse_conversion(str(folder), conversion)
        return load_folder(folder, data_memory=data_memory)
    return open_class_folders(folder, conversion)


def folder_kind(folder: Path) -> str:
    """The kind of data set in a folder, by names only. Raises `DataError` if it is none."""
    if is_idx_folder(folder):
        return "IDX files"
    if find_tables(folder) is not None:
        return _TABLES
    if has_folders(folder):
        return _FOLDERS
    raise DataError(
        f"there is no data set in {folder}; it holds {listing(folder)}. Give the folder above a "
        "folder of pictures for each class (cat/1.png, or train/cat/1.png and test/cat/2.png), or "
        "that of four IDX files (train-images-idx3-ubyte and so on)."
    )


def _refuse_conversion(source: str, conversion: Conversion) -> None:
    if conversion != AS_IS:
        raise DataError(
            f"image_size and channels convert picture files only; {source} holds arrays of one "
            "shape. Leave them out (null), or convert the images where the data set is made."
        )


_KINDS = (
    "Data are mnist (bundled), a folder of class folders of pictures, a folder of four IDX files, "
    "an .npz file, Parquet files, or a Hugging Face data set saved to disk."
)


def _hint(source: str) -> str:
    bundled = get_close_matches(source.lower(), BUNDLED, n=1)
    if bundled:
        return f"Did you mean {bundled[0]}?"
    path = Path(source).expanduser()
    try:
        near = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    except OSError:
        return f"The folder {path.parent} cannot be read either. {_KINDS}"
    if near:
        return f"Did you mean {path.parent / near[0]}?"
    return f"Paths are relative to {Path.cwd()}. {_KINDS}"
