"""The value mappings of a run follow from its config and its training images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nectargan.build_data import build_data
from nectargan.build_values import ValueMappings
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import ConfigError
from nectargan.images.mapping import ValueMapping
from nectargan.runs.checkpoint import load_last
from nectargan.runs.resume import resumption_of
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

CPU = torch.device("cpu")
Make = Callable[..., Config]


def write(root: Path, dtype: str, top: float, count: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for side in ("trainA", "trainB"):
        (root / side).mkdir(parents=True)
        for index in range(count):
            values = (rng.random((32, 32, 2)) * top).astype(dtype)
            values[0, 0], values[0, 1] = 0, top
            np.save(root / side / f"{index}.npy", values)
    return root


def config_of(tiny: Make, root: Path, **load: Any) -> Config:
    options = {f"dataloader__load__{key}": value for key, value in load.items()}
    both = {"dataloader__load__input_nc": 2, "dataloader__load__output_nc": 2}
    return tiny(dataloader__dataroot=str(root), **both, **options)


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("dtype", (0.0,), (65535.0,)),
        ([0, 4095], (0.0,), (4095.0,)),
        ([[0, 100], [-5, 5.5]], (0.0, -5.0), (100.0, 5.5)),
        ("percentile 0 100", (0.0, 0.0), (4000.0, 4000.0)),
    ],
)
def test_ranges(tiny: Make, tmp_path: Path, value: Any, low: Any, high: Any) -> None:
    root = write(tmp_path / "data", "uint16", 4000)
    data = build_data(config_of(tiny, root, input_range=value, transfer=["asinh", "linear"]), CPU)
    assert data.values == ValueMappings(
        ValueMapping(low, high, "asinh", "uint16"),
        ValueMapping((0.0,), (65535.0,), "linear", "uint16"),
    )
    source, target = next(data.train.epoch(1))
    assert source.min() >= -1
    assert source.max() <= 1
    assert target.max() == pytest.approx(2 * 4000 / 65535 - 1, abs=0.02)


@pytest.mark.parametrize(
    ("top", "value", "message"),
    [
        (7.5, "dtype", "input_range is 'dtype'.*from 0 to 7.5; set it to \\[0, 7.5\\]"),
        (0.5, [[0, 1]] * 3, "input_range has 3 ranges for 2 channels"),
        (0.0, "percentile 1 99", "input_range is.*both are 0 in channel 1"),
    ],
)
def test_ranges_that_do_not_fit(
    tiny: Make, tmp_path: Path, top: float, value: Any, message: str
) -> None:
    root = write(tmp_path / "data", "float32", top)
    with pytest.raises(ConfigError, match=f"dataloader.load.{message}"):
        build_data(config_of(tiny, root, input_range=value), CPU)


@pytest.mark.parametrize(
    "value", ["percentile", "percentile 99 1", "percentile a b", [1], [2, 1], [[0, 1], 2], "full"]
)
def test_ranges_that_are_none(tiny: Make, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"dataloader\.load\.input_range"):
        ConfigManager(None, [("dataloader.load.input_range", value)])


def test_plain_images_with_a_range_of_their_own(tiny: Make) -> None:
    assert build_data(tiny(), CPU).values is None
    data = build_data(tiny(dataloader__load__target_range=[0, 200]), CPU)
    assert data.values is not None
    assert data.values.target.high == (200.0,)
    plain = next(build_data(tiny(), CPU).train.epoch(1))
    ranged = next(data.train.epoch(1))
    assert torch.equal(ranged[0], plain[0])
    assert torch.allclose(ranged[1], ((plain[1] + 1) * 127.5 / 100 - 1).clamp(max=1), atol=1e-5)


def test_a_resumed_run_keeps_its_ranges(tiny: Make, tmp_path: Path) -> None:
    root = write(tmp_path / "data", "float32", 30.0)
    config = config_of(tiny, root, input_range="percentile 1 99", target_range="percentile 1 99")
    trainer = Pix2pixTrainer(config)
    directory = trainer.train(display=None)
    stored = load_last(directory)["values"]
    assert trainer.data.values is not None
    assert stored == trainer.data.values.to_dict()

    content = load_last(directory)
    content["values"]["input"]["low"] = [1.0, 2.0]
    longer = ConfigManager(content["config"], [("train.generator.learning_rate.epochs", 9)]).data
    resumed = Pix2pixTrainer(longer, resumption_of(directory, content, longer))
    assert resumed.data.values is not None
    assert resumed.data.values.input.low == (1.0, 2.0)
