"""The page of `nectargan data preview` shows what the trainer sees."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nectargan.build_data import build_data
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.data_preview import write_preview
from nectargan.dataset.paired_dataset import denormalize
from nectargan.dataset.synthetic import synthesize
from nectargan.errors import DataError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    root = tmp_path / "<b>fronts"
    synthesize(root, train=5, val=1, size=64, seed=0)
    return ConfigManager(
        None,
        [
            ("dataloader.dataroot", str(root)),
            ("dataloader.load", {"load_size": 36, "crop_size": 32, "input_nc": 1}),
            ("dataloader.batch_size", 2),
            ("dataloader.augmentations.both.h_flip_chance", 0.5),
        ],
    ).data


def test_the_pictures_are_the_first_batches(config: Config, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert write_preview(config, page, 3) == 3
    text = page.read_text(encoding="utf-8")
    found = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r"data:image/png;base64,([^\"]+)", text)
    ]
    batches = list(build_data(config, torch.device("cpu")).train.epoch(1))[:2]
    wanted = [
        denormalize(image).squeeze(0).numpy()
        for pairs in batches
        for pair in zip(*pairs, strict=True)
        for image in pair
    ][:6]
    assert [image.shape for image in found] == [(32, 32), (32, 32, 3)] * 3
    for image, channels_first in zip(found, wanted, strict=True):
        assert np.array_equal(
            image, np.moveaxis(channels_first, 0, -1) if image.ndim == 3 else channels_first
        )


def test_the_pictures_have_the_view_of_the_config(config: Config, tmp_path: Path) -> None:
    config.save.view.target_bands = [2]
    config.save.view.stretch = [0, 100]
    page = tmp_path / "page.html"
    write_preview(config, page, 1)
    text = page.read_text(encoding="utf-8")
    assert "Of target, channel 2 is shown. Black and white are percentiles 0 and 100" in text
    for data in re.findall(r"data:image/png;base64,([^\"]+)", text):
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert (image.ndim, image.min(), image.max()) == (2, 0, 255)


def test_the_page_has_all_sizes_and_needs_nothing_else(config: Config, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert write_preview(config, page, 100) == 5
    text = page.read_text(encoding="utf-8")
    assert "<td>train</td><td>5</td><td>64 x 64</td><td>64 x 64</td>" in text
    assert "<td>val</td><td>1</td>" in text
    assert "&lt;b&gt;fronts" in text
    assert "<b>" not in text
    assert not re.search(r"https?:|src=\"(?!data:)", text)
    assert text.count("<polyline") == 1 + 3  # channels of input and target


def test_a_page_that_cannot_be_written(config: Config, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"page\.html' cannot be written: No such file"):
        write_preview(config, tmp_path / "nowhere" / "page.html", 1)


def test_masked_pixels_are_gray_and_not_counted(tmp_path: Path) -> None:
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        values = np.full((32, 32), 96, np.float32)
        values[:16] = np.nan
        for number in range(2):
            np.save(tmp_path / f"train{side}" / f"{number}.npy", values)
    load = {
        "load_size": 32,
        "crop_size": 32,
        "input_nc": 1,
        "output_nc": 1,
        "invalid": "mask",
        "input_range": [0, 128],
        "target_range": [0, 128],
    }
    options = [("dataloader.dataroot", str(tmp_path)), ("dataloader.load", load)]
    assert write_preview(ConfigManager(None, options).data, tmp_path / "page.html", 2) == 2
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Input: from 0.50 to 0.50, mean 0.50" in text
    assert "Pixels without values are gray and not counted." in text
    data = re.findall(r"data:image/png;base64,([^\"]+)", text)[0]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert sorted({color for _, color in image.getcolors()}) == [128, 191]
