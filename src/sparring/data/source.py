"""Where a data set comes from: the bundled MNIST, a folder of IDX files or an .npz file."""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from sparring.data.folder import load_folder
from sparring.data.images import Dataset
from sparring.data.mnist import load_mnist
from sparring.data.npz import load_npz
from sparring.errors import DataError

_BUNDLED: MappingProxyType[str, Callable[[], Dataset]] = MappingProxyType({"mnist": load_mnist})


def load_dataset(source: str) -> Dataset:
    """The data set that `source` names, read whole into memory and checked.

    `source` is `mnist` (bundled; write `./mnist` for a folder of that name), a folder with the
    four IDX files of a data set (gzipped or not, MNIST's or EMNIST's names), or an .npz file with
    x_train, y_train, x_test and y_test. Where no validation set is given, the last twelfth of
    the training images is held out as one, at least one image.
    Raises `DataError` if there is nothing of the kind there, or if it is damaged or
    contradicts itself.
    """
    if source in _BUNDLED:
        return _BUNDLED[source]()
    try:
        path = Path(source).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{_what_must_hold(source)}; it cannot be a path: {error}.") from error
    if not source or not (is_folder or is_file):
        raise DataError(f"{_what_must_hold(source)}; there is nothing there. {_hint(source)}")
    if is_folder:
        return load_folder(path)
    if path.suffix.lower() == ".npz":
        return load_npz(path)
    raise DataError(
        f"{_what_must_hold(source)}; it is a file of another kind. For IDX files, give the folder "
        "that holds all four; for anything else, save it with numpy.savez."
    )


def _what_must_hold(source: str) -> str:
    """The rule that every wrong source breaks."""
    return (
        f"The data must be {', '.join(_BUNDLED)} (bundled), a folder with four IDX files or an "
        f".npz file; got {source!r}"
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
