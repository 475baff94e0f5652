"""What is not read is refused in one sentence that names the file and says why."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import pytest
import tifffile
from numpy.lib import format as npy
from PIL import Image

from nectargan.errors import DataError
from nectargan.images.raw import RawImage
from nectargan.images.reading import raw_kind, read_raw
from nectargan.images.writing import write_raw
from tests.image_kinds import IMAGE_KINDS, draw, write_png

_ZEROS = np.zeros((8, 12), np.float32)


def _npy(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, array)


def _tiff(*arrays: np.ndarray, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tifffile.TiffWriter(path) as file:
            for array in arrays:
                file.write(array, **options)

    return write


def _exr(bands: dict[str, np.ndarray], parts: int = 1, **header: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        made = [
            OpenEXR.Part(
                {"type": OpenEXR.scanlineimage, **header},
                dict(bands),
                name=f"part {i}",
            )
            for i in range(parts)
        ]
        OpenEXR.File(made).write(str(path))

    return write


def _deep_exr(path: Path) -> None:
    pixels = np.empty((4, 4), object)
    for y, x in np.ndindex(4, 4):
        pixels[y, x] = np.ones(y, np.float32)
    header = {"type": OpenEXR.deepscanline, "compression": OpenEXR.ZIPS_COMPRESSION}
    OpenEXR.File(header, {"Z": pixels}).write(str(path))


def _huge_npy(path: Path) -> None:
    with path.open("wb") as file:
        header = {"descr": "<u2", "fortran_order": False, "shape": (100_000, 100_000)}
        npy.write_array_header_1_0(file, header)
        file.write(bytes(1000))


def _truncated_npy(path: Path) -> None:
    np.save(path, _ZEROS)
    path.write_bytes(path.read_bytes()[:-1])


def _huge_tiff(path: Path) -> None:
    """1000 bytes that say to be 10 TB; a missing tile is allowed to be empty."""
    tifffile.imwrite(path, np.zeros((16, 16, 20), np.uint16), tile=(16, 16), **_BANDS)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for tag in ("ImageWidth", "ImageLength"):
            offset = file.pages[0].tags[tag].valueoffset
            data[offset : offset + 4] = (500_000).to_bytes(4, "little")
    path.write_bytes(data)


_BANDS: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
_RGBZ = dict.fromkeys(("R", "G", "B", "Z"), _ZEROS)

REFUSED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "int32 npy": (".npy", _npy(_ZEROS.astype(np.int32)), "int32; .* save it as int16 or float32"),
    "float64 npy": (".npy", _npy(_ZEROS.astype(np.float64)), "float64; .* save it as float32"),
    "complex npy": (".npy", _npy(_ZEROS.astype(np.complex64)), "its values are complex64"),
    "bool npy": (".npy", _npy(_ZEROS > 0), "its values are bool; .* save it as uint8"),
    "text npy": (".npy", _npy(_ZEROS.astype("U4")), "its values are str"),
    "records npy": (".npy", _npy(np.zeros((4, 4), [("a", "f4")])), "its values are void"),
    "pickled npy": (".npy", _npy(np.array([[1, "a"]], object)), "pickled Python objects"),
    "vector npy": (".npy", _npy(np.zeros(5, np.uint8)), r"shape \(5,\); allowed are \(H, W\)"),
    "5 axes npy": (".npy", _npy(np.zeros((1,) * 5, np.uint8)), "allowed are"),
    "empty npy": (".npy", _npy(np.zeros((0, 5), np.uint8)), "0 x 5 pixels"),
    "65 channels npy": (".npy", _npy(np.zeros((99, 99, 65), np.uint8)), "it has 65 channels"),
    "huge npy": (".npy", _huge_npy, "18.6 GB of memory; 2 GB is the limit"),
    "truncated npy": (".npy", _truncated_npy, "damaged or incomplete"),
    "empty npz": (".npz", lambda path: np.savez(path), "it has no array; exactly one is read"),
    "two in an npz": (
        ".npz",
        lambda path: np.savez(path, a=_ZEROS, b=_ZEROS),
        r"it has 2 arrays \(a, b\); exactly one is read",
    ),
    "pickled npz": (
        ".npz",
        lambda path: np.savez(path, a=np.array([[1, "a"]], object)),
        "pickled Python objects",
    ),
    "int32 tiff": (".tif", _tiff(np.full((8, 8), -70_000, np.int32)), "-70000 to -70000"),
    "uint32 tiff": (".tif", _tiff(np.full((8, 8), 2**32 - 1, np.uint32)), "from 4294967295 to 42"),
    "cmyk of 16 bits": (
        ".tif",
        _tiff(np.zeros((8, 8, 4), np.uint16), photometric="separated"),
        "its colors are SEPARATED; save it as grey or RGB",
    ),
    "pfm": (".pfm", lambda path: Image.fromarray(_ZEROS).save(path), "PFM image, which is not"),
    "int32 bands": (".tif", _tiff(np.zeros((8, 8, 5), np.int32), **_BANDS), "int32; supported"),
    "complex tiff": (".tif", _tiff(_ZEROS.astype(np.complex64)), "complex64; supported"),
    "float64 tiff": (".tif", _tiff(_ZEROS.astype(np.float64)), "float64; .* save it as float32"),
    "65 bands": (".tif", _tiff(np.zeros((99, 99, 65), np.uint8), **_BANDS), "it has 65 channels"),
    "ragged pages": (".tif", _tiff(_ZEROS, _ZEROS[1:]), r"not of one kind: \(8, 12\) and \(7, 12"),
    "mixed pages": (".tif", _tiff(_ZEROS, _ZEROS.astype(np.uint16)), "not of one kind"),
    "inverted": (
        ".tif",
        _tiff(np.zeros((8, 8), np.float32), photometric="miniswhite"),
        "inverted .0 is white",
    ),
    "huge tiff": (".tif", _huge_tiff, "GB of memory; 2 GB is the limit"),
    "unnamed exr": (
        ".exr",
        _exr(_RGBZ),
        "channels B, G, R, Z; say which to read, with dataloader.load.input_channels or",
    ),
    "integer exr": (
        ".exr",
        _exr({"id": np.ones((4, 4), np.uint32)}),
        "channel id are UINT; supported",
    ),
    "parts": (".exr", _exr({"Z": _ZEROS}, 2), "it has several parts; one is read"),
    "deep exr": (".exr", _deep_exr, "its pixels are deep"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    suffix, write, reason = REFUSED[name]
    path = tmp_path / f"the_file{suffix}"
    write(path)
    with pytest.raises(DataError, match=reason) as error:
        read_raw(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    if name not in ("int32 tiff", "uint32 tiff", "truncated npy"):  # which the pixels say
        with pytest.raises(DataError, match=reason):
            raw_kind(path)


def test_integers_of_32_bits_are_read_if_16_hold_them(tmp_path: Path) -> None:
    values = np.array([[0, 65535]], np.int32)
    tifffile.imwrite(tmp_path / "a.tif", values)
    image = read_raw(tmp_path / "a.tif")
    assert image.values.dtype == np.uint16
    assert np.array_equal(image.values[..., 0], values)


@pytest.mark.parametrize(
    ("channels", "reason"),
    [
        (["Q"], "no channel 'Q'; its channels are 'B', 'G', 'R', 'Z'"),
        ([5], "no channel 5; its channels are 'B', 'G', 'R', 'Z'"),
    ],
)
def test_channels_that_do_not_exist(tmp_path: Path, channels: list[Any], reason: str) -> None:
    _exr(_RGBZ)(tmp_path / "a.exr")
    with pytest.raises(DataError, match=reason):
        read_raw(tmp_path / "a.exr", channels)


@pytest.mark.parametrize("number", [0, 14, -1])
def test_channels_count_from_1(tmp_path: Path, number: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 13), np.uint16), **_BANDS)
    with pytest.raises(DataError, match=f"no channel {number}; .* numbers 1 to 13"):
        read_raw(tmp_path / "a.tif", [number])


@pytest.mark.parametrize("kind", IMAGE_KINDS, ids=str)
def test_channels_are_chosen_in_order(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / f"a{kind.suffix}"
    kind.write(path, draw(kind))
    whole = read_raw(path, kind.channels)
    order = [kind.count, 1, 1]
    chosen: list[str | int] = list(order)
    if kind.channels:
        chosen = [kind.channels[i - 1] for i in order]
    elif kind.suffix == ".exr":
        chosen = [kind.names[i - 1] for i in order]
    part = read_raw(path, chosen)
    assert np.array_equal(part.values, whole.values[..., [i - 1 for i in order]])
    assert raw_kind(path, chosen)[:4] == (whole.values.dtype, *part.values.shape)
    if whole.channel_names:
        assert part.channel_names == tuple(whole.channel_names[i - 1] for i in order)


# --- libraries that are not installed ------------------------------------------------------------

_MISSING = {
    "tiff-uint16-13-bands": "tifffile",
    "exr-half-rgb": "OpenEXR",
    "geotiff-float32": "rasterio",
}


@pytest.mark.parametrize("name", _MISSING)
def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (kind,) = (each for each in IMAGE_KINDS if each.name == name)
    path, module = tmp_path / f"a{kind.suffix}", _MISSING[name]
    kind.write(path, draw(kind))
    image = read_raw(path, kind.channels)
    monkeypatch.setitem(sys.modules, module, None)
    extra = "geo" if module == "rasterio" else "images"
    sentence = rf"needs the package {module}: pip install 'nectargan\[{extra}\]'"
    with pytest.raises(DataError, match=sentence):
        read_raw(path, kind.channels)
    with pytest.raises(DataError, match=sentence):
        write_raw(tmp_path / f"b{kind.suffix}", image)
    assert list(tmp_path.iterdir()) == [path]


def test_a_plain_geotiff_needs_no_library_for_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kind,) = (each for each in IMAGE_KINDS if each.name == "geotiff-uint8-rgb")
    kind.write(tmp_path / "a.tif", draw(kind))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert raw_kind(tmp_path / "a.tif").is_plain


# --- writing -------------------------------------------------------------------------------------


def image_of(dtype: str, count: int, **fields: Any) -> RawImage:
    return RawImage(np.zeros((8, 8, count), dtype), **fields)


@pytest.mark.parametrize(
    ("suffix", "image", "reason"),
    [
        (".png", image_of("float32", 3), r"3 channels of float32, but .png holds 1 to 4 channels"),
        (".png", image_of("uint16", 5), r"5 channels of uint16, but .png"),
        (".jpg", image_of("uint16", 3), r"but .jpg holds 1 or 3 channels of uint8"),
        (".jpg", image_of("uint8", 4), r"but .jpg holds 1 or 3 channels of uint8"),
        (
            ".exr",
            image_of("uint8", 3),
            "values of uint8, but .exr holds float16 or float32",
        ),
        (".exr", image_of("float32", 2, channel_names=("a", "a")), "must have different names"),
        (".xyz", image_of("uint8", 3), "allowed are .avif"),
        (".npy", image_of("float64", 3), "3 channels of float64; supported are 1 to 64 channels"),
        (".tif", image_of("uint8", 65), "65 channels of uint8; supported are 1 to 64 channels"),
        (".tif", RawImage(np.zeros((8, 8), np.int16)), r"the shape \(8, 8\); it must be"),
        (".npy", image_of("uint8", 0), r"the shape \(8, 8, 0\); it must be \(H, W, C\)"),
    ],
)
def test_what_a_format_does_not_hold(
    tmp_path: Path, suffix: str, image: RawImage, reason: str
) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(DataError, match=reason) as error:
        write_raw(path, image)
    assert str(error.value).startswith(f"{path}: ")
    assert list(tmp_path.iterdir()) == []


def test_a_geotiff_holds_its_nodata_value(tmp_path: Path) -> None:
    (kind,) = (each for each in IMAGE_KINDS if each.name == "geotiff-float32")
    kind.write(tmp_path / "a.tif", draw(kind))
    image = read_raw(tmp_path / "a.tif")
    assert image.nodata == -9999
    with pytest.raises(DataError, match="nodata value -9999 is none of uint16"):
        write_raw(tmp_path / "b.tif", image._replace(values=image.values.astype(np.uint16)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_tiff(tmp_path: Path, orientation: int) -> None:
    """As Pillow displays the same values in 8 bits."""
    values = draw(IMAGE_KINDS[2])
    options = {"photometric": "rgb", "extratags": [(274, "H", 1, orientation, True)]}
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    tifffile.imwrite(tmp_path / "b.tif", values.astype(np.float32), **options)
    eight, wide = read_raw(tmp_path / "a.tif"), read_raw(tmp_path / "b.tif")
    assert np.array_equal(eight.values, wide.values)
    assert raw_kind(tmp_path / "a.tif")[1:4] == raw_kind(tmp_path / "b.tif")[1:4]
    assert raw_kind(tmp_path / "a.tif")[1:4] == eight.values.shape


def test_orientation_of_a_png(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", draw(IMAGE_KINDS[6]))
    plain = read_raw(tmp_path / "a.png").values
    data = (tmp_path / "a.png").read_bytes()
    exif = Image.Exif()
    exif[274] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk + data[-12:])
    turned = read_raw(tmp_path / "a.png").values
    assert np.array_equal(turned, np.rot90(plain, -1))
    assert raw_kind(tmp_path / "a.png")[1:4] == turned.shape
