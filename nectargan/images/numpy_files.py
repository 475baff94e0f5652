"""NumPy arrays in .npy files, and in .npz files with one array."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from nectargan.errors import DataError
from nectargan.images.raw import Kind, RawImage, Values, check_kind, chosen, naming
from nectargan.sources import Source, open_source

_DEFAULT_NAME = "arr_0"  # NumPy's own


class _Header(NamedTuple):
    """What a file says before its values.

    Attributes:
        shape: Of the array in the file.
        is_fortran: Whether the first index changes fastest.
        dtype: Of the array in the file.
        layout: The axes of the file: "HW", "HWC" or "CHW".
        name: Of the array in an .npz file; empty in an .npy file.
        kind: Of the image.
    """

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    layout: str
    name: str
    kind: Kind


def numpy_kind(path: Source, channels: Sequence[str | int] | None) -> Kind:
    """See `raw_kind`."""
    with _opened(path) as (_, header):
        return header.kind._replace(channels=len(chosen(channels, (), header.kind.channels)))


def read_numpy(path: Source, channels: Sequence[str | int] | None) -> RawImage:
    """See `read_raw`."""
    with _opened(path) as (file, header):
        order = chosen(channels, (), header.kind.channels)
        size = int(np.prod(header.shape)) * header.dtype.itemsize
        data = file.read(size)
        if len(data) != size:
            raise EOFError
        values = np.frombuffer(data, header.dtype)
        values = values.reshape(header.shape, order="F" if header.is_fortran else "C")
        if header.layout == "HW":
            values = values[..., None]
        elif header.layout == "CHW":
            values = np.moveaxis(values, 0, 2)
        if channels is not None:
            values = values[..., list(order)]
        # A copy, as the buffer cannot be written to.
        own = np.array(values, header.kind.dtype, order="C")
        return RawImage(own, metadata={"layout": header.layout, "name": header.name})


def write_npy(path: Path, image: RawImage) -> None:
    """Writes an .npy file with the axes that ``image`` was read with."""
    with path.open("wb") as file:
        npy.write_array(file, _with_axes(image), allow_pickle=False)


def write_npz(path: Path, image: RawImage) -> None:
    """Writes a compressed .npz file with one array, named as in the file of ``image``."""
    name = image.metadata.get("name") or _DEFAULT_NAME
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{name}.npy", "w", force_zip64=True) as file,
    ):
        npy.write_array(file, _with_axes(image), allow_pickle=False)


def _with_axes(image: RawImage) -> Values:
    layout = image.metadata.get("layout", "HWC")
    if layout == "HW" and image.values.shape[2] == 1:
        return image.values[..., 0]
    return np.moveaxis(image.values, 2, 0) if layout == "CHW" else image.values


@contextmanager
def _opened(path: Source) -> Iterator[tuple[IO[bytes], _Header]]:
    with naming(path, "NumPy"), open_source(path) as file:
        start = file.read(2)
        file.seek(0)
        if start != b"PK":
            yield file, _header(file, "")
            return
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
            names = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]
            if len(names) != 1:
                found = f"{len(names)} arrays ({', '.join(names[:5])})" if names else "no array"
                raise DataError(f"it has {found}; exactly one is read")
            with archive.open(f"{names[0]}.npy") as member:
                yield member, _header(member, names[0])


def _header(file: IO[bytes], name: str) -> _Header:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise DataError("it has pickled Python objects, which are not read: they may run code")
    if len(shape) not in (2, 3):
        allowed = "(H, W), (H, W, C) or (C, H, W)"
        raise DataError(f"its array has the shape {shape}; allowed are {allowed}")
    # The channels are the shorter of the first and the last axis; the last one if they are equal.
    layout = "HW" if len(shape) == 2 else "CHW" if shape[0] < shape[2] else "HWC"
    sizes = dict(zip(layout, shape, strict=True))
    height, width, count = sizes["H"], sizes["W"], sizes.get("C", 1)
    native = check_kind(dtype, height, width, count)
    return _Header(shape, is_fortran, dtype, layout, name, Kind(native, height, width, count))
