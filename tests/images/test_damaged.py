"""Damaged files are refused in one sentence that names them, or read; nothing else happens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nectargan.errors import DataError
from nectargan.images.raw import MOST_BYTES
from nectargan.images.reading import raw_kind, read_raw
from tests.image_kinds import IMAGE_KINDS, ImageKind, draw

# One of each library and way of storing.
KINDS = tuple(kind for kind in IMAGE_KINDS if kind.name not in ("png-8-1", "png-8-2", "png-8-4"))


def looked_at(path: Path, kind: ImageKind) -> None:
    for read in (raw_kind, read_raw):
        try:
            found = read(path, kind.channels)
        except DataError as error:
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
        else:
            if read is read_raw:
                assert found.values.nbytes <= MOST_BYTES


@pytest.mark.parametrize("kind", KINDS, ids=str)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged(tmp_path: Path, kind: ImageKind, data: st.DataObject) -> None:
    whole, path = tmp_path / f"whole{kind.suffix}", tmp_path / f"damaged{kind.suffix}"
    if not whole.exists():
        kind.write(whole, draw(kind))
    content = bytearray(whole.read_bytes())
    # Most of what a header says is at one of the ends.
    places = st.one_of(
        st.integers(0, len(content) - 1),
        st.integers(0, min(400, len(content) - 1)),
        st.integers(max(0, len(content) - 400), len(content) - 1),
    )
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        content[place] = value
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path.write_bytes(content[:end])
    looked_at(path, kind)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_truncated(tmp_path: Path, kind: ImageKind) -> None:
    """No part of an image is taken for the image."""
    path = tmp_path / f"a{kind.suffix}"
    kind.write(path, draw(kind))
    whole, content = read_raw(path, kind.channels), path.read_bytes()
    refused = 0
    for end in sorted({*range(0, len(content), max(1, len(content) // 40)), len(content) - 1}):
        path.write_bytes(content[:end])
        try:
            found = read_raw(path, kind.channels)
        except DataError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
        else:
            assert np.array_equal(found.values, whole.values)
    assert refused >= 20
