"""The MNIST database, which comes with the package: nothing is downloaded.

What is checked whenever it is read is the SHA-256 of each file's uncompressed bytes. They are
the bytes that LeCun, Cortes and Burges published: their MD5 sums, which others have listed for
years, are in the README beside the files and hold too. The gzip wrapping is not theirs.
"""

from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import torch

from sparring.data.idx import parse_idx, read_content
from sparring.data.images import Dataset
from sparring.data.split import Labelled, assemble
from sparring.errors import DataError

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
