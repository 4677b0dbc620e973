import gzip

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data.idx_files import idx_bytes
from sparring.data.idx import read_images, read_labels
from sparring.errors import DataError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
CONTENT = idx_bytes(IMAGES)


@settings(derandomize=True, deadline=None, max_examples=40)
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
        (b"", r"IDX file.*00 00 08 03; they are nothing"),
        (b"PK\x03\x04....", r"IDX file.*they are 50 4b 03 04"),
        (idx_bytes(IMAGES, type_code=0x0D), r"unsigned bytes.*type is 0x0d"),
        (idx_bytes(IMAGES[0, 0]), r"3 dimension.*it has 1.*swapped"),
        (CONTENT[:9], r"header of 16 bytes; it holds 9 bytes in all: the file is truncated"),
        (CONTENT[:-1], r"exactly 40 bytes.*2 x 3 x 4 numbers; it holds 39: the data are truncated"),
        (CONTENT + b"\0", r"exactly 40 bytes.*it holds 41: the data are followed by trailing"),
        (idx_bytes(IMAGES[:0]), r"at least one number; its header announces 0 x 3 x 4"),
        (gzip.compress(CONTENT, mtime=0)[:-12], r"whole gzip stream.*the file is truncated"),
        (
            gzip.compress(CONTENT, mtime=0)[:-8] + b"\0" * 8,
            r"intact gzip stream; it is corrupt \(CRC",
        ),
        (gzip.compress(CONTENT, mtime=0)[:10] + b"\xff" * 20, r"intact gzip stream; it is corrupt"),
        (gzip.compress(CONTENT, mtime=0) + b"junk", r"intact gzip stream; it is corrupt"),
        (gzip.compress(CONTENT[:-1], mtime=0), r"exactly 40 bytes \(uncompressed\).*truncated"),
    ],
)
def test_a_malformed_file_is_refused_by_name_and_reason(tmp_path, content, complaint):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"train-images-idx3-ubyte must .*{complaint}"):
        read_images(path)


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"nowhere must be a readable file; got: No such file"):
        read_images(tmp_path / "nowhere")


@settings(derandomize=True, deadline=None, max_examples=40)
@given(cut=st.integers(0, len(CONTENT) - 1), zipped=st.booleans())
def test_no_truncation_goes_unnoticed(tmp_path_factory, cut, zipped):
    content = gzip.compress(CONTENT, mtime=0) if zipped else CONTENT
    path = tmp_path_factory.mktemp("idx") / "images"
    path.write_bytes(content[:cut])
    with pytest.raises(DataError):
        read_images(path)
