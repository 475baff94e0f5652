from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nectargan.inference.extremes import Extremes
from nectargan.record.run_directory import RunDirectory
from nectargan.record.test_record import TEST_EXTREMES
from nectargan.trainers.validation import View


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=5), min_size=1, max_size=8),
    st.integers(0, 40),
)
def test_the_best_and_the_worst_are_kept(batches: list[list[int]], bad: int) -> None:
    extremes = Extremes()
    all_values = [float(value) for batch in batches for value in batch]
    all_values = [math.nan if i == bad else value for i, value in enumerate(all_values)]
    row = 0
    for batch in batches:
        values = torch.tensor(all_values[row : row + len(batch)])
        rows = torch.arange(row, row + len(batch)).reshape(-1, 1, 1, 1) * torch.ones(1, 1, 2, 3)
        image = rows / 127.5 - 1
        extremes.look(image, rows / 255, image, {"a": values, "b": -values})
        row += len(batch)
    order = sorted((v, i) for i, v in enumerate(all_values) if not math.isnan(v))
    backwards = sorted((-v, i) for v, i in order)
    wanted = {
        i
        for found in (order, backwards)
        for _, i in [*found[:TEST_EXTREMES], *found[-TEST_EXTREMES:]]
    }
    assert set(extremes.images) == wanted
    for number, (source, generated, target) in extremes.images.items():
        assert torch.equal(source, target)
        assert torch.allclose(source, torch.tensor(number / 127.5 - 1), atol=1e-6)
        assert torch.allclose(generated, torch.tensor(number / 127.5 - 1), atol=1e-6)


def test_they_are_written_as_input_generated_and_target(tmp_path: Path) -> None:
    extremes = Extremes()
    source, generated = torch.full((1, 3, 4, 5), -1.0), torch.full((1, 3, 4, 5), 0.2)
    target = torch.full((1, 3, 4, 5), 1.0)
    extremes.look(source, generated, target, {"l1": torch.tensor(0.5)})
    run = RunDirectory(tmp_path)
    run.tests.mkdir()
    extremes.save(run, "val")
    with Image.open(run.test_image("val", 0)) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (4, 5 * 3 + 2 * 2, 3)
    assert [int(pixels[0, x, 0]) for x in (0, 7, 14)] == [0, 51, 255]


def test_they_are_shown_in_the_chosen_view(tmp_path: Path) -> None:
    """A hundredth of the range is stretched to all of it, without steps of 8 bits."""
    ramp = torch.linspace(-0.5, -0.48, 64).view(1, 1, 8, 8).expand(1, 5, 8, 8)
    extremes = Extremes()
    extremes.look(ramp, ramp / 2 + 0.5, ramp, {"l1": torch.tensor(0.5)})
    run = RunDirectory(tmp_path)
    run.tests.mkdir()
    extremes.save(run, "val", View([5], [2], [0, 100]))
    with Image.open(run.test_image("val", 0)) as picture:
        pixels = np.asarray(picture)[:, :8, 0]
    assert (pixels.min(), pixels.max(), len(np.unique(pixels))) == (0, 255, 64)


def test_extremes_of_two_halves_are_those_of_the_whole() -> None:
    images = torch.rand(9, 3, 2, 2)
    values = {"l1": torch.rand(9), "ssim": torch.rand(9)}
    whole, halves = Extremes(), [Extremes(), Extremes()]
    whole.look(images, images, images, values)
    for half, rows in zip(halves, (slice(0, 5), slice(5, 9)), strict=True):
        part = {name: each[rows] for name, each in values.items()}
        half.look(images[rows], images[rows], images[rows], part)
    joined = Extremes.joined(halves)
    assert len(joined) == 9
    assert joined.images.keys() == whole.images.keys()
    for row, (_, generated, _) in joined.images.items():
        assert torch.equal(generated, whole.images[row][1])
