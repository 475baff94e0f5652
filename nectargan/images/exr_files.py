"""OpenEXR files with one part, of half or float channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from nectargan.errors import DataError
from nectargan.images.raw import Kind, RawImage, check_kind, chosen, naming, needed
from nectargan.sources import Source, as_file

# What is displayed without a choice of the user.
_IMAGES = (("R", "G", "B"), ("R", "G", "B", "A"), ("Y",))
_DTYPES = {"HALF": np.float16, "FLOAT": np.float32}
_LOSSLESS = ("NO", "RLE", "ZIPS", "ZIP", "PIZ")
_TILED, _DEEP, _MULTI_PART = 1 << 9, 1 << 11, 1 << 12  # flags of the second word
_LONGEST_NAME, _MOST_BYTES = 255, 1 << 28
# Attributes that say how the pixels lie in the file, or show another image.
_OF_THE_FILE = ("channels", "type", "tiles", "chunkCount", "preview", "lineOrder", "version")


def exr_kind(path: Source, channels: Sequence[str | int] | None) -> Kind:
    """See `raw_kind`."""
    with _opened(path, channels) as (_, _, kind):
        return kind


def read_exr(path: Source, channels: Sequence[str | int] | None) -> RawImage:
    """See `read_raw`."""
    with _opened(path, channels) as (file, header, kind):
        types = file.header()["channels"]
        values = np.empty((kind.height, kind.width, kind.channels), kind.dtype)
        for i, name in enumerate(kind.channel_names):
            # Read one by one: the same name may be asked for twice.
            read = np.frombuffer(file.channel(name), _dtype(name, types[name]))
            values[..., i] = read.reshape(kind.height, kind.width)
        return RawImage(values, kind.channel_names, metadata={"exr": header})


def write_exr(path: Path, image: RawImage) -> None:
    """Writes channels of half or float, with the attributes that ``image`` was read with."""
    exr = needed("OpenEXR", "an OpenEXR file")
    check_exr(image)
    values, names = image.values, image.channel_names
    height, width, count = values.shape
    if not names:
        default = {1: "Y", 2: "YA", 3: "RGB", 4: "RGBA"}
        names = tuple(default.get(count) or (f"channel{i:02}" for i in range(1, count + 1)))
    if len(set(names)) < len(names):
        raise DataError(f"its channels {', '.join(names)} must have different names")
    header = dict(image.metadata.get("exr", {}))
    if _size(header) != (height, width):
        header = {k: v for k, v in header.items() if k not in ("dataWindow", "displayWindow")}
    header["type"] = exr.scanlineimage
    lossless = [getattr(exr, f"{name}_COMPRESSION") for name in _LOSSLESS]
    if header.get("compression") not in lossless:
        header["compression"] = exr.ZIP_COMPRESSION
    bands = {name: np.ascontiguousarray(values[..., i]) for i, name in enumerate(names)}
    exr.File(header, bands).write(str(path))


def check_exr(image: RawImage) -> None:
    """Raises `DataError` if .exr does not hold the type of the values of an image."""
    if image.values.dtype not in (np.float16, np.float32):
        raise DataError(
            f"the image has values of {image.values.dtype}, but .exr holds float16 or float32; "
            "write it as .tif or .npy"
        )


@contextmanager
def _opened(
    path: Source, channels: Sequence[str | int] | None
) -> Iterator[tuple[Any, Mapping[str, Any], Kind]]:
    with naming(path, "OpenEXR"), as_file(path) as file:
        exr = needed("OpenEXR", "an OpenEXR file")
        with file.open("rb") as stream:
            _check_header(stream)
        header = exr.File(str(file), header_only=True).parts[0].header
        # The newer interface prints errors and goes on without pixels; this one raises them.
        opened = exr.InputFile(str(file))
        try:
            kind = _kind(opened.header()["channels"], _size(header), channels)
            kept = {key: value for key, value in header.items() if key not in _OF_THE_FILE}
            yield opened, kept, kind
        finally:
            opened.close()


def _check_header(file: IO[bytes]) -> None:
    """Refuses headers for which the library has no error; texts that are not UTF-8 crash it.

    See "OpenEXR File Layout" of the Academy Software Foundation.
    """
    flags = int.from_bytes(file.read(8)[4:], "little")
    if flags & _MULTI_PART:
        raise DataError("it has several parts; one is read, save it as its own file")
    if flags & _DEEP:
        raise DataError("its pixels are deep (many samples each); flatten it")
    found = set()
    while name := _text(file):
        kind, size = _text(file), int.from_bytes(file.read(4), "little")
        value = file.read(min(size, _MOST_BYTES))
        if len(value) != size:
            raise EOFError
        found.add(name)
        if kind == "string":
            value.decode()
        elif kind == "stringvector":
            while value:
                end = 4 + int.from_bytes(value[:4], "little")
                value[4:end].decode()
                value = value[end:]
        elif kind == "chlist":
            while value.strip(b"\0"):
                text, _, value = value.partition(b"\0")
                text.decode()
                value = value[16:]
    if not found >= {"channels", "dataWindow", "compression"}:
        raise EOFError
    if not flags & _TILED:
        _check_end(file)


def _check_end(file: IO[bytes]) -> None:
    """Raises EOFError for a truncated file of scan lines, of which the library prints a lot."""
    table = file.tell()
    end, first, last = file.seek(0, 2), 1 << 63, 0
    file.seek(table)
    while file.tell() < min(first, end):  # the table ends where the first chunk begins
        offset = int.from_bytes(file.read(8), "little")
        first, last = min(first, offset), max(last, offset)
    file.seek(min(last, end))
    size = int.from_bytes(file.read(8)[4:], "little")  # after the number of the line
    if not table < first or last + 8 + size > end:
        raise EOFError


def _text(file: IO[bytes]) -> str:
    """Reads to the next zero byte."""
    found = bytearray()
    while (byte := file.read(1)) != b"\0":
        if not byte or len(found) == _LONGEST_NAME:
            raise EOFError
        found += byte
    return found.decode()


def _kind(
    types: Mapping[str, Any], size: tuple[int, int], channels: Sequence[str | int] | None
) -> Kind:
    names = sorted(types)
    if channels is None:
        usual = [each for each in _IMAGES if sorted(each) == names]
        if not usual and len(names) != 1:
            found = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise DataError(
                f"it has the channels {found}; say which to read, with "
                "dataloader.load.input_channels or target_channels, or for 'data check' with "
                "--channels-a or --channels-b"
            )
        picked = usual[0] if usual else tuple(names)
    else:
        picked = tuple(names[i] for i in chosen(channels, names, len(names)))
    # Every half is a float, so that they may be mixed.
    dtype = np.result_type(*(_dtype(name, types[name]) for name in picked))
    check_kind(dtype, *size, len(picked))
    return Kind(dtype, *size, len(picked), picked)


def _dtype(name: str, channel: Any) -> Any:
    kind = str(channel.type)
    if kind not in _DTYPES:
        raise DataError(
            f"the values of its channel {name} are {kind}; supported are HALF and FLOAT"
        )
    if (channel.xSampling, channel.ySampling) != (1, 1):
        raise DataError(f"its channel {name} has fewer pixels than the image (chroma subsampling)")
    return _DTYPES[kind]


def _size(header: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of the pixels in the file."""
    if "dataWindow" not in header:
        return 0, 0
    (left, top), (right, bottom) = (
        [int(each) for each in corner] for corner in header["dataWindow"]
    )
    return bottom - top + 1, right - left + 1
