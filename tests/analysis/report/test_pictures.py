from __future__ import annotations

import base64
import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nectargan.analysis.report.pictures import Examples, PictureStore, rows_of, spread
from nectargan.analysis.sources import open_sources
from nectargan.trainers.validation import save_grid

from .conftest import SIZE, grey, make_run_with_pictures


def opened(store: PictureStore, place: int) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(store.texts[place]))) as picture:
        return np.asarray(picture)


def test_pairs_are_those_of_all_runs_and_pictures_those_of_the_grids(tmp_path: Path) -> None:
    for seed in range(2):
        make_run_with_pictures(tmp_path / f"run_v{seed}", seed)
    store = PictureStore()
    examples = Examples(open_sources(str(tmp_path / "*")), store, 10**6)
    assert len(examples.pairs) == 2
    assert (examples.side, examples.epochs) == (256, (3, 3))
    for pair, places in enumerate(examples.pairs):
        for kind, value in (("input", 10 + pair), ("target", 200 + pair)):
            picture = opened(store, places[kind])
            assert picture.shape == (*SIZE, 3)
            assert abs(picture.astype(int) - value).max() <= 1
    for seed in range(2):
        assert {p: set(made) for p, made in examples.generated[seed].items()} == {
            0: {0, 1, 2},
            1: {0, 1, 2},
        }
        for pair, made in examples.generated[seed].items():
            for epoch, place in made.items():
                picture = opened(store, place).astype(int)
                assert abs(picture - grey(seed, epoch, pair)).max() <= 2


@pytest.mark.parametrize(("most_bytes", "side", "count"), [(10_000, 256, 23), (4_000, 64, 9)])
def test_few_bytes_make_small_pictures_of_few_epochs(
    tmp_path: Path, most_bytes: int, side: int, count: int
) -> None:
    make_run_with_pictures(tmp_path / "run", epochs=range(40))
    examples = Examples(open_sources(tmp_path / "run"), PictureStore(), most_bytes)
    assert (examples.side, examples.epochs) == (side, (count, 40))
    found = examples.generated[0][0]
    assert {0, 39} <= set(found)
    assert len(found) == count


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_a_grid_is_cut_where_it_was_put_together(height: int, width: int, count: int) -> None:
    rows = torch.arange(count * 2).add(1).mul(12).to(torch.uint8)
    images = [torch.full((3, height, width), int(value), dtype=torch.uint8) for value in rows]
    pairs = list(zip(images[::2], images[1::2], strict=True))
    grid = np.full(((height + 2) * count - 2, 3 * (width + 2) - 2, 3), 255, np.uint8)
    for row, (source, target) in enumerate(pairs):
        for column, image in enumerate((source, source, target)):
            top, left = row * (height + 2), column * (width + 2)
            grid[top : top + height, left : left + width] = image.permute(1, 2, 0).numpy()
    found = rows_of(grid, (height, width))
    assert found is not None
    for cut, (source, target) in zip(found, pairs, strict=True):
        for image, wanted in zip(cut, (source, source, target), strict=True):
            assert image.shape == (height, width, 3)
            assert (image == int(wanted[0, 0, 0])).all()
    assert rows_of(grid, (height, width + 1)) is None
    assert rows_of(grid[:-1], (height, width)) is None


def test_invalid_grids_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run_with_pictures(tmp_path / "run")
    run.epoch_file("examples", 1, 10).write_bytes(b"no picture")
    images = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2
    other = run.epoch_file("examples", 2, 20)
    save_grid([(images[0], images[1])], [torch.zeros(3, 8, 8)], other)
    with caplog.at_level(logging.WARNING):
        examples = Examples(open_sources(run.path), PictureStore(), 10**6)
    assert set(examples.generated[0][0]) == {0}
    first, second = caplog.messages
    assert "epoch_0001_step_00000010.png' cannot be read" in first
    assert "epoch_0002_step_00000020.png' is not a grid of examples of this run" in second


@given(st.integers(1, 300), st.integers(0, 300))
def test_epochs_are_spread(there: int, count: int) -> None:
    epochs = list(range(5, 5 + there))
    found = spread(epochs, count)
    assert len(found) == len(set(found)) == min(there, max(count, 1))
    assert found == sorted(found)
    assert found[-1] == epochs[-1]
    if min(count, there) > 1:
        assert found[0] == epochs[0]
        gaps = np.diff(found)
        assert gaps.max() - gaps.min() <= 1
