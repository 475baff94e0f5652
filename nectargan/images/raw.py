"""An image in the values and the type of its file."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nectargan.errors import DataError
from nectargan.sources import Source
from nectargan.wording import counted

Values = npt.NDArray[Any]

DTYPES = ("uint8", "int8", "uint16", "int16", "float16", "float32")
MOST_CHANNELS = 64
ALL = ("*",)  # a choice of all channels, also of an OpenEXR file that names many
MOST_BYTES = 2**31  # of an image in memory
SUPPORTED = f"1 to {MOST_CHANNELS} channels of {', '.join(DTYPES[:-1])} or {DTYPES[-1]}"
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_INSTEAD = {"bool": "uint8", "uint32": "uint16 or float32", "float64": "float32"}


class Kind(NamedTuple):
    """What the header of a file says of its image.

    Attributes:
        dtype: One of `DTYPES`.
        height: Height as displayed, in pixels.
        width: Width as displayed, in pixels.
        channels: The number of channels, of those that were chosen.
        channel_names: Their names; empty if the file has none.
        nodata: The value that stands for "nothing was measured here", if the file says one.
        is_plain: Whether Pillow reads the whole image in 8 bits, as grey, color or palette.
    """

    dtype: np.dtype[Any]
    height: int
    width: int
    channels: int
    channel_names: tuple[str, ...] = ()
    nodata: float | None = None
    is_plain: bool = False


class RawImage(NamedTuple):
    """An image in the values and the type of its file, as it is displayed.

    Attributes:
        values: ``(H, W, C)`` of one of `DTYPES`, in the units of the file.
        channel_names: A name for each channel; empty if they have none.
        nodata: The value that stands for "nothing was measured here", if there is one.
        metadata: What a writer needs to keep: coordinates, attributes, the layout of the file.
    """

    values: Values
    channel_names: tuple[str, ...] = ()
    nodata: float | None = None
    metadata: Mapping[str, Any] = _NOTHING


def check_kind(dtype: Any, height: int, width: int, channels: int) -> np.dtype[Any]:
    """Checks what a header says, before memory is taken for it.

    Returns:
        The type in the byte order of this machine.

    Raises:
        DataError: If the type, the number of channels or the size is not supported.
    """
    name = np.dtype(dtype).newbyteorder("=").name
    if name not in DTYPES:
        instead = _INSTEAD.get(name, "int16 or float32" if name.startswith("int") else "")
        hint = f"; save it as {instead}" if instead else ""
        raise DataError(f"its values are {name}; supported are {SUPPORTED}{hint}")
    if not height or not width or not channels:
        found = f"{height} x {width} pixels with {counted(channels, 'channel')}"
        raise DataError(f"it is empty: its header says {found}")
    if channels > MOST_CHANNELS:
        raise DataError(f"it has {channels} channels; supported are {SUPPORTED}")
    size = height * width * channels * np.dtype(name).itemsize
    if size > MOST_BYTES:
        found = f"{height} x {width} pixels with {counted(channels, 'channel')} of {name}"
        most = f"{MOST_BYTES >> 30} GB is the limit"
        raise DataError(f"{found} take {size / 2**30:.1f} GB of memory; {most}")
    native: np.dtype[Any] = np.dtype(name)
    return native


def chosen(
    channels: Sequence[str | int] | None, names: Sequence[str], count: int
) -> tuple[int, ...]:
    """The indices, from 0, of the channels that a user chose by name or by number, from 1.

    Args:
        channels: The choice; ``None`` or `ALL` for all channels.
        names: The names of the channels of the file; empty if they have none.
        count: The number of channels of the file.

    Raises:
        DataError: If a channel does not exist.
    """
    if channels is None or (list(channels) == list(ALL) and "*" not in names):
        return tuple(range(count))
    if not channels:
        raise DataError("no channel of it is chosen")
    found = []
    for each in channels:
        if isinstance(each, str) and each in names:
            found.append(list(names).index(each))
        elif isinstance(each, int) and 1 <= each <= count:
            found.append(each - 1)
        else:
            has = ", ".join(map(repr, names)) if names else f"no names, but numbers 1 to {count}"
            raise DataError(
                f"it has no channel {each!r}; its channels have {has}".replace(
                    "channels have '", "channels are '"
                )
            )
    return tuple(found)


def cropped(image: RawImage, top: int, left: int, height: int, width: int) -> RawImage:
    """A part of an image, at its own coordinates if it has some."""
    values = image.values[top : top + height, left : left + width]
    metadata = dict(image.metadata)
    if "geo" in metadata:
        a, b, c, d, e, f = metadata["geo"]["transform"]
        moved = (a, b, a * left + b * top + c, d, e, d * left + e * top + f)
        part = {"transform": moved, "size": (height, width), "gcps": []}
        metadata["geo"] = {**metadata["geo"], **part}
    return image._replace(values=values, metadata=metadata)


def needed(module: str, what: str, extra: str = "images") -> Any:
    """Imports an optional library.

    Raises:
        DataError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(
            f"{what} needs the package {module}: pip install 'nectargan[{extra}]'"
        ) from None


@contextmanager
def naming(path: Source, what: str) -> Iterator[None]:
    """Turns every error of a library into a `DataError` that names the file.

    Args:
        path: The file that is read.
        what: The kind of its data, such as "TIFF".
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except OSError as error:
        if error.strerror and error.errno:
            raise DataError(f"{path}: unreadable ({error.strerror})") from None
        raise _damaged(path, what) from error
    except Exception as error:
        # Given damaged data, the libraries raise whatever their code happens to run into.
        if "requires the 'imagecodecs'" in str(error):
            missing = "its compression needs the package imagecodecs"
            raise DataError(f"{path}: {missing}: pip install 'nectargan[images]'") from None
        raise _damaged(path, what) from error


def _damaged(path: Source, what: str) -> DataError:
    return DataError(f"{path}: unreadable or truncated: the {what} data are damaged or incomplete")
