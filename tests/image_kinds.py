"""Every kind of image: how an independent library writes it and reads it.

A test that is parametrized over `IMAGE_KINDS` draws values with `draw`, has them written by
``kind.write`` and compares with what ``kind.read`` finds in a file that this package wrote.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import OpenEXR
import rasterio
import tifffile
from PIL import Image

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ImageKind:
    """A kind of image files.

    Attributes:
        name: For the test.
        suffix: Of the files.
        dtype: Of the values.
        count: The number of channels.
        write: Writes ``(H, W, C)`` to a file, with an independent library.
        read: Reads ``(H, W, C)`` from a file, with an independent library.
        channels: The names that are given to `read_raw`, in the order of ``write`` and ``read``.
        names: The names of the channels in the file.
        is_exact: Whether the format keeps every value.
    """

    name: str
    suffix: str
    dtype: str
    count: int
    write: Callable[[Path, Array], None]
    read: Callable[[Path], Array]
    channels: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    is_exact: bool = True

    def __str__(self) -> str:
        return self.name


def draw(kind: ImageKind, height: int = 24, width: int = 36, seed: int = 0) -> Array:
    """Values over the whole range of the type, ``(H, W, C)``; smooth ones where some are lost."""
    rng = np.random.default_rng(seed)
    shape = (height, width, kind.count)
    if not kind.is_exact:
        ramp = np.linspace(0, 255, height * width).reshape(height, width, 1)
        return np.broadcast_to(ramp, shape).astype(kind.dtype)
    dtype = np.dtype(kind.dtype)
    if dtype.kind == "f":
        return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


# --- PNG, by its specification (ISO/IEC 15948) ---------------------------------------------------

_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def write_png(path: Path, values: Array) -> None:
    height, width, count = values.shape
    bits = values.dtype.itemsize * 8
    rows = values.astype(values.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    data = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, bits, _COLOR_TYPES[count], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


def read_png(path: Path) -> Array:
    """Of filters 0 and 2 to 4; what Pillow and this package write has no interlacing."""
    data, packed, header = path.read_bytes()[8:], b"", b""
    while data:
        length, kind = struct.unpack(">I4s", data[:8])
        body = data[8 : 8 + length]
        header = body if kind == b"IHDR" else header
        packed += body if kind == b"IDAT" else b""
        data = data[12 + length :]
    width, height, bits, color, *_ = struct.unpack(">IIBBBBB", header)
    count = {color: count for count, color in _COLOR_TYPES.items()}[color]
    step = count * bits // 8
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + width * step)
    done = np.zeros((height + 1, width * step), np.int64)
    for y, line in enumerate(lines):
        done[y + 1] = _unfiltered(int(line[0]), line[1:].astype(np.int64), done[y], step)
    values = np.ascontiguousarray(done[1:].astype(np.uint8)).view(f">u{bits // 8}")
    return values.reshape(height, width, count).astype(f"u{bits // 8}")


def _unfiltered(filter_type: int, line: Array, above: Array, step: int) -> Array:
    if filter_type in (0, 2):
        return (line + (above if filter_type else 0)) & 255
    done = line.copy()
    for i in range(len(line)):
        a, b = (done[i - step], above[i - step]) if i >= step else (0, 0)
        up = above[i]
        paeth = min((abs(up - b), 0, a), (abs(a - b), 1, up), (abs(a + up - 2 * b), 2, b))[2]
        guess = {1: a, 3: (a + up) // 2, 4: paeth}[filter_type]
        done[i] = (line[i] + guess) & 255
    return done


# --- the other libraries -------------------------------------------------------------------------


def pillow_writer(**options: Any) -> Callable[[Path, Array], None]:
    def write(path: Path, values: Array) -> None:
        Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(path, **options)

    return write


def read_with_pillow(path: Path) -> Array:
    with Image.open(path) as image:
        values = np.asarray(image)
    return values.reshape(*values.shape[:2], -1)


def tiff_writer(is_first: bool = False, **options: Any) -> Callable[[Path, Array], None]:
    """Writes with tifffile; ``is_first``: the channels are the first axis of the array."""

    def write(path: Path, values: Array) -> None:
        own = np.moveaxis(values, 2, 0) if is_first else values
        own = values[..., 0] if values.shape[2] == 1 else own
        tifffile.imwrite(path, np.ascontiguousarray(own), **options)

    return write


def tiff_reader(is_first: bool = False) -> Callable[[Path], Array]:
    def read(path: Path) -> Array:
        values = tifffile.imread(path)
        return (
            values[..., None]
            if values.ndim == 2
            else np.moveaxis(values, 0, 2)
            if is_first
            else values
        )

    return read


def npy_writer(order: str) -> Callable[[Path, Array], None]:
    def write(path: Path, values: Array) -> None:
        own = {"HWC": values, "CHW": np.moveaxis(values, 2, 0), "HW": values[..., 0]}[order]
        if path.suffix == ".npz":
            np.savez(path, image=own)
        else:
            np.save(path, own)

    return write


def npy_reader(order: str) -> Callable[[Path], Array]:
    def read(path: Path) -> Array:
        found = np.load(path, allow_pickle=False)
        values = found["image"] if path.suffix == ".npz" else found
        return {"HWC": values, "CHW": np.moveaxis(values, 0, -1), "HW": values[..., None]}[order]

    return read


def _tiff(name: str, dtype: str, count: int, is_first: bool = False, **options: Any) -> ImageKind:
    write, read = tiff_writer(is_first, **options), tiff_reader(is_first)
    return ImageKind(f"tiff-{name}", ".tif", dtype, count, write, read)


def _numpy(suffix: str, dtype: str, count: int, order: str) -> ImageKind:
    name = f"{suffix[1:]}-{dtype}-{order}"
    return ImageKind(name, suffix, dtype, count, npy_writer(order), npy_reader(order))


def exr_writer(*names: str) -> Callable[[Path, Array], None]:
    """Writes named channels in the order of the axis, between others that are not read."""

    def write(path: Path, values: Array) -> None:
        bands = {name: np.ascontiguousarray(values[..., i]) for i, name in enumerate(names)}
        others = {} if len(names) < 5 else {"AA": np.zeros(values.shape[:2], np.float32)}
        header = {"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage}
        OpenEXR.File(header | {"owner": "a test"}, {**bands, **others}).write(str(path))

    return write


def exr_reader(*names: str) -> Callable[[Path], Array]:
    def read(path: Path) -> Array:
        file = OpenEXR.File(str(path), separate_channels=True)
        assert file.header()["owner"] == "a test"
        assert set(file.channels()) == set(names)
        return np.stack([file.channels()[name].pixels for name in names], axis=2)

    return read


def _exr(name: str, dtype: str, *names: str, are_usual: bool = False) -> ImageKind:
    channels = None if are_usual else names
    write, read = exr_writer(*names), exr_reader(*names)
    return ImageKind(f"exr-{name}", ".exr", dtype, len(names), write, read, channels, names)


_CRS, _BANDS = "EPSG:32633", ("B02", "B03", "B04", "B08", "B11")
_TRANSFORM = rasterio.transform.from_origin(499980, 5300040, 10, 20)


def geo_writer(nodata: float | None, **options: Any) -> Callable[[Path, Array], None]:
    def write(path: Path, values: Array) -> None:
        height, width, count = values.shape
        options_of_all = {"crs": _CRS, "transform": _TRANSFORM, "nodata": nodata, **options}
        size = {"height": height, "width": width, "count": count, "dtype": values.dtype.name}
        with rasterio.open(path, "w", driver="GTiff", **size, **options_of_all) as dataset:
            dataset.write(np.moveaxis(values, 2, 0))
            if count == len(_BANDS):
                dataset.descriptions = _BANDS

    return write


def geo_reader(nodata: float | None) -> Callable[[Path], Array]:
    def read(path: Path) -> Array:
        with rasterio.open(path) as dataset:
            assert dataset.crs == rasterio.crs.CRS.from_string(_CRS)
            assert dataset.transform == _TRANSFORM
            assert dataset.nodata == nodata
            if dataset.count == len(_BANDS):
                assert dataset.descriptions == _BANDS
            return np.moveaxis(dataset.read(), 0, 2)

    return read


def _geo(name: str, dtype: str, count: int, nodata: float | None, **options: Any) -> ImageKind:
    names = _BANDS if count == len(_BANDS) else ()
    write, read = geo_writer(nodata, **options), geo_reader(nodata)
    return ImageKind(f"geotiff-{name}", ".tif", dtype, count, write, read, None, names)


_GREY: dict[str, Any] = {"photometric": "minisblack"}
_INTERLEAVED: dict[str, Any] = {**_GREY, "planarconfig": "contig"}
_PLANAR: dict[str, Any] = {**_GREY, "planarconfig": "separate"}

IMAGE_KINDS: tuple[ImageKind, ...] = (
    *(
        ImageKind(f"png-{bits}-{count}", ".png", f"uint{bits}", count, write_png, read_png)
        for bits in (8, 16)
        for count in (1, 2, 3, 4)
    ),
    ImageKind(
        "jpeg", ".jpg", "uint8", 3, pillow_writer(quality=95), read_with_pillow, is_exact=False
    ),
    ImageKind(
        "webp", ".webp", "uint8", 3, pillow_writer(quality=95), read_with_pillow, is_exact=False
    ),
    _tiff("uint16-13-bands", "uint16", 13, **_INTERLEAVED),
    _tiff("uint16-1", "uint16", 1),
    _tiff("uint16-2", "uint16", 2, **_INTERLEAVED),
    _tiff("uint16-rgb", "uint16", 3, photometric="rgb"),
    _tiff("uint16-4-bands", "uint16", 4, **_INTERLEAVED),
    _tiff("uint8-64-bands", "uint8", 64, is_first=True, **_PLANAR),
    _tiff("uint8-webp", "uint8", 3, photometric="rgb", compression="webp"),
    _tiff("uint16-jpegxl", "uint16", 1, compression="jpegxl"),
    _tiff("int16", "int16", 1),
    _tiff("int16-3-lzw", "int16", 3, compression="lzw", predictor=True, **_INTERLEAVED),
    _tiff("int8", "int8", 2, **_INTERLEAVED),
    _tiff("big-planar-tiled", "uint16", 5, True, bigtiff=True, tile=(16, 16), **_PLANAR),
    _tiff("pages", "uint16", 7, True, **_GREY),
    _tiff("pages-of-8-bits", "uint8", 3, True, **_GREY),
    _tiff("float16-pages-zstd", "float16", 3, True, compression="zstd", **_GREY),
    _tiff("channels-last-as-pages", "uint16", 12),
    _tiff("imagej", "uint16", 6, True, imagej=True, metadata={"axes": "CYX"}),
    _tiff("ome", "uint16", 6, True, ome=True, metadata={"axes": "CYX"}),
    _tiff("float32", "float32", 1),
    _tiff("float32-6-big-endian", "float32", 6, byteorder=">", **_INTERLEAVED),
    _exr("half-rgb", "float16", "R", "G", "B", are_usual=True),
    _exr("float-depth", "float32", "Z", are_usual=True),
    _exr("float-layers", "float32", "N.X", "N.Y", "N.Z", "Z", "albedo.R"),
    _geo("uint16-5", "uint16", 5, 0, tiled=True, blockxsize=16, blockysize=16, compress="lzw"),
    _geo("float32", "float32", 1, -9999, interleave="band"),
    _geo("int16-bands", "int16", 3, None, interleave="band", compress="zstd"),
    _geo("uint8-rgb", "uint8", 3, None, photometric="RGB"),
    _numpy(".npy", "float16", 5, "HWC"),
    _numpy(".npy", "float32", 2, "CHW"),
    _numpy(".npy", "int16", 1, "HW"),
    _numpy(".npy", "uint8", 3, "HWC"),
    _numpy(".npz", "uint16", 9, "CHW"),
    _numpy(".npz", "float32", 1, "HW"),
)
