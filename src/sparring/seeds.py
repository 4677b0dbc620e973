"""Seeds that are functions of what they are for, never of time, process or order of calls."""

import operator
from hashlib import blake2b

_SEED_BITS = 63
"""torch seeds are signed 64-bit numbers: 63 bits keep every seed non-negative."""


def derive_seed(*parts: int | str) -> int:
    """The seed that belongs to `parts`: a number in [0, 2**63) that looks random.

    The same parts give the same seed on every machine and in every version of Python; other
    parts, another order or another grouping (`1, 23` and `12, 3`; `1` and `"1"`) give an
    unrelated one. Numbers may be negative and of any size. Cost: about a microsecond.
    Raises `TypeError` for a part that is neither a whole number nor text.
    """
    digest = blake2b(b"".join(map(_encode, parts)), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _SEED_BITS)


def _encode(part: int | str) -> bytes:
    """One part with its kind and length in front, so that no two lists of parts look alike."""
    kind, text = ("s", part) if isinstance(part, str) else ("i", str(operator.index(part)))
    payload = text.encode(errors="surrogatepass")  # names of files that are not UTF-8
    return f"{kind}{len(payload)}:".encode() + payload
