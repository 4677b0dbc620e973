"""Where a data set comes from: the bundled MNIST, or the files at a path.

Nothing is downloaded. Whenever MNIST is read, the SHA-256 of each file's uncompressed bytes is
checked. They are the bytes that LeCun, Cortes and Burges published: their MD5 sums, which others
have listed for years, are in the README beside the files and hold too. The gzip wrapping is not
theirs.
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
"""Where the four files lie."""

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
"""Bytes of a file: the largest has 47 million."""


def load_mnist(folder: Path = FOLDER) -> Dataset:
    """MNIST: 55,000 images to train on, 5,000 for validation, 10,000 to test; 1 x 28 x 28.

    The validation set is the last 5,000 of the published training images.
    Cost: about half a second and 55 MB. Raises `DataError` if a file is missing or is not,
    byte for byte, the published one.
    """
    return assemble("mnist", _part(folder, "train"), _part(folder, "t10k"))


def _part(folder: Path, part: str) -> Labelled:
    """One part's images and labels."""
    images, labels = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    return Labelled(
        pixels=parse_idx(_verified(folder, images), folder / images, 3).unsqueeze(1),
        labels=parse_idx(_verified(folder, labels), folder / labels, 1).to(torch.int64),
        pixels_from=images,
        labels_from=labels,
    )


def _verified(folder: Path, name: str) -> bytes:
    """The uncompressed bytes of one bundled file, known to be the published ones."""
    path = folder / f"{name}.gz"
    if not path.is_file():
        raise DataError(
            f"The bundled MNIST must lie in {folder}; {path.name} is missing. Reinstall sparring."
        )
    content = read_content(path, _LARGEST)
    found = sha256(content).hexdigest()
    if found != SHA256[name]:
        raise DataError(
            f"{path} must be MNIST as published, whose uncompressed SHA-256 is {SHA256[name]}; "
            f"it is {found}. Reinstall sparring, or give your own files as a folder."
        )
    return content


_BUNDLED: MappingProxyType[str, Callable[[], Dataset]] = MappingProxyType({"mnist": load_mnist})
_TABLES = "tables of pictures"
_FOLDERS = "class folders"
GIVEN = "given:"
"""Begins what a run calls data that were handed to it in Python."""


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
    """The same source, a path counted from the root, so that it holds in every folder."""
    if not is_path(source):
        return source
    return os.path.abspath(Path(source).expanduser())  # noqa: PTH100 - links stay links


def is_path(source: str) -> bool:
    """Whether a source is the path of files, and neither bundled nor from Python."""
    return source not in _BUNDLED and not source.startswith(GIVEN)


def takes_conversion(source: str) -> bool:
    """Whether a source holds picture files. Raises `DataError` if it is no source."""
    return is_path(source) and source_kind(source) in (_TABLES, _FOLDERS, ".parquet file")


def open_dataset(
    source: str, conversion: Conversion = AS_IS, *, data_memory: int = DATA_MEMORY
) -> Dataset:
    """As `load_dataset`, but pictures are not decoded before they are asked for.

    For whoever needs a part of them only.
    """
    if source in _BUNDLED:
        _refuse_conversion(source, conversion)
        return _BUNDLED[source]()
    if source.startswith(GIVEN):
        raise DataError(
            f"The data {source.removeprefix(GIVEN)!r} were handed over in Python, and only who has "
            "them can go on with them: give them again (data=…) from there."
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
        f"{_what_must_hold(source)}; it is a file of another kind. For IDX files, give the folder "
        "that holds all four; for anything else, save it with numpy.savez."
    )


def _open_tables(path: Path, conversion: Conversion) -> Dataset:
    tables = find_tables(path)
    assert tables is not None  # whoever asks has found them
    return open_tables(tables, conversion)


def source_kind(source: str) -> str:
    """What kind of data set a source is, by its name and the names in it, without opening it.

    Raises `DataError` if it is none.
    """
    if source in _BUNDLED:
        return "bundled"
    path, is_folder = _existing(source)
    return folder_kind(path) if is_folder else f"{path.suffix.lower() or 'other'} file"


def _existing(source: str) -> tuple[Path, bool]:
    """A path where something is, and whether that is a folder."""
    try:
        path = Path(source).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{_what_must_hold(source)}; it cannot be a path: {error}.") from error
    if not source or not (is_folder or is_file):
        raise DataError(f"{_what_must_hold(source)}; there is nothing there. {_hint(source)}")
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
    """What kind of data set a folder holds, by the names in it. Raises `DataError` for none."""
    if is_idx_folder(folder):
        return "IDX files"
    if find_tables(folder) is not None:
        return _TABLES
    if has_folders(folder):
        return _FOLDERS
    raise DataError(
        f"{folder} must hold a folder of pictures for each class (cat/1.png, or train/cat/1.png "
        "and test/cat/2.png), or the four IDX files of a data set (train-images-idx3-ubyte and so "
        f"on); found: {listing(folder)}. Give the folder that the classes or the files lie in."
    )


def _refuse_conversion(source: str, conversion: Conversion) -> None:
    if conversion != AS_IS:
        raise DataError(
            f"image_size and channels convert picture files only; {source} holds arrays of one "
            "shape. Leave them out (null), or convert the images where the data set is made."
        )


def _what_must_hold(source: str) -> str:
    """The rule that every wrong source breaks."""
    return (
        f"The data must be {', '.join(_BUNDLED)} (bundled), a folder of class folders of pictures, "
        "a folder with four IDX files, an .npz file, or Parquet files or a Hugging Face data set "
        f"saved to disk (the extra parquet); got {source!r}"
    )


def _hint(source: str) -> str:
    """What the user may have meant."""
    bundled = get_close_matches(source.lower(), _BUNDLED, n=1)
    if bundled:
        return f"Did you mean {bundled[0]}?"
    path = Path(source).expanduser()
    try:
        near = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    except OSError:
        return f"The folder {path.parent} cannot be read either."
    if near:
        return f"Did you mean {path.parent / near[0]}?"
    return f"The path counts from {Path.cwd()} unless it begins with a slash."
