"""Amounts of memory as people write them: `64MiB`, `2 GB`, `4096`."""

import re
from types import MappingProxyType
from typing import Annotated

BYTES = "bytes"
"""Marks a setting that may be written with a unit."""
ByteCount = Annotated[int, BYTES]
"""An amount of memory; in JSON a number, or text such as "64MiB"."""

_UNITS = MappingProxyType(
    {"": 1, "b": 1}
    | {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)}
    | {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)}
)
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


def bytes_from(text: str) -> int:
    """Bytes from `4096`, `64MiB` or `2 GB`, in any case. Raises `ValueError` for anything else."""
    found = _AMOUNT.fullmatch(text)
    if found is None or found[2].lower() not in _UNITS:
        raise ValueError(f"must be a number of bytes such as 4096, 64MiB or 2GB; got {text}.")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def bytes_text(count: int) -> str:
    """An amount of memory to three digits, which `bytes_from` reads: `64MiB`, `1.21GiB`."""
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_BINARY) - 1:
        size, unit = size / 1024, unit + 1
    number = f"{size:.3g}" if size < 999.5 else f"{size:.0f}"
    return number + _BINARY[unit]
