"""Data sets of every kind of image are trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nectargan.config.schema import Config
from nectargan.dataset.data_check import check_data
from nectargan.errors import ConfigError, DataError
from nectargan.inference.model import load_model
from nectargan.inference.rulers import open_ruler
from nectargan.inference.testing import Protocol, measure
from nectargan.metrics import METRICS
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.graph_stand_in import CpuGraphs
from tests.image_kinds import IMAGE_KINDS, ImageKind, draw
from tests.runs.test_resume import assert_same, resumed, stopped

Make = Callable[..., Config]
Array = np.ndarray[Any, Any]

TIFF_13 = next(kind for kind in IMAGE_KINDS if kind.name == "tiff-uint16-13-bands")
FLOATS = next(kind for kind in IMAGE_KINDS if kind.name == "npy-float32-CHW")
PNG_8 = next(kind for kind in IMAGE_KINDS if kind.name == "png-8-3")
SIDES = ("input", "target")
PNG_16 = next(kind for kind in IMAGE_KINDS if kind.name == "png-16-3")


def write_pairs(
    root: Path, kind: ImageKind, images: list[tuple[Array, Array]], split: str = "train"
) -> Path:
    for index, pair in enumerate(images):
        for side, image in zip("AB", pair, strict=True):
            folder = root / f"{split}{side}"
            folder.mkdir(parents=True, exist_ok=True)
            kind.write(folder / f"{index}{kind.suffix}", image)
    return root


def drawn_pairs(kind: ImageKind, count: int, height: int = 24, width: int = 36) -> Any:
    return [
        (draw(kind, height, width, 2 * i), draw(kind, height, width, 2 * i + 1))
        for i in range(count)
    ]


def config_of(tiny: Make, root: Path, kind: ImageKind, **options: Any) -> Config:
    is_float = np.dtype(kind.dtype).kind == "f"
    ranges = {f"dataloader__load__{side}_range": [-4, 4] for side in SIDES if is_float}
    return tiny(
        **{
            **ranges,
            "dataloader__dataroot": str(root),
            "dataloader__load__input_nc": kind.count,
            "dataloader__load__output_nc": kind.count,
            "dataloader__load__load_size": [24, 36],
            "dataloader__load__crop_size": 16,
            "train__generator__dropout": 0.0,
            **options,
        }
    )


def losses_of(config: Config) -> pd.DataFrame:
    run = Pix2pixTrainer(config).train(display=None)
    return pd.read_csv(run / "losses.csv").drop(columns="time")


@pytest.mark.parametrize("kind", IMAGE_KINDS, ids=str)
def test_every_kind_is_trained_on(tiny: Make, tmp_path: Path, kind: ImageKind) -> None:
    root = write_pairs(tmp_path / "data", kind, drawn_pairs(kind, 5))
    options = {
        "dataloader__batch_size": 1,
        "dataloader__load__invalid": "mask",
        "dataloader__load__input_channels": kind.channels and list(kind.channels),
        "dataloader__load__target_channels": kind.channels and list(kind.channels),
    }
    if np.dtype(kind.dtype).kind == "f":
        options |= {f"dataloader__load__{side}_range": "percentile 0 100" for side in SIDES}
    found = losses_of(config_of(tiny, root, kind, **options))
    assert found["step"].max() == 10
    assert np.isfinite(found["raw"]).all()


@pytest.mark.parametrize("load_size", [[24, 36], None], ids=str)
@pytest.mark.parametrize("cache", ["off", "ram", "disk"])
def test_16_bits_equal_8_bits(
    tiny: Make, tmp_path: Path, cache: str, load_size: list[int] | None
) -> None:
    pairs = drawn_pairs(PNG_8, 5)
    wide = [tuple(image.astype(np.uint16) * 257 for image in pair) for pair in pairs]
    options = {
        "dataloader__cache": cache,
        "dataloader__load__load_size": load_size,
        "dataloader__augmentations__both__h_flip_chance": 0.5,
    }
    eight = config_of(tiny, write_pairs(tmp_path / "8", PNG_8, pairs), PNG_8, **options)
    sixteen = config_of(tiny, write_pairs(tmp_path / "16", PNG_16, wide), PNG_16, **options)
    pd.testing.assert_frame_equal(losses_of(eight), losses_of(sixteen), rtol=1e-4)


def holes(change: float = 0.0) -> list[tuple[Array, Array]]:
    """Four pairs of floats in [0, 1], some pixels of which are NaN or infinite in one channel.

    ``change`` is added to all other values at these pixels.
    """
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(4):
        source, target = rng.random((2, 24, 36, 2), np.float32)
        source[:, ::5] += change
        target[:, ::5] += change
        source[:12, ::5, 1] = np.nan
        target[12:, ::5, 0] = np.inf
        pairs.append((source, target))
    return pairs


MASKED = {
    "dataloader__load__invalid": "mask",
    "train__objective": "extended",
    "train__loss": {"G_FM": 10.0, "D_R1": 1.0},
    "train__r1_every_n_steps": 1,
    "dataloader__augmentations__input__gaussnoise_chance": 0.5,
}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_masked_pixel_has_no_influence(tiny: Make, tmp_path: Path, accumulate: int) -> None:
    found = []
    for change in (0.0, 0.7):
        root = write_pairs(tmp_path / f"{change}", FLOATS, holes(change))
        root = write_pairs(root, FLOATS, holes(change)[:2], "val")
        config = config_of(tiny, root, FLOATS, train__accumulate=accumulate, **MASKED)
        trainer = Pix2pixTrainer(config)
        run = trainer.train(display=None)
        frames = [pd.read_csv(run / name).drop(columns="time") for name in ("losses.csv",)]
        metrics = pd.read_csv(run / "metrics.csv")
        frames.append(metrics[metrics["metric"].str.startswith("val/")].drop(columns="time"))
        found.append((trainer, frames))
    (first, of_first), (second, of_second) = found
    for mine, other in zip(of_first, of_second, strict=True):
        assert len(mine)
        pd.testing.assert_frame_equal(mine, other, rtol=0, atol=0)
    for name, network in first.networks.items():
        others = second.networks[name].state_dict()
        assert all(torch.equal(value, others[key]) for key, value in network.state_dict().items())


def test_losses_per_pixel_are_means_over_valid_pixels(tiny: Make, tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data", FLOATS, holes())
    trainer = Pix2pixTrainer(config_of(tiny, root, FLOATS, **MASKED))
    source, target, mask = next(trainer.data.train.epoch(1))
    assert 0 < mask.float().mean() < 1
    trainer.losses.start_step(1, 1)
    trainer.step = 1
    with torch.no_grad():
        generated = trainer.generator(source)
    trainer.train_step(source, target, mask)
    valid = mask.expand_as(target)
    difference = (generated - target)[valid]
    losses = trainer.losses.get_registered_losses()
    assert float(losses["G_L1"].last_loss_map) == pytest.approx(float(difference.abs().mean()))
    assert float(losses["G_L2"].last_loss_map) == pytest.approx(float(difference.square().mean()))


def test_accumulated_parts_weigh_their_valid_pixels(tiny: Make, tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data", FLOATS, holes())
    options = {"dataloader__load__invalid": "mask", "train__generator__norm": "instance"}
    weights = []
    for accumulate in (1, 2):
        config = config_of(tiny, root, FLOATS, train__accumulate=accumulate, **options)
        trainer = Pix2pixTrainer(config)
        batch = next(trainer.data.train.epoch(1))
        trainer.losses.start_step(1, 1)
        trainer.train_step(*batch)
        weights.append(torch.cat([p.detach().flatten() for p in trainer.generator.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=2e-6)


def test_a_masked_step_is_captured(tiny: Make, tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data", FLOATS, holes())
    graphs = CpuGraphs()
    config = config_of(tiny, root, FLOATS, **{**MASKED, "train__loss": {}})
    captured = Pix2pixTrainer(config, graphs=graphs)
    eager = Pix2pixTrainer(config)
    frames = [
        pd.read_csv(trainer.train(display=None) / "losses.csv").drop(columns="time")
        for trainer in (captured, eager)
    ]
    assert graphs.captures == 1
    pd.testing.assert_frame_equal(*frames, rtol=1e-5)


def test_a_masked_run_of_different_sizes_is_resumed_in_mid_epoch(
    tiny: Make, tmp_path: Path
) -> None:
    images = [(a[: 24 - i], b[: 24 - i]) for i, (a, b) in enumerate(holes())]
    root = write_pairs(tmp_path / "data", FLOATS, images)
    options = {**MASKED, "dataloader__load__load_size": None}
    config = config_of(tiny, root, FLOATS, **options)
    whole = Pix2pixTrainer(config)
    whole.train(display=None)
    run = stopped(config, 3)
    assert_same(resumed(run), whole)


def test_halves_of_one_file_are_a_pair(tiny: Make, tmp_path: Path) -> None:
    both = draw(PNG_16, 24, 72)
    path = tmp_path / "data" / "train" / "0.png"
    path.parent.mkdir(parents=True)
    PNG_16.write(path, both)
    config = config_of(tiny, tmp_path / "data", PNG_16, dataloader__direction="BtoA")
    source, target = Pix2pixTrainer(config).data.train.dataset.decode(0).split(3)
    assert (source.permute(1, 2, 0).numpy() == both[:, 36:]).all()
    assert (target.permute(1, 2, 0).numpy() == both[:, :36]).all()


def test_files_of_8_bits_among_16_bits_mean_the_same_colors(tiny: Make, tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data", PNG_16, drawn_pairs(PNG_16, 1))
    (eight,) = drawn_pairs(PNG_8, 1)
    for side, image in zip("AB", eight, strict=True):
        PNG_8.write(root / f"train{side}" / "1.png", image)
    data = Pix2pixTrainer(config_of(tiny, root, PNG_16)).data.train.dataset
    assert (data.decode(1)[:3].permute(1, 2, 0).numpy() == eight[0].astype(np.uint16) * 257).all()


def test_invalid_pixels_are_refused_by_default(tiny: Make, tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data", FLOATS, holes())
    with pytest.raises(DataError, match=r"trainA/0\.npy: it has pixels that are nodata, NaN or"):
        Pix2pixTrainer(config_of(tiny, root, FLOATS))


def test_without_invalid_pixels_there_is_no_mask(tiny: Make, tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data", FLOATS, [(image[0], image[0]) for image in valid_pairs()])
    trainer = Pix2pixTrainer(config_of(tiny, root, FLOATS, dataloader__load__invalid="mask"))
    assert len(next(trainer.data.train.epoch(1))) == 2


def valid_pairs() -> Any:
    return np.random.default_rng(0).random((3, 1, 24, 36, 2), np.float32)


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_images_of_different_sizes_are_resumed_in_mid_epoch(
    tiny: Make, tmp_path: Path, cache: str
) -> None:
    sizes = [(16, 40), (30, 17), (24, 24), (50, 20), (16, 16), (33, 21)]
    pairs = [
        (draw(PNG_16, *size, 2 * i), draw(PNG_16, *size, 2 * i + 1)) for i, size in enumerate(sizes)
    ]
    root = write_pairs(tmp_path / "data", PNG_16, pairs)
    root = write_pairs(root, PNG_16, pairs[:2], "val")
    options = {"dataloader__load__load_size": None, "dataloader__cache": cache}
    config = config_of(tiny, root, PNG_16, **options)
    whole = Pix2pixTrainer(config)
    first = [[part.clone() for part in batch] for batch in whole.data.train.epoch(2)]
    rest = list(Pix2pixTrainer(config).data.train.epoch(2, skip=1))
    assert len(rest) == len(first) - 1
    for mine, other in zip(first[1:], rest, strict=True):
        assert all(map(torch.equal, mine, other))
    run = whole.train(display=None)
    assert np.isfinite(pd.read_csv(run / "losses.csv")["raw"]).all()
    with pytest.raises(DataError, match=r"0\.png: the image is 16 x 40 .*smaller than"):
        Pix2pixTrainer(config_of(tiny, root, PNG_16, **options, dataloader__load__crop_size=24))


def test_a_range_that_is_set_is_not_called_dark(
    tiny: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [(np.full((24, 36, 3), 900, np.uint16), draw(PNG_16))]
    root = write_pairs(tmp_path / "data", PNG_16, images)
    for given, count in (("dtype", 1), ([0, 1000], 0)):
        caplog.clear()
        Pix2pixTrainer(config_of(tiny, root, PNG_16, dataloader__load__input_range=given))
        assert sum("dark" in record.getMessage() for record in caplog.records) == count


@pytest.mark.parametrize("name", ["colorjitter", "randgamma", "grayscale", "compression"])
def test_augmentations_of_colors_are_refused_for_bands(
    tiny: Make, tmp_path: Path, name: str
) -> None:
    root = write_pairs(tmp_path / "data", TIFF_13, drawn_pairs(TIFF_13, 1))
    options = {f"dataloader__augmentations__input__{name}_chance": 0.5}
    with pytest.raises(DataError, match=f"{name}_chance is above zero and input_nc is 13; {name}"):
        Pix2pixTrainer(config_of(tiny, root, TIFF_13, **options))


def test_jpeg_compression_is_for_8_bits(tiny: Make, tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data", PNG_16, drawn_pairs(PNG_16, 1))
    options = {"dataloader__augmentations__input__compression_chance": 0.5}
    with pytest.raises(ConfigError, match=r"compression_chance is 0.5, but .* input are uint16"):
        Pix2pixTrainer(config_of(tiny, root, PNG_16, **options))


def test_metrics_of_colors_are_refused_for_bands(tiny: Make, tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data", TIFF_13, drawn_pairs(TIFF_13, 1))
    with pytest.raises(ConfigError, match=r"has lpips, .*output_nc is 13; it takes 1 to 4"):
        Pix2pixTrainer(config_of(tiny, root, TIFF_13, validation__metrics=["lpips"]))


def test_a_model_of_masked_floats_is_tested(tiny: Make, tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data", FLOATS, holes())
    root = write_pairs(root, FLOATS, holes()[:2], "val")
    options = {"dataloader__load__invalid": "mask", "dataloader__load__load_size": None}
    run = Pix2pixTrainer(config_of(tiny, root, FLOATS, **options)).train(display=None)
    metrics = pd.read_csv(run / "metrics.csv").groupby("metric")["value"].last()
    model = load_model(run)
    split = check_data(root, ("val",), ())["val"]
    chosen = [METRICS["l1"], METRICS["psnr"], METRICS["ssim"]]
    ruler = open_ruler(chosen, None, (2, 16, 16), 2, torch.device("cpu"))
    tested = measure(model, split, ruler, Protocol(), ("data", "digest"))
    for name in ("l1", "psnr", "ssim"):
        assert tested.record.metrics[name].value == pytest.approx(metrics[f"val/{name}"], rel=1e-4)


def test_channels_that_do_not_fit_are_refused_before_the_first_step(
    tiny: Make, tmp_path: Path
) -> None:
    root = write_pairs(tmp_path / "data", TIFF_13, drawn_pairs(TIFF_13, 2))
    options = {"dataloader__cache": "off", "dataloader__load__output_nc": 5}
    with pytest.raises(DataError, match=r"B/0\.tif: it has 13 channels, but .*output_nc is 5"):
        Pix2pixTrainer(config_of(tiny, root, TIFF_13, **options))
    plain = write_pairs(tmp_path / "plain", PNG_8, drawn_pairs(PNG_8, 1))
    with pytest.raises(DataError, match=r"A/0\.png: it has at most 4 channels, but .*nc is 13"):
        Pix2pixTrainer(config_of(tiny, plain, TIFF_13))
