"""Runs with ledgers of known values, example grids and tests, made without a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nectargan.config.config_manager import Override
from nectargan.record.run_directory import RunDirectory
from nectargan.record.test_record import Measured, TestRecord, write_test
from nectargan.trainers.validation import save_grid

from ..conftest import make_whole_run

SIZE = (20, 32)  # height and width: not square


def make_run_with_pictures(
    path: Path, seed: int = 0, epochs: Sequence[int] = (0, 1, 2), options: Sequence[Override] = ()
) -> RunDirectory:
    """A run of two epochs with grids of two pairs, and a test of four images
    with pictures."""
    crop = [("dataloader.load.load_size", [24, 36]), ("dataloader.load.crop_size", list(SIZE))]
    make_whole_run(path, [*crop, *options], ssim=[0.1, 0.3 + seed / 100], l1=[0.3, 0.2])
    run = RunDirectory(path)
    for epoch in epochs:
        save_grid(pairs(), generated(seed, epoch), run.epoch_file("examples", epoch, 10 * epoch))
    write_test(run, test_record(seed), ["a", "b", "c", "d"], {"l1": test_values(seed)})
    for row in range(4):
        made = torch.full((3, *SIZE), test_grey(seed, row) / 127.5 - 1)
        save_grid([(flat(10 + row), flat(200 + row))], [made], run.test_image("test", row))
    return run


def pairs() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The pairs of all runs, each of one colour: input and target."""
    return [(flat(10 + i), flat(200 + i)) for i in range(2)]


def flat(value: int) -> torch.Tensor:
    return torch.full((3, *SIZE), value, dtype=torch.uint8)


def generated(seed: int, epoch: int) -> list[torch.Tensor]:
    """Images in [-1, 1], one grey of its own for each run, epoch and pair."""
    return [torch.full((3, *SIZE), grey(seed, epoch, pair) / 127.5 - 1) for pair in range(2)]


def grey(seed: int, epoch: int, pair: int) -> int:
    """The grey of what was generated, in [0, 255]."""
    return 60 + 20 * seed + 8 * epoch + 2 * pair


def test_values(seed: int) -> list[float]:
    return [0.4 + seed / 7, 0.1, 0.3, 0.2]


test_values.__test__ = False  # type: ignore[attr-defined]


def test_grey(seed: int, row: int) -> int:
    """The grey of what was generated for an image of the test."""
    return 100 + 20 * seed + 4 * row


test_grey.__test__ = False  # type: ignore[attr-defined]


def test_record(seed: int) -> TestRecord:
    values = test_values(seed)
    mean = Measured(float(np.mean(values)), min(values), max(values), False)
    return TestRecord(
        *("test", 4, "fronts", "digest", "best.pt", 2, SIZE, "bicubic", "float32", False, None, 0),
        resamples=2000,
        weights={},
        metrics={"l1": mean},
        warnings=["Of four images."],
    )


test_record.__test__ = False  # type: ignore[attr-defined]
