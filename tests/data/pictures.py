"""Folders of small picture files whose contents are known exactly."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "ähre")


def picture(number: int, *, rows: int = 6, columns: int = 5, channels: int = 3) -> Image.Image:
    """Random levels, other ones for every number."""
    levels = np.random.default_rng(number).integers(0, 256, (rows, columns, channels), np.uint8)
    return Image.fromarray(levels[:, :, 0] if channels == 1 else levels)


def write_pictures(
    root: Path,
    counts: dict[str, int],
    *,
    classes: tuple[str, ...] = CLASSES,
    **shape: int,
) -> Path:
    """So many pictures of every class in each part; the part "" has the classes in the root."""
    number = 0
    for part, count in counts.items():
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for _ in range(count):
                picture(number, **shape).save(folder / f"{number:03d}.png")
                number += 1
    return root
