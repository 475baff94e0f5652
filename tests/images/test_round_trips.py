"""A file that an independent library wrote is the same to it after it was read and written here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import OpenEXR
import pytest

from nectargan.images.reading import raw_kind, read_raw
from nectargan.images.writing import write_raw
from tests.image_kinds import IMAGE_KINDS, ImageKind, draw


@pytest.mark.parametrize("kind", IMAGE_KINDS, ids=str)
def test_round_trip(tmp_path: Path, kind: ImageKind) -> None:
    values = draw(kind)
    theirs, ours = tmp_path / f"theirs{kind.suffix}", tmp_path / f"ours{kind.suffix}"
    kind.write(theirs, values)
    header = raw_kind(theirs, kind.channels)
    assert header[:4] == (np.dtype(kind.dtype), *values.shape)
    assert header.channel_names == (kind.channels or kind.names)

    image = read_raw(theirs, kind.channels)
    assert image.values.dtype == np.dtype(kind.dtype)
    assert image.channel_names == (kind.channels or kind.names)
    if kind.is_exact:
        assert np.array_equal(image.values, values)
    else:
        assert np.array_equal(image.values, kind.read(theirs))

    write_raw(ours, image)
    found = kind.read(ours)
    assert found.dtype == np.dtype(kind.dtype)
    if kind.is_exact:
        assert np.array_equal(found, values)
    else:
        assert np.abs(found.astype(float) - values).max() < 30


@pytest.mark.parametrize("kind", IMAGE_KINDS, ids=str)
def test_every_kind_as_another(tmp_path: Path, kind: ImageKind) -> None:
    """No value is changed by a format that holds such values."""
    kind.write(tmp_path / f"a{kind.suffix}", draw(kind, 66, 70))
    image = read_raw(tmp_path / f"a{kind.suffix}", kind.channels)
    suffixes = [".npy", ".npz"]
    if "geo" in image.metadata or kind.dtype != "float16":
        suffixes.append(".tif")
    if kind.dtype.startswith("float"):
        suffixes.append(".exr")
    for suffix in suffixes:
        other = tmp_path / f"b{suffix}"
        write_raw(other, image)
        names = image.channel_names or (read_names(other) if suffix == ".exr" else None)
        found = read_raw(other, names if suffix == ".exr" else None).values
        assert found.dtype == image.values.dtype
        assert np.array_equal(found, image.values)


def read_names(path: Path) -> list[str]:
    """Of channels that were written without one, or with one, in their order."""
    header = OpenEXR.File(str(path), header_only=True).header()
    names = [channel.name for channel in header["channels"]]
    order = {name: i for i, name in enumerate("RGBA")}
    return sorted(names, key=lambda name: (order.get(name, 0), name))
