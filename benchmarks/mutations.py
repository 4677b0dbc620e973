"""Damage to files, as bytes to bytes: of any file, and of the parts of formats that are known.

Every mutator takes a source of random numbers and the content of a file that can be read, and
gives another content.
"""

import gzip
import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, MutableMapping, MutableSequence
from typing import Any

import torch

Mutator = Callable[[random.Random, bytes], bytes]

DEEP = 100_000
"""Levels of nesting beyond every parser's limit."""
STRANGE = [
    None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, 10**30, -(2**40), 0.5, -0.0, 1e308, -1e308,
    "", " ", "\x1b[31mred\x1b[0m", "\ud800", "a\0b", "\u202e\u0007\u009b", "x" * 5000, "1e999",
    "../../etc/passwd", "/dev/zero", "9" * 5000, [], {}, [[]], {"": {}}, [None] * 50, {"kind": "?"},
]  # fmt: skip
"""Values that do not belong where they are put."""
RAW = ["NaN", "Infinity", "-Infinity", "9" * 5000, "1e9999", "[" * DEEP, "[" * 500 + "]" * 500]
"""What no JSON library writes."""


def bits(chance: random.Random, content: bytes) -> bytes:
    """Some bits flipped."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def early_bits(chance: random.Random, content: bytes) -> bytes:
    """Bytes near the beginning, where headers are, replaced."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 2, 4))):
        if changed:
            place = chance.randrange(min(len(changed), 256))
            changed[place] = chance.choice((0, 255, 127, 128, chance.randrange(256)))
    return bytes(changed)


def cut(chance: random.Random, content: bytes) -> bytes:
    """The end, the beginning or the middle missing."""
    first, second = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return chance.choice((content[:first], content[first:], content[:first] + content[second:]))


def splice(chance: random.Random, content: bytes) -> bytes:
    """A part of it, zeros or noise in the place of another part, or behind it."""
    first, second = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    size = min(second - first, 4096)
    part = chance.choice((content[first : first + size], bytes(size), chance.randbytes(size)))
    place = chance.choice((chance.randrange(len(content) + 1), len(content)))
    return content[:place] + part + content[place + chance.choice((0, size)) :]


ANY: tuple[Mutator, ...] = (bits, early_bits, cut, splice)


def _holders(value: Any) -> list[tuple[Any, Any]]:
    """Every place in nested values, as what holds it and its name there."""
    found, waiting = [], [value]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, MutableMapping):
            names: list[Any] = list(holder)
        elif isinstance(holder, MutableSequence):
            names = list(range(len(holder)))
        else:
            continue
        found += [(holder, name) for name in names]
        waiting += [holder[name] for name in names]
    return found


def _changed(chance: random.Random, value: Any, strange: list[Any]) -> Any:
    """The value with one of its places changed, left out, renamed or exchanged."""
    places = _holders(value)
    if not places or chance.random() < 0.03:
        return chance.choice(strange)
    holder, name = chance.choice(places)
    match chance.randrange(6):
        case 0:
            del holder[name]
        case 1 if isinstance(holder, MutableMapping):
            holder[f"{name}x"] = holder.pop(name)
        case 2:
            other, place = chance.choice(places)
            if other is not holder:
                holder[name] = other.get(place) if hasattr(other, "get") else None
        case 3 if isinstance(holder, MutableSequence):
            holder.insert(name, holder[name])
        case _:
            holder[name] = chance.choice(strange)
    return value


def json_values(chance: random.Random, content: bytes) -> bytes:
    """One value of a JSON document changed."""
    value = json.loads(content)
    if chance.random() < 0.15:
        token = "@raw@"
        text = json.dumps(_changed(chance, value, [token]))
        return text.replace(f'"{token}"', chance.choice(RAW), 1).encode()
    text = json.dumps(_changed(chance, value, STRANGE))
    if chance.random() < 0.05:
        text = re.sub(r'("[^"]*": )', r"\g<1>0, \g<1>", text, count=1)  # a name twice
    return text.encode()


def json_lines(chance: random.Random, content: bytes) -> bytes:
    """One line of many changed, left out, repeated or moved."""
    lines = content.splitlines()
    place = chance.randrange(len(lines))
    match chance.randrange(8):
        case 0:
            del lines[place]
        case 1:
            lines.insert(chance.randrange(len(lines)), lines[place])
        case 2:
            lines[place] = bits(chance, lines[place])
        case _:
            lines[place] = json_values(chance, lines[place])
    return b"\n".join(lines) + b"\n"


def archive(chance: random.Random, content: bytes) -> bytes:
    """A zip archive with a member changed, its checksum being right, or its directory changed."""
    what = chance.randrange(5)
    if what == 0:
        return _directory(chance, content)
    with zipfile.ZipFile(io.BytesIO(content)) as given:
        members = {each.filename: given.read(each) for each in given.infolist()}
    name = chance.choice(list(members))
    if what == 1:
        members[name + "x"] = members.pop(name)
    elif what == 2:
        del members[name]
    elif members[name][:6] == b"\x93NUMPY" and chance.random() < 0.7:
        members[name] = _npy_header(chance, members[name])
    else:
        members[name] = chance.choice(ANY)(chance, members[name])
    packed = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as made:
        for each, data in members.items():
            made.writestr(each, data)
    return buffer.getvalue()


