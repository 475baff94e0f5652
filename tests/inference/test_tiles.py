"""A large image in tiles is the image that would have come out in one piece."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from nectargan import load_model
from nectargan.errors import DataError
from nectargan.inference import pixels as pixels_module
from nectargan.inference.memory import peak_of_pass
from nectargan.inference.model import Model
from nectargan.inference.norm_statistics import NormStatistics
from nectargan.inference.pixels import PixelGenerator, Tiling
from nectargan.inference.tiles import _weights, generate_tiled, make_grid
from nectargan.models.pix2pixhd import GlobalGenerator
from nectargan.models.resnet import ResnetGenerator
from nectargan.models.unet import UnetGenerator
from nectargan.record.run_directory import RunDirectory
from tests.inference.test_apply import apply

NETWORKS = {
    "unet": lambda: UnetGenerator(features=4, n_downs=1),
    "unet_bilinear": lambda: UnetGenerator(
        features=4, n_downs=1, upsample_type="Bilinear", block_type="ResidualUnetBlock"
    ),
    "resnet": lambda: ResnetGenerator(features=4, n_downs=1, n_blocks=2),
    "pix2pixHD": lambda: GlobalGenerator(features=4, n_downs=2, n_blocks=1),
    "batch": lambda: UnetGenerator(features=4, n_downs=1, norm="batch"),
}


def as_model(base: Model, network: nn.Module) -> Model:
    for parameter in network.parameters():
        # Far from what a network begins with: what is generated differs from place to place.
        nn.init.normal_(parameter, std=0.2 if parameter.dim() > 1 else 0.1)
    network.eval()
    return replace(
        base,
        network=network,
        forward=network,
        multiple=network.multiple,
        smallest=network.smallest,
    )


def uneven(height: int, width: int) -> np.ndarray:
    """Dark at one end and bright at the other: tiles have other statistics than the whole."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.linspace(0.3, 1, height)[:, None, None]
    return (ramp + rng.uniform(0, 55, (height, width, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def base(trained: RunDirectory) -> Model:
    return load_model(trained, device="cpu")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(200, 260), (77, 301)])
def test_exact_tiles_are_the_whole_image(base: Model, name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = as_model(base, NETWORKS[name]())
    image = uneven(*size)
    grid = make_grid(size, model.multiple, model.smallest, 144, 128)
    assert len(grid.columns) > 2
    tiled = generate_tiled(model, image, grid)
    (whole,) = PixelGenerator(model, Tiling(tile=0))([image])
    assert whole.std() > 5
    # One step of 255, where a value lies between two: the sums are in another order.
    assert np.abs(tiled.astype(int) - whole).max() <= 1
    assert (tiled != whole).mean() < 0.01


def test_tiles_of_their_own_statistics_would_differ(base: Model) -> None:
    """What the two choices are for."""
    torch.manual_seed(0)
    model = as_model(base, NETWORKS["unet"]())
    image = uneven(200, 1000)
    grid = make_grid((200, 1000), 8, 8, 128, 64)
    (whole,) = PixelGenerator(model, Tiling(tile=0))([image])

    def error(made: np.ndarray) -> float:
        return float(np.abs(made.astype(float) - whole).mean())

    own = error(generate_tiled(replace(model, network=None), image, grid))
    fast = error(generate_tiled(model, image, grid, "fast"))
    exact = error(generate_tiled(model, image, grid, "exact"))
    assert exact < 0.1 < own
    assert exact < fast < own


def test_the_networks_norms_are_as_they_were(base: Model) -> None:
    model = as_model(base, NETWORKS["unet"]())
    images = torch.rand(1, 3, 32, 32)
    before = model.generate(images)
    generate_tiled(model, uneven(64, 300), make_grid((64, 300), 8, 8, 64, 16))
    assert torch.equal(model.generate(images), before)
    assert not any("forward" in vars(module) for module in model.network.modules())  # type: ignore[union-attr]


def test_16_bits_are_tiled_alike(base: Model) -> None:
    model = as_model(base, NETWORKS["unet"]())
    image = uneven(100, 300).astype(np.uint16) * 257
    grid = make_grid((100, 300), 8, 8, 128, 64)
    made = generate_tiled(model, image, grid)
    assert made.dtype == np.uint16
    assert np.abs(made // 257.0 - generate_tiled(model, image.astype(np.uint8), grid)).max() < 300
    eight = generate_tiled(model, uneven(100, 300), grid)
    assert np.abs(made / 257.0 - eight).max() <= 0.51


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 11), st.sampled_from([1, 2, 8, 64]))
def test_tiles_cover_an_image_once(length: int, tile: int, overlap: int, multiple: int) -> None:
    length, tile, overlap = length * multiple, tile * multiple, min(overlap, tile - 1) * multiple
    rows = make_grid((length, multiple), multiple, multiple, tile, overlap).rows
    assert rows[0].start == 0
    assert rows[-1].end == length
    counted = [pixel for span in rows for pixel in range(span.first, span.last)]
    assert counted == list(range(length))
    for span in rows:
        assert span.start <= span.first < span.last <= span.end
        assert all(edge % multiple == 0 for edge in span)
        assert span.end - span.start == min(tile, length)
    total = np.zeros(length)
    for span, weights in zip(rows, _weights(rows, length), strict=True):
        assert (weights >= 0).all()
        total[span.start : span.end] += weights
    assert np.allclose(total, 1)


def test_sizes_that_are_no_multiple_are_rounded_up() -> None:
    grid = make_grid((1000, 1000), 64, 64, 300, 100)
    assert grid.rows[0].end - grid.rows[0].start == 320
    assert grid.rows[0].end - grid.rows[1].start == 128
    with pytest.raises(DataError, match="overlap is 300, which makes 320 pixels, and tile is 310"):
        make_grid((1000, 1000), 64, 64, 310, 300)


def test_the_statistics_are_those_of_the_whole_map(base: Model) -> None:
    network = UnetGenerator(features=4, n_downs=1).eval()
    statistics = NormStatistics(network)
    seen = []
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    images = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        network(images)
        with statistics.in_place():
            statistics.take_all()
            statistics.begin(32, 48)
            network(images)
    expected = seen[: len(seen) // 2]
    assert len(statistics.known) == len(expected) > 2
    for (mean, variance), maps in zip(statistics.known, expected, strict=True):
        assert torch.allclose(mean, maps.mean((0, 2, 3)), atol=1e-5)
        assert torch.allclose(variance, maps.var((0, 2, 3), unbiased=False), atol=1e-5)


def test_what_does_not_fit_into_memory_is_tiled(
    base: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = peak_of_pass(base, 304, 304)
    assert 4 * 3 * 304**2 < need == pytest.approx(peak_of_pass(base, 608, 608) / 4, rel=0.01)
    monkeypatch.setattr(pixels_module, "free_memory", lambda _: need)
    generate = PixelGenerator(base)
    images = [uneven(300, 700)]
    (made,) = generate(images)
    assert made.shape == (300, 700, 3)
    assert generate.notes == ["300 x 700 (height x width): in 8 tiles of 256 x 256 pixels"]
    monkeypatch.setattr(pixels_module, "free_memory", lambda _: 100 * need)
    generate = PixelGenerator(base)
    generate(images)
    assert generate.notes == []


def test_tiles_from_the_command_line(trained: RunDirectory, tmp_path: Path) -> None:
    Image.fromarray(uneven(300, 500)).save(tmp_path / "a.png")
    made = {}
    for name, words in {"whole": ["0"], "tiled": ["128", "--overlap", "64"]}.items():
        out = tmp_path / f"{name}.png"
        result = apply(trained, tmp_path / "a.png", "-o", out, "--tile", *words)
        assert result.exit_code == 0, result.output
        assert ("tiles of 128 x 128 pixels" in result.output) == (name == "tiled")
        made[name] = np.asarray(Image.open(out)).astype(int)
    assert np.abs(made["whole"] - made["tiled"]).max() <= 2
    result = apply(
        *(trained, tmp_path / "a.png", "-o", tmp_path / "b.png"),
        *("--tile", 64, "--overlap", 64),
    )
    assert result.exit_code == 2
    assert "an overlap must be smaller" in result.output
