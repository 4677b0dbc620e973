"""What a picture file becomes, whatever it holds."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from data.pictures import picture
from sparring.data.pictures import Conversion, picture_levels, read_kind, read_picture
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


def tiff(rows: np.ndarray, bits: int) -> bytes:
    """Grey, uncompressed, with packed samples, as the format's specification has it."""
    packed = ["".join(f"{level:0{bits}b}" for level in row) for row in rows.tolist()]
    lines = [line + "0" * (-len(line) % 8) for line in packed]
    data = b"".join(int(line, 2).to_bytes(len(line) // 8, "big") for line in lines)
    tags = {256: rows.shape[1], 257: rows.shape[0], 258: bits, 259: 1, 262: 1}
    tags |= {273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: rows.shape[0], 279: len(data)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data


def test_12_bits_are_rounded_to_8():
    deep = np.array([[0, 1, 8, 9, 2048, 4087, 4095, 4095]])
    (found,) = read_picture(tiff(deep, 12))
    assert found.tolist() == np.round(deep / 4095 * 255).astype(int).tolist()


def png(kind: int, bits: int, pixels: list[tuple[int, ...]], key: tuple[int, ...]) -> bytes:
    """One row of pixels, one of whose values is transparent."""

    def chunk(name: bytes, content: bytes) -> bytes:
        size, check = len(content), zlib.crc32(name + content)
        return struct.pack(">I", size) + name + content + struct.pack(">I", check)

    form = ">B" if bits == 8 else ">H"
    row = bytes(1) + b"".join(struct.pack(form, level) for pixel in pixels for level in pixel)
    header = struct.pack(">IIBBBBB", len(pixels), 1, bits, kind, 0, 0, 0)
    transparent = b"".join(struct.pack(">H", level) for level in key)
    chunks = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(row))]
    start = bytes([0x89]) + b"PNG" + bytes([13, 10, 26, 10])
    return start + b"".join(chunk(*each) for each in [*chunks, (b"IEND", b"")])


def test_a_transparent_level_of_16_bits_is_laid_over_white():
    assert read_picture(png(0, 16, [(0,), (30_000,), (0,)], (0,))).tolist() == [[[255, 117, 255]]]
    assert read_picture(png(0, 16, [(0,), (30_000,)], (30_000,))).tolist() == [[[0, 255]]]
    pixels = [(0x1234, 0x5678, 0x9ABC), (60_000, 60_000, 60_000), (200, 200, 200)]
    found = read_picture(png(2, 16, pixels, pixels[0]))
    assert found[:, 0].t().tolist() == [[255, 255, 255], [234, 234, 234], [0, 0, 0]]
    assert read_picture(png(2, 16, pixels, pixels[2]))[:, 0, 2].tolist() == [255, 255, 255]
    assert read_picture(png(2, 8, [(1, 2, 3), (4, 5, 6)], (1, 2, 3))).tolist() == [
        [[255, 4]],
        [[255, 5]],
        [[255, 6]],
    ]


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
    found = read_picture(saved(Image.fromarray(ramp)), Conversion(image_size=middle))
    assert torch.equal(found, torch.full((1, middle, middle), 200, dtype=torch.uint8))
    assert read_kind(saved(Image.fromarray(ramp)), Conversion(image_size=7)) == (1, 7, 7)
    assert read_picture(saved(Image.fromarray(ramp)), Conversion(image_size=7)).shape == (1, 7, 7)


def test_shrinking_averages_what_falls_together():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    found = read_picture(saved(Image.fromarray(board.astype(np.uint8))), Conversion(image_size=8))
    assert (found.float() - 127.5).abs().max() < 3


RGB, TO_GREY = Conversion(channels="rgb"), Conversion(channels="grey")


def test_conversion_repeats_grey_levels_and_leaves_what_has_the_channels_already():
    assert torch.equal(read_picture(saved(GREY), RGB), levels(GREY).repeat(3, 1, 1))
    for image, conversion in ((GREY, TO_GREY), (COLOUR, RGB)):
        assert torch.equal(read_picture(saved(image), conversion), levels(image))
    luma = levels(COLOUR).double().mul(torch.tensor([299, 587, 114])[:, None, None]).sum(0) / 1000
    assert (read_picture(saved(COLOUR), TO_GREY)[0] - luma).abs().max() <= 0.51


@pytest.mark.parametrize(
    "content", [b"", b"hello", saved(COLOUR)[:60], saved(COLOUR, "JPEG")[:200]]
)
def test_damaged_pictures_are_named(content):
    with pytest.raises(DataError, match=r"upload\.png is no whole picture.*Fetch the file"):
        read_picture(content, name="upload.png")


def test_numbers_without_a_range_are_refused():
    content = saved(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF")
    with pytest.raises(DataError, match=r"deep\.tif cannot be used.*mode F, whose range"):
        read_picture(content, name="deep.tif")
    with pytest.raises(DataError, match=r"mode F, whose range"):
        read_kind(content)


def test_files_that_cannot_be_opened_are_named(tmp_path: Path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError, match=rf"{path} cannot be read"):
            read_picture(path)


def test_a_size_of_nought_is_refused():
    with pytest.raises(ConfigError, match=r"image_size must be 1 or more"):
        read_picture(saved(GREY), Conversion(image_size=0))


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>{}</tiff:Orientation></x:xmpmeta>'


def exif_of(orientation: int) -> Image.Exif:
    noted = Image.Exif()
    noted[0x0112] = orientation
    return noted


def png_with_text(name: str, text: str, *, behind: bool = False) -> bytes:
    """A PNG with a text chunk before or behind its pixels, as other programs write it."""
    data = name.encode() + b"\0\0" + zlib.compress(text.encode())
    body = b"zTXt" + data
    chunk = struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    content = saved(COLOUR)
    place = content.index(b"IEND") - 4 if behind else content.index(b"IDAT") - 4
    return content[:place] + chunk + content[place:]


def raw_profile(orientation: int) -> str:
    """As ImageMagick keeps EXIF data in a PNG."""
    data = exif_of(orientation).tobytes()
    return f"\nexif\n{len(data):8}\n{data.hex()}\n"


def itxt(orientation: int) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.format(orientation))
    return info


NOTES = {
    "JPEG, EXIF": lambda turn: saved(COLOUR, "JPEG", exif=exif_of(turn)),
    "JPEG, XMP": lambda turn: saved(COLOUR, "JPEG", xmp=XMP.format(turn).encode()),
    "PNG, EXIF": lambda turn: saved(COLOUR, exif=exif_of(turn)),
    "PNG, XMP": lambda turn: saved(COLOUR, pnginfo=itxt(turn)),
    "PNG, raw profile": lambda turn: png_with_text("Raw profile type exif", raw_profile(turn)),
    "PNG, XMP behind": lambda turn: png_with_text(
        "XML:com.adobe.xmp", XMP.format(turn), behind=True
    ),
    "PNG, raw profile behind": lambda turn: png_with_text(
        "Raw profile type exif", raw_profile(turn), behind=True
    ),
    "WEBP, EXIF": lambda turn: saved(COLOUR, "WEBP", lossless=True, exif=exif_of(turn)),
    "WEBP, XMP": lambda turn: saved(COLOUR, "WEBP", lossless=True, xmp=XMP.format(turn).encode()),
    "TIFF, EXIF": lambda turn: saved(COLOUR, "TIFF", tiffinfo={0x0112: turn}),
    "TIFF, XMP": lambda turn: saved(COLOUR, "TIFF", tiffinfo={700: XMP.format(turn).encode()}),
    "AVIF, EXIF": lambda turn: saved(COLOUR, "AVIF", exif=exif_of(turn)),
}
TURNS = {
    1: lambda levels: levels,
    2: lambda levels: levels.flip(2),
    3: lambda levels: levels.flip(1, 2),
    4: lambda levels: levels.flip(1),
    5: lambda levels: levels.transpose(1, 2),
    6: lambda levels: levels.rot90(3, (1, 2)),
    7: lambda levels: levels.rot90(2, (1, 2)).transpose(1, 2),
    8: lambda levels: levels.rot90(1, (1, 2)),
}


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("orientation", TURNS)
def test_header_and_pixels_agree_about_every_note_of_a_turn(note, orientation):
    content, plain = NOTES[note](orientation), read_picture(NOTES[note](1))
    assert torch.equal(read_picture(content), TURNS[orientation](plain))
    assert tuple(read_kind(content)) == tuple(read_picture(content).shape)
    with Image.open(io.BytesIO(content)) as opened:
        assert torch.equal(picture_levels(opened), read_picture(content))


MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_header_says_what_is_decoded(kind, mode, orientation):
    try:
        content = saved(COLOUR.convert(mode), kind, exif=exif_of(orientation))
    except (OSError, ValueError, KeyError):
        return  # a kind that has no such pixels
    for conversion in (Conversion(), RGB, TO_GREY):
        assert tuple(read_kind(content, conversion)) == read_picture(content, conversion).shape


def header_of_png(columns: int, rows: int) -> bytes:
    """A PNG of a few bytes that announces this size."""
    body = b"IHDR" + struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    chunks = [body, b"IDAT" + zlib.compress(b"\0" * 100), b"IEND"]
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in chunks:
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content


@pytest.mark.parametrize(
    ("size", "image_size", "complaint"),
    [
        ((13_000, 13_000), None, r"it is 13,000 x 13,000, more than 67,108,864 pixels"),
        ((9_000, 9_000), 32, r"it is 9,000 x 9,000, more than 67,108,864 pixels"),
        ((1_000_000, 1_000_000), None, r"picture"),
        ((1, 60_000), 32, r"it is 1 x 60,000; image_size needs sides of at most 64 to 1"),
        ((60_000, 1), 1, r"it is 60,000 x 1"),
        ((100, 100), 100_000, r"to image_size 100,000, its 100 x 100 become more than 67,108,864"),
    ],
)
@pytest.mark.parametrize("read", [read_kind, read_picture])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_would_take_gigabytes_is_refused_by_its_header(
    size, image_size, complaint, read
):
    with pytest.raises(DataError, match=complaint):
        read(header_of_png(*size), Conversion(image_size=image_size))


def test_a_thin_picture_is_read_as_it_is():
    thin = Image.fromarray(np.arange(30_000, dtype=np.uint32).astype(np.uint8)[None])
    assert read_picture(saved(thin)).shape == (1, 1, 30_000)
    assert read_picture(saved(thin.resize((64, 1))), Conversion(image_size=4)).shape == (1, 4, 4)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "null byte", "circle"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str):
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "circle":
        path.symlink_to(path)
    named = {"device": Path("/dev/zero"), "null byte": Path("a\0.png")}.get(kind, path)
    for read in (read_kind, read_picture):
        with pytest.raises(DataError, match=r"cannot be read: "):
            read(named)


def test_a_kind_that_would_start_programs_is_not_opened():
    with pytest.raises(DataError, match=r"unknown format"):
        read_picture(saved(COLOUR, "EPS"))


@settings(derandomize=True, max_examples=300)
@given(
    note=st.sampled_from(sorted(NOTES)),
    place=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
    cut=st.booleans(),
)
@pytest.mark.filterwarnings("ignore")
def test_any_damage_is_told_in_a_sentence(note, place, value, cut):
    content = bytearray(NOTES[note](6))
    spot = int(place * len(content))
    content[spot] = value
    damaged = bytes(content[:spot] if cut else content)
    for read in (read_kind, read_picture):
        try:
            read(damaged)
        except DataError as error:
            assert len(str(error)) < 600
