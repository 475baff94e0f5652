"""A large image in tiles is the image that would have come out in one piece."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from nectargan import load_model
from nectargan.errors import DataError
from nectargan.inference import pixels as pixels_module
from nectargan.inference.memory import peak_of_level, peak_of_pass
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


@pytest.mark.parametrize("name", [*NETWORKS, "deep"])
def test_the_difference_at_seams_is_no_larger_than_elsewhere(base: Model, name: str) -> None:
    """The bottleneck of the deep U-Net depends on more than a tile."""
    torch.manual_seed(0)
    deep = {"deep": lambda: UnetGenerator(features=4, n_downs=5)}
    model = as_model(base, (NETWORKS | deep)[name]())
    image = uneven(300, 420).astype(np.float32) / 255
    (whole,) = PixelGenerator(model, Tiling(tile=0))([image])
    generate = PixelGenerator(model, Tiling(tile=128))
    (tiled,) = generate([image])
    assert "tiles of 128 x 128 pixels that share 64" in generate.notes[0]
    grid = generate.grids[300, 420]
    assert grid is not None
    seams = np.zeros((300, 420), bool)
    for before, after in itertools.pairwise(grid.rows):
        seams[after.start : before.end] = True
    for before, after in itertools.pairwise(grid.columns):
        seams[:, after.start : before.end] = True
    apart = np.abs(tiled - whole).max(axis=2)
    assert whole.std() > 0.02
    assert apart.max() < 1e-4
    assert apart[seams].mean() < 1.5 * apart[~seams].mean() + 1e-6


def test_a_level_that_does_not_fit_into_memory_is_left_to_the_tiles(
    base: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = as_model(base, NETWORKS["resnet"]())
    need = peak_of_level(model, 1, 2048, 2048)
    for free, level in ((need * 1.01, 1), (need * 0.99, None)):
        monkeypatch.setattr(pixels_module, "free_memory", lambda _, free=free: free / 0.6)
        grid = PixelGenerator(model)._grid((2048, 2048), 512)
        assert grid.level == level
        assert grid.reach == model.network.reach(1 if level else 2)  # type: ignore[union-attr, operator]
        overlap = grid.rows[0].end - grid.rows[1].start
        assert overlap >= 128
        assert overlap >= 2 * grid.reach


def test_what_a_level_takes_of_memory_shrinks_with_its_depth(base: Model) -> None:
    needs = [peak_of_level(base, number, 512, 512) for number in range(3)]
    assert needs[0] > 1.5 * needs[1] > 2 * needs[2] > 0
    assert peak_of_level(base, 1, 1024, 1024) == pytest.approx(4 * needs[1], rel=0.01)


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


def test_tiles_overlap_where_nothing_else_is_asked_for() -> None:
    """Even where the network has tiles in large steps, as an exported deep U-Net."""
    for tile, side, overlap in ((256, 512, 256), (512, 512, 256), (1024, 1024, 256)):
        rows = make_grid((4096, 4096), 256, 256, tile, None).rows
        assert (rows[0].end, rows[0].end - rows[1].start) == (side, overlap)
    for tile, overlap in ((64, 32), (100, 50), (256, 64), (1024, 256)):
        rows = make_grid((4096, 4096), 256, 256, tile, None, 8, 1).rows
        assert (rows[0].end, rows[0].end - rows[1].start) == (tile, overlap)


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
    for (mean, variance), maps in zip(statistics.known.values(), expected, strict=True):
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
    assert generate.notes == [
        "300 x 700 (height x width): in 8 tiles of 256 x 256 pixels that share 64"
    ]
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
    for words, told in (
        (("--tile", 64, "--overlap", 64), "an overlap must be smaller"),
        (("--tile", 7), "tile is 7; allowed are 64 pixels and more, and 0 for none."),
    ):
        result = apply(trained, tmp_path / "a.png", "-o", tmp_path / "b.png", *words)
        assert result.exit_code == 2
        assert told in result.output


def with_memory_for(base: Model, pixels: int) -> Model:
    """A model that runs out of memory on batches of more pixels."""

    def forward(batch: Tensor) -> Tensor:
        if batch[:, 0].numel() > pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0")
        return batch.roll(1, 1)

    return replace(base, network=None, forward=forward)


def test_out_of_memory_continues_with_smaller_batches_and_tiles(base: Model) -> None:
    short = "Out of memory: 2.5 GiB more could not be allocated; continued "
    images = [uneven(512, 512), uneven(512, 512)[::-1].copy(), uneven(512, 512)[:, ::-1].copy()]
    in_tiles = "512 x 512 (height x width): in 9 tiles of 256 x 256 pixels that share 64"
    smaller_batch = f"{short}with batches of 1"
    for pixels, notes in (
        (2 * 512**2, [smaller_batch]),
        (512**2 - 1, [smaller_batch, f"{short}in smaller tiles", in_tiles]),
    ):
        generate = PixelGenerator(with_memory_for(base, pixels))
        generate._plan((512, 512))
        generate._batches[512, 512] = 8
        for image, made in zip(images, generate(images), strict=True):
            assert np.array_equal(made, np.roll(image, 1, axis=2))
        assert generate.notes == notes


def test_too_little_memory_is_told(
    base: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = "Out of memory: 2.5 GiB more could not be allocated"
    image = uneven(600, 600)
    for multiple in (8, 512):  # the tiles of the second cannot become smaller
        model = replace(with_memory_for(base, 100), multiple=multiple)
        with pytest.raises(DataError, match=rf"^{short}\.$"):
            PixelGenerator(model)([image])
    for tile in (0, 512):
        with pytest.raises(DataError, match=rf"^{short}; tiles of \d+ pixels take less\.$"):
            PixelGenerator(with_memory_for(base, 100), Tiling(tile=tile))([image])
    monkeypatch.setattr(
        "nectargan.inference.model.load_model", lambda *_, **__: with_memory_for(base, 40_000)
    )
    for name, size in {"a": 600, "b": 100, "c": 600}.items():
        Image.fromarray(uneven(size, size)).save(tmp_path / f"{name}.png")
    result = apply("any", tmp_path / "*.png", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]
    assert f"{tmp_path / 'a.png'}: {short}" in result.output
    assert "2 images could not be used." in result.output
