"""A model called with an image of any kind returns one of the same kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nectargan import load_model
from nectargan.errors import DataError
from nectargan.inference.model import Model
from nectargan.record.run_directory import RunDirectory
from tests.inference.test_apply import drawn, expected

SIZE = (20, 27)


@pytest.fixture(scope="module")
def model(trained: RunDirectory) -> Model:
    return load_model(trained, device="cpu")


@pytest.fixture(scope="module")
def made(model: Model) -> np.ndarray:
    """What is made of `drawn`, ``(H, W, 3)`` uint8."""
    return expected(model, drawn(*SIZE))


def test_pil_images(model: Model, made: np.ndarray) -> None:
    image = Image.fromarray(drawn(*SIZE))
    result = model(image)
    assert result.mode == "RGB"
    assert np.array_equal(np.asarray(result), made)
    assert model(image.convert("CMYK")).mode == "RGB"
    assert model(image.convert("L")).size == image.size
    with_alpha = image.copy()
    with_alpha.putalpha(200)
    assert model(with_alpha).mode == "RGBA"
    assert set(np.asarray(model(with_alpha))[..., 3].flat) == {200}
    wide = Image.fromarray(drawn(*SIZE, 1, np.uint16))
    assert model(wide).mode == "RGB"
    with pytest.raises(DataError, match="The image cannot be used: its values are floating"):
        model(Image.fromarray(np.ones((4, 4), np.float32)))


def test_paths(model: Model, made: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(drawn(*SIZE)).save(path)
    for named in (path, str(path)):
        assert np.array_equal(np.asarray(model(named)), made)
    with pytest.raises(DataError, match=r"none\.png: "):
        model(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("dtype", "scale", "within"),
    [
        (np.uint8, 1, 0),
        (np.uint16, 257, 0.51),
        (np.float32, 1 / 255, 0.51),
        (np.float64, 1 / 255, 0.51),
    ],
)
def test_arrays_and_tensors(
    model: Model, made: np.ndarray, dtype: Any, scale: float, within: float
) -> None:
    array = (drawn(*SIZE) * np.float64(scale)).astype(dtype)
    result = model(array)
    assert result.dtype == dtype
    assert np.abs(result / scale - made).max() <= within + 1e-3
    assert np.array_equal(model(np.stack([array, array]))[1], result)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    from_tensor = model(tensor)
    assert from_tensor.dtype == tensor.dtype
    assert np.array_equal(from_tensor.permute(1, 2, 0).numpy(), result)
    assert model(tensor[None]).shape == (1, 3, *SIZE)


def test_lists_of_any_kinds(model: Model, made: np.ndarray) -> None:
    image = Image.fromarray(drawn(*SIZE))
    first, second = model([image, drawn(*SIZE)])
    assert isinstance(first, Image.Image)
    assert np.array_equal(np.asarray(first), made)
    assert np.array_equal(second, made)
    assert model([]) == []


def test_one_channel(model: Model) -> None:
    """A model that takes and makes grey images."""
    config = model.config.model_copy(deep=True)
    config.dataloader.load.input_nc = config.dataloader.load.output_nc = 1
    grey = replace(model, network=None, forward=lambda batch: -batch, config=config)
    array = drawn(*SIZE, 1)
    assert np.array_equal(grey(array), 255 - array)
    assert grey(Image.fromarray(array)).mode == "L"
    assert grey(Image.fromarray(drawn(*SIZE))).mode == "L"
    wide = drawn(*SIZE, 1, np.uint16)
    result = grey(Image.fromarray(wide))
    assert result.mode == "I;16"
    assert np.array_equal(np.asarray(result), 65535 - wide)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\).*takes \(H, W, 3\)"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (torch.zeros(4, 4, 3), r"takes \(3, H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
        (np.full((4, 4, 3), -1.0), r"go from -1 to -1; floats must be in \[0, 1\]"),
        (np.full((4, 4, 3), np.nan), "go from nan to nan"),
        (np.zeros((4, 4, 3), np.int64), "values of an image are int64"),
        (7, "got int"),
    ],
)
def test_files_that_are_not_images_are_reported(model: Model, image: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        model(image)
