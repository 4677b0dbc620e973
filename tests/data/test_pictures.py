"""What a picture file becomes, whatever it holds."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures import picture
from sparring.data.pictures import read_kind, read_picture
from sparring.errors import ConfigError, DataError


def saved(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **more)
    return content.getvalue()


def levels(image: Image.Image) -> torch.Tensor:
    array = torch.from_numpy(np.array(image))
    return array[None] if array.dim() == 2 else array.permute(2, 0, 1)


GREY, COLOUR = picture(0, channels=1), picture(1)


@pytest.mark.parametrize(("image", "channels"), [(GREY, 1), (COLOUR, 3)])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_lossless_files_are_read_as_they_are(image, channels, kind):
    content = saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    found = read_picture(content)
    if kind == "WEBP":  # has no grey pictures
        found, channels = found[: levels(image).shape[0]], 3
    assert torch.equal(found, levels(image))
    assert read_kind(content) == (channels, 6, 5)


def test_a_file_and_its_bytes_are_the_same_picture(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(saved(COLOUR, "JPEG"))
    assert torch.equal(read_picture(tmp_path / "a.jpg"), read_picture(saved(COLOUR, "JPEG")))


def test_16_bits_are_rounded_to_8():
    deep = np.array([[0, 128, 129, 257, 65_535, 65_407]], dtype=np.uint16)
    found = read_picture(saved(Image.fromarray(deep)))
    assert found.flatten().tolist() == [0, 0, 1, 1, 255, 255]
    assert read_kind(saved(Image.fromarray(deep))).channels == 1


def test_one_bit_is_black_and_white():
    content = saved(Image.fromarray(np.array([[True, False]])))
    assert read_picture(content).tolist() == [[[255, 0]]]


def test_a_palette_is_colour():
    content = saved(COLOUR.quantize(256))
    assert torch.equal(read_picture(content), levels(COLOUR))
    assert read_kind(content).channels == 3


@pytest.mark.parametrize("image", [GREY, COLOUR])
def test_transparency_is_laid_over_white(image):
    clear, opaque = image.copy(), image.copy()
    clear.putalpha(0)
    opaque.putalpha(255)
    assert torch.equal(read_picture(saved(opaque)), levels(image))
    found = read_picture(saved(clear))
    assert torch.equal(found, torch.full_like(levels(image), 255))
    assert read_kind(saved(clear)).channels == len(found)


def test_a_transparent_colour_of_a_palette_is_white():
    content = saved(Image.new("P", (3, 2), 0), transparency=0)
    assert torch.equal(read_picture(content), torch.full((3, 2, 3), 255, dtype=torch.uint8))


def test_cmyk_is_colour():
    red = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    found = read_picture(saved(red, "TIFF"))
    assert found[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_turned_picture_is_turned_back(kind, orientation):
    noted = Image.Exif()
    noted[0x0112] = orientation
    content = saved(COLOUR, kind, exif=noted)
    plain = read_picture(saved(COLOUR, kind))
    turns = {1: 0, 3: 2, 6: 3}[orientation]
    assert torch.equal(read_picture(content), plain.rot90(turns, (1, 2)))
    assert tuple(read_kind(content)) == tuple(read_picture(content).shape)


def test_a_turned_tiff_is_turned_back_once_whatever_its_mode():
    noted = Image.Exif()
    noted[0x0112] = 6
    image = COLOUR.convert("CMYK")
    found = read_picture(saved(image, "TIFF", exif=noted))
    assert torch.equal(found, read_picture(saved(image, "TIFF")).rot90(3, (1, 2)))


def test_a_turned_picture_that_is_transparent_is_turned_back():
    noted, image = Image.Exif(), COLOUR.copy()
    noted[0x0112] = 6
    image.putalpha(255)
    assert torch.equal(read_picture(saved(image, exif=noted)), levels(COLOUR).rot90(3, (1, 2)))


def test_of_several_frames_the_first_is_taken():
    frames = [Image.new("RGB", (2, 2), name) for name in ("red", "blue")]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_picture(content)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (4, 4), (2, 3)])
def test_the_middle_square_of_the_shorter_side_is_taken(shape):
    rows, columns = shape
    ramp = np.zeros((rows, columns), dtype=np.uint8)
    middle = min(rows, columns)
    top, left = (rows - middle) // 2, (columns - middle) // 2
    ramp[top : top + middle, left : left + middle] = 200
    found = read_picture(saved(Image.fromarray(ramp)), image_size=middle)
    assert torch.equal(found, torch.full((1, middle, middle), 200, dtype=torch.uint8))
    assert read_kind(saved(Image.fromarray(ramp)), image_size=7) == (1, 7, 7)
    assert read_picture(saved(Image.fromarray(ramp)), image_size=7).shape == (1, 7, 7)


def test_shrinking_averages_what_falls_together():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    found = read_picture(saved(Image.fromarray(board.astype(np.uint8))), image_size=8)
    assert (found.float() - 127.5).abs().max() < 3


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_be_asked_for(channels):
    for image in (GREY, COLOUR):
        assert read_picture(saved(image), channels=channels).shape == (channels, 6, 5)
    assert torch.equal(read_picture(saved(GREY), channels=3), levels(GREY).repeat(3, 1, 1))


@pytest.mark.parametrize(
    "content", [b"", b"hello", saved(COLOUR)[:60], saved(COLOUR, "JPEG")[:200]]
)
def test_damaged_pictures_are_named(content):
    with pytest.raises(DataError, match=r"upload\.png must be a whole picture.*Fetch the file"):
        read_picture(content, name="upload.png")


def test_numbers_without_a_range_are_refused():
    content = saved(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF")
    with pytest.raises(DataError, match=r"deep\.tif cannot be used.*mode F, whose range"):
        read_picture(content, name="deep.tif")
    with pytest.raises(DataError, match=r"mode F, whose range"):
        read_kind(content)


def test_files_that_cannot_be_opened_are_named(tmp_path: Path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError, match=rf"{path} must be a readable file"):
            read_picture(path)


def test_a_size_of_nought_is_refused():
    with pytest.raises(ConfigError, match=r"image_size must be 1 or more"):
        read_picture(saved(GREY), image_size=0)
