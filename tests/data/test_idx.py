import gzip
import os
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data.idx_files import STANDARD, idx_bytes, small_arrays, write_folder
from sparring.data.idx import load_folder, read_images, read_labels
from sparring.errors import DataError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
CONTENT = idx_bytes(IMAGES)


@settings(derandomize=True, max_examples=40)
@given(
    images=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=3, max_dims=3)),
    zipped=st.booleans(),
)
def test_what_was_written_is_read(tmp_path_factory, images, zipped):
    path = tmp_path_factory.mktemp("idx") / "images"
    path.write_bytes(gzip.compress(idx_bytes(images)) if zipped else idx_bytes(images))
    assert np.array_equal(read_images(path).numpy(), images)


def test_labels_are_read_as_64_bit_numbers(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(np.array([0, 255, 7])))
    labels = read_labels(path)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 255, 7]


def test_compression_is_told_by_content_not_by_name(tmp_path):
    zipped, plain = tmp_path / "images", tmp_path / "images.gz"
    zipped.write_bytes(gzip.compress(CONTENT, mtime=0))
    plain.write_bytes(CONTENT)
    assert torch.equal(read_images(zipped), read_images(plain))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", r"is no IDX file: its first bytes are nothing, not 00 00 08 03"),
        (b"PK\x03\x04....", r"is no IDX file: its first bytes are 50 4b 03 04"),
        (idx_bytes(IMAGES, type_code=0x0D), r"holds numbers of type 0x0d.*unsigned bytes"),
        (idx_bytes(IMAGES[0, 0]), r"has 1 dimension.*images has 3.*swapped"),
        (CONTENT[:9], r"is truncated: it holds 9 bytes, its header alone 16"),
        (CONTENT[:-1], r"is truncated: .*2 x 3 x 4 numbers, 40 bytes.*it holds 39"),
        (CONTENT + b"\0", r"has trailing bytes: .*40 bytes.*it holds 41"),
        (idx_bytes(IMAGES[:0]), r"is empty: its header announces 0 x 3 x 4"),
        (gzip.compress(CONTENT, mtime=0)[:-12], r"is truncated: its gzip stream ends"),
        (
            gzip.compress(CONTENT, mtime=0)[:-8] + b"\0" * 8,
            r"is a corrupt gzip stream \(CRC",
        ),
        (gzip.compress(CONTENT, mtime=0)[:10] + b"\xff" * 20, r"is a corrupt gzip stream"),
        (gzip.compress(CONTENT, mtime=0) + b"junk", r"is a corrupt gzip stream"),
        (gzip.compress(CONTENT[:-1], mtime=0), r"is truncated: .*40 bytes in all \(unpacked\)"),
    ],
)
def test_a_malformed_file_is_refused_by_name_and_reason(tmp_path, content, complaint):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"train-images-idx3-ubyte {complaint}"):
        read_images(path)


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"nowhere cannot be read: No such file"):
        read_images(tmp_path / "nowhere")


@settings(derandomize=True, max_examples=40)
@given(cut=st.integers(0, len(CONTENT) - 1), zipped=st.booleans())
def test_no_truncation_goes_unnoticed(tmp_path_factory, cut, zipped):
    content = gzip.compress(CONTENT, mtime=0) if zipped else CONTENT
    path = tmp_path_factory.mktemp("idx") / "images"
    path.write_bytes(content[:cut])
    with pytest.raises(DataError):
        read_images(path)


def bomb(announced: tuple[int, ...], zeros: int) -> bytes:
    """A gzipped IDX file of this header and number of zeros, a member for each MiB."""
    header = struct.pack(f">BBBB{len(announced)}I", 0, 0, 8, len(announced), *announced)
    return gzip.compress(header) + gzip.compress(bytes(1 << 20)) * (zeros >> 20)


MANY = 320 << 20


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        ((24, 4, 5), (MANY,), r"labels.* unpacks from .*KiB to 320MiB"),
        ((MANY, 1, 1), (MANY,), r"images.* unpacks from .*KiB to 320MiB"),
        ((24, 4, 5), (24,), r"has trailing bytes: .*it holds more"),
        ((24, 4, 5), (25,), r"25 labels in .*labels.* for 24 images"),
        ((2**32 - 1,) * 3, (2**32 - 1,), r"unpacks from .*KiB to "),
    ],
)
def test_what_unpacks_to_far_more_is_refused_by_its_header(tmp_path, images, labels, complaint):
    write_folder(tmp_path, small_arrays(), {n: f"{name}.gz" for n, name in STANDARD.items()})
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(bomb(images, MANY))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(bomb(labels, MANY))
    with pytest.raises(DataError, match=complaint):
        load_folder(tmp_path)


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (24, 60_000, 60_000)])
def test_a_header_takes_no_memory_for_what_is_not_there(tmp_path, shape):
    write_folder(tmp_path, small_arrays())
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, *shape)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header + bytes(100))
    for data_memory in (1, 1 << 60):
        with pytest.raises(DataError, match=r"is truncated: .*it holds 116"):
            load_folder(tmp_path, data_memory=data_memory)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "images"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    for read in (read_images, read_labels):
        with pytest.raises(DataError, match=r"cannot be read: "):
            read(path)


@settings(derandomize=True, max_examples=200)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), zipped=st.booleans())
def test_any_damage_is_told_in_a_sentence(tmp_path_factory, place, value, zipped):
    content = bytearray(gzip.compress(CONTENT, mtime=0) if zipped else CONTENT)
    content[int(place * len(content))] = value
    path = tmp_path_factory.mktemp("idx") / "images"
    path.write_bytes(content)
    try:
        assert read_images(path).shape == IMAGES.shape or not zipped
    except DataError as error:
        assert len(str(error)) < 600
