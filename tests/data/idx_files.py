"""Small IDX files and data sets whose contents are known exactly."""

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparring.data import Images

STANDARD = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def idx_bytes(array: np.ndarray, type_code: int = 8) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, type_code, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def small_arrays(num_train: int = 24, num_test: int = 6) -> dict[str, np.ndarray]:
    """Three classes in turn; 4 x 5 images of random grey levels."""
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (num_train, 4, 5), dtype=np.uint8),
        "y_train": (np.arange(num_train) % 3).astype(np.uint8),
        "x_test": random.integers(0, 256, (num_test, 4, 5), dtype=np.uint8),
        "y_test": (np.arange(num_test) % 3).astype(np.uint8),
    }


def write_folder(
    folder: Path, arrays: dict[str, np.ndarray], names: dict[str, str] = STANDARD
) -> Path:
    """The four files; those whose name ends in .gz are gzipped."""
    folder.mkdir(exist_ok=True)
    for key, name in names.items():
        content = idx_bytes(arrays[key])
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def pixels_of(images: Images) -> Tensor:
    """All grey levels of a set."""
    return images.levels(torch.arange(len(images)))