def _directory(chance: random.Random, content: bytes) -> bytes:
    """A number in the header of a member, or in the directory, replaced."""
    changed = bytearray(content)
    starts = [m.start() for m in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06)", content)]
    place = chance.choice(starts) + chance.randrange(4, 46)
    width = chance.choice((2, 4))
    value = chance.choice((0, 1, 8, 99, 2 ** (8 * width) - 1, chance.randrange(2 ** (8 * width))))
    if place + width <= len(changed):
        changed[place : place + width] = value.to_bytes(width, "little")
    return bytes(changed)


HEADERS = (
    "{'descr': '|u1', 'fortran_order': False, 'shape': (100000000000, 28, 28), }",
    "{'descr': '|u1', 'fortran_order': True, 'shape': (-1,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (4,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (), }",
    "{'descr': '<c16', 'fortran_order': False, 'shape': (2, 2), }",
    "{'descr': '<U4', 'fortran_order': False, 'shape': (2, 2), }",
    "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': ((((",
    "\x00\t'",
    "0x" * 500,
    "(" * 3000,
    "{'descr': '|V1000000000', 'fortran_order': False, 'shape': (9,), }",
)


def _npy_header(chance: random.Random, content: bytes) -> bytes:
    header = chance.choice(HEADERS).encode()
    if chance.random() < 0.3:
        return content[:10] + chance.choice(ANY)(chance, content[10:128]) + content[128:]
    return content[:8] + struct.pack("<H", len(header)) + header + content[128:]


def tensors(chance: random.Random, content: bytes) -> bytes:
    """What `torch.save` wrote with one value or tensor changed: the file itself is whole."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    places = [(h, n) for h, n in _holders(state) if isinstance(h[n], torch.Tensor)]
    if places and chance.random() < 0.6:
        holder, name = chance.choice(places)
        holder[name] = _changed_tensor(chance, holder[name])
    else:
        strange = [value for value in STRANGE if value != "\ud800"]
        state = _changed(chance, state, [*strange, torch.zeros(3), torch.tensor(7)])
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _changed_tensor(chance: random.Random, value: torch.Tensor) -> torch.Tensor:
    wide = value.clone()
    number = float(chance.choice(("nan", "inf", "-inf", "1e30")))
    return chance.choice(
        [
            wide.double(),
            wide.to(torch.int64) if wide.is_floating_point() else wide.float(),
            wide.flatten(),
            wide[None],
            wide[:0] if wide.ndim else wide[None][:0],
            ~wide if wide.dtype == torch.bool else torch.full_like(wide, -5),
            wide.to(torch.complex64),
            torch.empty_like(wide, device="meta"),
            torch.full_like(wide, number if wide.is_floating_point() else 100),
        ]
    )


def safetensors_header(chance: random.Random, content: bytes) -> bytes:
    """The header of a safetensors file, or its length, changed."""
    (size,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + size], content[8 + size :]
    if chance.random() < 0.2:
        return struct.pack("<Q", chance.choice((0, 1, size + 1, 2**40, 2**63))) + content[8:]
    header = json_values(chance, header)
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def png(chance: random.Random, content: bytes) -> bytes:
    """A chunk of a PNG changed, with a checksum that is right, or left out or repeated."""
    chunks, place = [], 8
    while place + 8 <= len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += size + 12
    number = chance.randrange(len(chunks))
    kind, data = chunks[number]
    match chance.randrange(6):
        case 0:
            del chunks[number]
        case 1:
            chunks.insert(number, chunks[number])
        case 2:
            chunks.insert(1, (b"tEXt", b"Comment\0" + bytes(200_000)))
        case 3:
            sizes = struct.pack(">II", *(chance.choice((0, 1, 20_000, 2**31 - 1)) for _ in "ab"))
            chunks[0] = (b"IHDR", sizes + chunks[0][1][8:])
        case 4:
            chunks.insert(1, (b"zTXt", b"a\0\0" + zlib.compress(bytes(10_000_000))))
        case _:
            chunks[number] = (kind, chance.choice(ANY)(chance, data))
    made = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return content[:8] + made


def idx(chance: random.Random, content: bytes) -> bytes:
    """A size in the header of an IDX file changed."""
    changed = bytearray(content)
    place = chance.choice((0, 4, 8, 12))
    value = chance.choice((0, 1, 5, 2**31, 2**32 - 1, 0x0D, chance.randrange(2**32)))
    changed[place : place + 4] = struct.pack(">I", value)
    return bytes(changed)


def gzipped(inner: Mutator) -> Mutator:
    """The content of a gzip file changed, or thousands of times as long, and packed again."""

    def mutate(chance: random.Random, content: bytes) -> bytes:
        plain = gzip.decompress(content)
        if chance.random() < 0.05:
            return gzip.compress(plain + bytes(200_000_000), 1)
        return gzip.compress(inner(chance, plain), 1)

    return mutate
