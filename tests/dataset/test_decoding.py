"""Every kind of image file: the pixels that come of it, or the sentence."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from nectargan.dataset.decoding import in_mode, probe, read_image
from nectargan.errors import DataError
from nectargan.images.suffixes import IMAGE_SUFFIXES
from tests.dataset.tiffs import FLOAT, SIGNED, write_tiff

Write = Callable[[Path], object]
ROW = np.array([[0, 51, 102, 255]], np.uint8)
RGB = np.array([[[10, 20, 30], [40, 50, 60], [70, 80, 90], [255, 0, 128]]], np.uint8)
SHORTS = np.array([[0, 257, 32896, 65535]], np.uint16)


def saved(pixels: np.ndarray, **options: object) -> Write:
    return lambda path: Image.fromarray(pixels).save(path, **options)


def tiff(pixels: np.ndarray, **options: object) -> Write:
    return lambda path: write_tiff(path, pixels, **options)


def with_bytes(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def palette(**options: object) -> Write:
    def write(path: Path) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putdata([0, 1])
        image.save(path, **options)

    return write


def as_rgba(*pixels: tuple[int, int, int, int]) -> np.ndarray:
    return np.array([pixels], np.uint8)


def frames(path: Path) -> None:
    pages = [Image.new("L", (2, 1), value) for value in (255, 0)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def large_text(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "x" * 3_000_000, zip=True)
    Image.fromarray(RGB).save(path, pnginfo=info)


# Name of the file, how it is written, mode to read it in, and the pixels of its one row.
KINDS: dict[str, tuple[str, Write, str, list[object]]] = {
    "8 bit": ("x.png", saved(ROW), "L", [0, 51, 102, 255]),
    "rgb": ("x.png", saved(RGB), "RGB", RGB[0].tolist()),
    "rgb bmp": ("x.bmp", saved(RGB), "RGB", RGB[0].tolist()),
    "rgb ppm": ("x.ppm", saved(RGB), "RGB", RGB[0].tolist()),
    "rgb gif": ("x.gif", saved(RGB), "RGB", RGB[0].tolist()),
    "rgb webp": ("x.webp", saved(RGB, lossless=True), "RGB", RGB[0].tolist()),
    "rgb tiff, compressed": (
        "x.tif",
        saved(RGB, compression="tiff_lzw"),
        "RGB",
        RGB[0].tolist(),
    ),
    "jfif": ("x.jfif", saved(np.full((1, 2, 3), 128, np.uint8)), "RGB", [[128] * 3] * 2),
    "pgm": ("x.pgm", saved(ROW), "L", [0, 51, 102, 255]),
    "pgm of 12 bits": (
        "x.pgm",
        lambda path: path.write_bytes(b"P5 2 1 4095\n\x00\x00\x0f\xff"),
        "L",
        [0, 255],
    ),
    "bilevel": ("x.png", saved(ROW > 51), "L", [0, 0, 255, 255]),
    "pbm": ("x.pbm", saved(ROW > 51), "RGB", [[0] * 3, [0] * 3, [255] * 3, [255] * 3]),
    "palette": ("x.png", palette(), "RGB", [[10, 20, 30], [40, 50, 60]]),
    "palette with alpha": (
        "x.png",
        palette(transparency=bytes([255, 0])),
        "RGBA",
        [[10, 20, 30, 255], [40, 50, 60, 0]],
    ),
    "palette laid over black": (
        "x.gif",
        palette(transparency=1),
        "RGB",
        [[10, 20, 30], [0, 0, 0]],
    ),
    "cmyk": (
        "x.tif",
        lambda path: Image.new("CMYK", (2, 1), (0, 255, 255, 0)).save(path),
        "RGB",
        [[255, 0, 0]] * 2,
    ),
    "hidden colours": (
        "x.png",
        saved(as_rgba((255, 0, 255, 0), (200, 50, 51, 255), (200, 100, 50, 51))),
        "RGB",
        [[0, 0, 0], [200, 50, 51], [40, 20, 10]],
    ),
    "hidden grey": (
        "x.png",
        saved(np.array([[[200, 0], [200, 255]]], np.uint8)),
        "L",
        [0, 200],
    ),
    "hidden colours in grey": (
        "x.webp",
        saved(as_rgba((255, 0, 255, 0), (200, 200, 200, 255)), lossless=True, exact=True),
        "L",
        [0, 200],
    ),
    "a colour that stands for transparent": (
        "x.png",
        saved(RGB, transparency=(40, 50, 60)),
        "RGB",
        [[10, 20, 30], [0, 0, 0], [70, 80, 90], [255, 0, 128]],
    ),
    "alpha kept": (
        "x.png",
        saved(as_rgba((1, 2, 3, 4), (5, 6, 7, 255))),
        "RGBA",
        [[1, 2, 3, 4], [5, 6, 7, 255]],
    ),
    "alpha added": ("x.png", saved(ROW[:, :2]), "LA", [[0, 255], [51, 255]]),
    "16 bit png": ("x.png", saved(SHORTS), "L", [0, 1, 128, 255]),
    "16 bit tiff": ("x.tif", saved(SHORTS), "L", [0, 1, 128, 255]),
    "16 bit tiff, big-endian": (
        "x.tif",
        with_bytes(
            b"MM\0*\0\0\0\x10"
            + SHORTS.astype(">u2").tobytes()
            + b"\0\x08"
            + b"".join(
                struct.pack(">HHIHxx", tag, 3, 1, value)
                for tag, value in (
                    *((256, 4), (257, 1), (258, 16), (259, 1)),
                    *((262, 1), (273, 8), (277, 1), (279, 8)),
                )
            )
            + bytes(4)
        ),
        "L",
        [0, 1, 128, 255],
    ),
    "16 bit grey as rgb": ("x.png", saved(SHORTS), "RGB", [[0] * 3, [1] * 3, [128] * 3, [255] * 3]),
    "16 bit rgb tiff": (
        "x.tif",
        tiff(np.stack([SHORTS] * 3, 2), photometric=2),
        "RGB",
        [[0] * 3, [1] * 3, [128] * 3, [255] * 3],
    ),
    "signed 16 bit, none below 0": (
        "x.tif",
        tiff(np.array([[0, 32767]], np.int16), kind=SIGNED),
        "L",
        [0, 255],
    ),
    "32 bit that hold 16": ("x.tif", saved(SHORTS.astype(np.int32)), "L", [0, 1, 128, 255]),
    "a fourth channel that is not alpha": (
        "x.tif",
        tiff(np.dstack([RGB, ROW]), photometric=2, extra=(0,)),
        "RGB",
        RGB[0].tolist(),
    ),
    "first of two frames": ("x.gif", frames, "L", [255, 255]),
    "first of two pages": ("x.tif", frames, "L", [255, 255]),
    "3 MB of text": ("x.png", large_text, "RGB", RGB[0].tolist()),
    "another suffix than its kind": (
        "x.png",
        saved(RGB, format="BMP"),
        "RGB",
        RGB[0].tolist(),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_of_every_kind(tmp_path: Path, kind: str) -> None:
    name, write, mode, expected = KINDS[kind]
    write(tmp_path / name)

    image = in_mode(read_image(tmp_path / name), mode)

    assert image.mode == mode
    assert np.asarray(image)[0].tolist() == expected
    assert probe(tmp_path / name)[:2] == (1, len(expected))


def test_avif_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), (255, 255, 255)).save(tmp_path / "x.avif")
    assert np.asarray(read_image(tmp_path / "x.avif")).min() > 250
    assert ".avif" in IMAGE_SUFFIXES


# --- orientation ---------------------------------------------------------------------------------

_STORED = np.array([[0, 0, 0, 60], [120, 180, 240, 255]], np.uint8).repeat(8, 0).repeat(8, 1)
_UPRIGHT = {
    1: _STORED,
    2: _STORED[:, ::-1],
    3: _STORED[::-1, ::-1],
    4: _STORED[::-1],
    5: _STORED.T,
    6: _STORED[::-1].T,
    7: _STORED[::-1, ::-1].T,
    8: _STORED[:, ::-1].T,
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", [0, *_UPRIGHT, 9, 65535])
def test_orientation_is_applied_once(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"x.{suffix}"
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"quality": 100} if suffix == "jpg" else {}
    Image.fromarray(_STORED).save(path, exif=exif, lossless=True, **options)

    image = np.asarray(read_image(path).convert("L"))

    expected = _UPRIGHT.get(orientation, _STORED)
    assert image.shape == expected.shape == probe(path)[:2]
    assert np.abs(image.astype(int) - expected).max() <= 3


@pytest.mark.parametrize(
    ("kind", "value"), [(3, b"\0\x09\0\0"), (4, b"\0\1\0\1"), (2, b"6\0\0\0"), (12, b"\0\0\0\0")]
)
def test_an_orientation_that_is_none_is_ignored(tmp_path: Path, kind: int, value: bytes) -> None:
    path = tmp_path / "x.jpg"
    entry = struct.pack(">HHI", 0x112, kind, 2 if kind == 2 else 1) + value
    block = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + bytes(4)
    Image.fromarray(_STORED).save(path, exif=block)
    assert read_image(path).size == (32, 16)
    assert probe(path)[:2] == (16, 32)


def test_damaged_metadata_leave_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(_STORED).save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff")
    assert read_image(path).size == (32, 16)
    assert probe(path)[:2] == (16, 32)


# --- what is not read ----------------------------------------------------------------------------


def png_header(width: int, height: int, depth: int, colour: int) -> bytes:
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + data + struct.pack(">I", zlib.crc32(data))


def cut(suffix: str, left: int, **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, suffix, **options)
    return file.getvalue()[:left]


def colours_of_lab(path: Path) -> None:
    Image.new("LAB", (2, 1)).save(path)


HALF = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 4)
REFUSED: dict[str, tuple[str, Write, str]] = {
    "signed 16 bit": (
        "x.tif",
        tiff((HALF * 4095 - 1024).astype(np.int16), kind=SIGNED),
        "its values range from -1024 to 3071; supported are 1 to 4 channels of unsigned integers",
    ),
    "signed 8 bit": ("x.tif", tiff(np.zeros((2, 4), np.int8), kind=SIGNED), "signed 8-bit"),
    "32 bit": ("x.tif", saved(np.array([[0, 70_000]], np.int32)), "range from 0 to 70000"),
    "float": ("x.tif", saved(HALF), "floating-point numbers, from 0 to 1;"),
    "float rgb": (
        "x.tif",
        tiff(np.stack([HALF] * 3, 2), kind=FLOAT, photometric=2),
        "a TIFF with 3 channels of 32-bit floating-point numbers",
    ),
    "double": ("x.tif", tiff(HALF.astype(float), kind=FLOAT), "64-bit floating-point numbers"),
    "five bands": ("x.tif", tiff(np.zeros((2, 4, 5), np.uint8)), "5 channels"),
    "five bands, extra": (
        "x.tif",
        tiff(np.zeros((2, 4, 5), np.uint8), photometric=2, extra=(0, 0)),
        "5 channels",
    ),
    "13 bands of 16 bit": ("x.tif", tiff(np.zeros((2, 4, 13), np.uint16)), "13 channels of 16-bit"),
    "two bands of 16 bit": (
        "x.tif",
        tiff(np.zeros((2, 4, 2), np.uint16)),
        "2 channels of 16-bit unsigned integers, in a form that Pillow does not read; save it as",
    ),
    "from white, 16 bit": ("x.tif", tiff(SHORTS, photometric=0), r"are inverted \(0 is white\)"),
    "lab": ("x.tif", colours_of_lab, r"CIE L\*a\*b\*"),
    "empty": ("x.png", with_bytes(b""), "not an image: it is empty"),
    "lfs": (
        "x.png",
        with_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"),
        "not an image: it is a git-lfs pointer; 'git lfs pull' fetches the image",
    ),
    "web page": (
        "x.jpg",
        with_bytes(b"\n<!DOCTYPE html><html>"),
        "web page; a download has failed",
    ),
    "text": ("x.jpg", with_bytes(b"404: Not Found"), "text that begins with '404: Not Found'"),
    "zeros": ("x.tif", with_bytes(bytes(5000)), "nothing but zero bytes"),
    "heic": ("x.jpg", with_bytes(b"\0\0\0\x18ftypheic" + bytes(20)), "a HEIC image"),
    "video": ("x.gif", with_bytes(b"\0\0\0\x18ftypisom" + bytes(20)), "a video"),
    "exr": ("x.tif", with_bytes(b"\x76\x2f\x31\x01\2\0\0\0"), "an OpenEXR image"),
    "dicom": ("x.png", with_bytes(bytes(128) + b"DICM" + bytes(9)), "a DICOM file"),
    "numpy": ("x.png", with_bytes(b"\x93NUMPY\x01\0"), "a NumPy array"),
    "postscript": ("x.png", with_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "a PostScript document"),
    "noise": ("x.png", with_bytes(b"\x01\xfe\x80" * 40), "of an unknown kind"),
    "no rows": ("x.png", with_bytes(png_header(5, 0, 8, 2)), "header says 0 x 5 pixels"),
    "3 bits": ("x.png", with_bytes(png_header(5, 5, 3, 2)), "3 bits with color type 2"),
    "head of a png": ("x.png", with_bytes(png_header(5, 5, 8, 2)[:20]), "PNG header is damaged"),
    "no pixels": ("x.png", with_bytes(png_header(5, 5, 8, 2)), "PNG header is damaged"),
    "damaged pixels": (
        "x.png",
        with_bytes(png_header(5, 5, 8, 2) + struct.pack(">I", 9) + b"IDAT" + bytes(40)),
        "the PNG data are damaged or incomplete",
    ),
    "half a png": ("x.png", with_bytes(cut("png", 4000)), "unreadable or truncated"),
    "half a jpeg": ("x.jpg", with_bytes(cut("jpeg", -1000)), "unreadable or truncated: the JPEG"),
    "half a progressive jpeg": (
        "x.jpg",
        with_bytes(cut("jpeg", -2000, progressive=True)),
        "unreadable or truncated: the JPEG data",
    ),
    "half a tiff": ("x.tif", with_bytes(cut("tiff", 3000)), "TIFF"),
    "half a webp": ("x.webp", with_bytes(cut("webp", 900)), "WEBP data|WebP header"),
    "half a gif": ("x.gif", with_bytes(cut("gif", 2000)), "the GIF data"),
    "half a bmp": ("x.bmp", with_bytes(cut("bmp", 4000)), "the BMP data"),
    "half a ppm": ("x.ppm", with_bytes(cut("ppm", 4000)), "the PPM data"),
    "head of a jpeg": (
        "x.jpg",
        with_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF"),
        "JPEG header is damaged",
    ),
    "head of a tiff": ("x.tif", with_bytes(b"II*\0\xff\xff\0\0"), "TIFF header is damaged"),
    "pipe": ("x.png", os.mkfifo, "it is a pipe, not a regular file"),
    "device": (
        "x.png",
        lambda path: path.symlink_to("/dev/zero"),
        "it is a device, not a regular file",
    ),
    "folder": ("x.png", Path.mkdir, "it is a directory, not a regular file"),
    "loose link": ("x.png", lambda path: path.symlink_to("gone"), "No such file or directory"),
    "10 GB": (
        "x.webp",
        lambda path: os.truncate(_made(path), 10**10),
        "it has 10,000,000,000 bytes; at most",
    ),
}


def _made(path: Path) -> Path:
    path.write_bytes(b"RIFF\0\0\0\0WEBPVP8 ")
    return path


@pytest.mark.parametrize("kind", REFUSED)
def test_unreadable_input_is_one_sentence(tmp_path: Path, kind: str) -> None:
    name, write, message = REFUSED[kind]
    path = tmp_path / name
    write(path)
    for read in (read_image, probe):
        with pytest.raises(DataError, match=message) as caught:
            read(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: ")
        assert "\n" not in text
        assert not any(word in text for word in ("identify", "chunk", "MAX_", "decoder", "buffer"))


def test_more_text_than_pictures_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 1 << 20)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 1 << 20)
    large_text(tmp_path / "x.png")
    with pytest.raises(DataError, match="it contains more than 1 MB of text"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("factor", [0.75, 0.4])  # Pillow warns, Pillow raises
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    Image.new("L", (10, 10)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(100 * factor))
    for read in (read_image, probe):
        with pytest.raises(DataError, match=f"more than {int(100 * factor)} pixels"):
            read(tmp_path / "x.png")


# --- what a probe tells --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "peak", "full"),
    [
        (ROW, 255, 255),
        (ROW // 4, 63, 255),
        ((SHORTS // 16).astype(np.uint16), 4095, 65535),
        (RGB // 4, 63, 255),
    ],
)
def test_peak_and_full_scale(tmp_path: Path, pixels: np.ndarray, peak: int, full: int) -> None:
    Image.fromarray(pixels).save(tmp_path / "x.png")
    (part,) = probe(tmp_path / "x.png").parts
    assert (part.peak, part.full) == (peak, full)


def test_12_of_16_bits_of_colour(tmp_path: Path) -> None:
    pixels = np.stack([SHORTS // 16] * 3, 2).astype(np.uint16)
    write_tiff(tmp_path / "x.tif", pixels, photometric=2)
    assert probe(tmp_path / "x.tif").parts[0][:2] == (4095, 65535)


def test_the_two_halves_are_distinguished(tmp_path: Path) -> None:
    pixels = np.zeros((2, 4, 4), np.uint8)
    pixels[:, :2] = (9, 0, 0, 255)
    pixels[:, 2:, 3] = 100
    Image.fromarray(pixels).save(tmp_path / "x.png")
    left, right = probe(tmp_path / "x.png", halves=True).parts
    assert (left.peak, left.is_transparent, left.colours) == (9, False, 1)
    assert (right.peak, right.is_transparent) == (0, True)


def test_colours_are_counted_where_they_are_few(tmp_path: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8)[None]).save(tmp_path / "few.png")
    Image.fromarray(np.arange(65, dtype=np.uint8)[None]).save(tmp_path / "many.png")
    Image.new("L", (8, 8)).save(tmp_path / "x.jpg")
    assert [probe(tmp_path / n).parts[0].colours for n in ("few.png", "many.png", "x.jpg")] == [
        64,
        None,
        None,
    ]


def test_frames_and_channels_that_are_not_read(tmp_path: Path) -> None:
    for name in ("x.gif", "x.tif", "x.png", "x.webp"):
        frames(tmp_path / name)
        assert probe(tmp_path / name).has_frames
    Image.fromarray(RGB).save(tmp_path / "one.gif")
    assert not probe(tmp_path / "one.gif").has_frames
    pixels = np.zeros((2, 4, 4), np.uint8)
    assert probe(write_tiff(tmp_path / "y.tif", pixels, photometric=2, extra=(0,))).left_out == 1
    assert probe(write_tiff(tmp_path / "y.tif", pixels, photometric=2, extra=(2,))).left_out == 0
