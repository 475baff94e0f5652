"""Models of every kind of image: values in the units of the files, in and out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import from_origin

from nectargan.build_values import ValueMappings
from nectargan.config.schema import Config
from nectargan.errors import DataError
from nectargan.images.mapping import ValueMapping
from nectargan.images.raw import RawImage
from nectargan.images.reading import read_raw
from nectargan.images.writing import write_raw
from nectargan.inference.apply import Outcome, Reading, apply_model, check_formats
from nectargan.inference.inputs import Job, find_inputs
from nectargan.inference.model import Model, load_model, precision_for
from nectargan.inference.pixels import PixelGenerator, Tiling
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.image_kinds import IMAGE_KINDS, ImageKind, draw

Make = Callable[..., Config]
EXACT = [kind for kind in IMAGE_KINDS if kind.is_exact]
BANDS = next(kind for kind in IMAGE_KINDS if kind.name == "tiff-uint16-13-bands")


def mapping_for(dtype: str) -> ValueMapping:
    """A mapping that loses nothing; of floats, a power of two on both sides of 0."""
    if np.dtype(dtype).kind == "f":
        return ValueMapping((-(2.0**16),), (2.0**16,), "linear", dtype)
    return ValueMapping.of_dtype(dtype)


def identity(config: Config, count: int, dtype: str, channels: Any = None) -> Model:
    load = config.dataloader.load
    load.input_nc, load.output_nc, load.input_channels = count, count, channels
    mapping = mapping_for(dtype)
    return Model(
        name="identity",
        source="identity",
        run=None,
        checkpoint=None,
        config=config,
        epoch=None,
        device=torch.device("cpu"),
        precision="fp32",
        forward=lambda batch: batch,
        values=ValueMappings(mapping, mapping),
    )


def applied(model: Model, path: Path, target: Path, tiling: Tiling | None = None) -> Outcome:
    generate = PixelGenerator(model, Tiling() if tiling is None else tiling)
    jobs = find_inputs([str(path)], str(target), model.out_channels).jobs
    return apply_model(model, jobs, Reading(), generate)


@pytest.mark.parametrize("kind", EXACT, ids=str)
def test_an_identity_returns_the_values_of_the_file(
    tiny: Make, tmp_path: Path, kind: ImageKind
) -> None:
    values = draw(kind, 60, 72, 3)
    path, made = tmp_path / f"in{kind.suffix}", tmp_path / f"out{kind.suffix}"
    kind.write(path, values)
    names = None if kind.channels is None else list(kind.channels)
    model = identity(tiny(), kind.count, kind.dtype, names)
    outcome = applied(model, path, made)
    assert (outcome.done, outcome.bad) == (1, [])
    found = kind.read(made)
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)
    assert read_raw(made, names).channel_names == read_raw(path, names).channel_names


def test_tiles_return_the_values_too(tiny: Make, tmp_path: Path) -> None:
    values = draw(BANDS, 150, 170, 5)
    BANDS.write(tmp_path / "in.tif", values)
    model = identity(tiny(), 13, "uint16")
    assert applied(model, tmp_path / "in.tif", tmp_path / "out.tif", Tiling(64, 16)).done == 1
    # Where two tiles overlap, a weighted mean of equal numbers is rounded twice in float32.
    assert np.array_equal(BANDS.read(tmp_path / "out.tif"), values)


def test_coordinates_and_nodata_are_kept(tiny: Make, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 3000, (2, 24, 24)).astype(np.int16)
    values[:, 3:7, 5:9] = -9999
    path, made = tmp_path / "in.tif", tmp_path / "out.tif"
    profile = {
        "driver": "GTiff",
        "dtype": "int16",
        "count": 2,
        "height": 24,
        "width": 24,
        "crs": CRS.from_epsg(32632),
        "transform": from_origin(500000, 5200000, 10, 10),
        "nodata": -9999,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
    assert applied(identity(tiny(), 2, "int16"), path, made).done == 1
    with rasterio.open(made) as file:
        assert file.crs == CRS.from_epsg(32632)
        assert file.transform == profile["transform"]
        assert file.nodata == -9999
        assert np.array_equal(file.read(), values)


@pytest.mark.parametrize("nodata", [None, 0])
def test_a_model_of_8_bits_keeps_the_coordinates_of_a_geotiff(
    tiny: Make, tmp_path: Path, nodata: int | None
) -> None:
    values = np.random.default_rng(0).integers(1, 256, (3, 24, 32)).astype(np.uint8)
    values[:, 3:7, 5:9] = 0
    size = {"count": 3, "height": 24, "width": 32, "dtype": "uint8", "nodata": nodata}
    place = {"crs": CRS.from_epsg(32632), "transform": from_origin(500000, 5200000, 10, 20)}
    with rasterio.open(tmp_path / "in.tif", "w", driver="GTiff", **size, **place) as file:
        file.write(values)
    model = replace(identity(tiny(), 3, "uint8"), values=None, forward=lambda batch: -batch)
    assert applied(model, tmp_path / "in.tif", tmp_path / "out.tif").done == 1
    wanted = 255 - values
    if nodata is not None:
        wanted[:, 3:7, 5:9] = 0
    with rasterio.open(tmp_path / "out.tif") as file:
        assert (file.crs, file.transform, file.nodata) == (*place.values(), nodata)
        assert np.array_equal(file.read(), wanted)
    jobs = find_inputs([str(tmp_path / "in.tif")], str(tmp_path / "half.tif"), 3).jobs
    generate = PixelGenerator(model, Tiling())
    assert apply_model(model, jobs, Reading("B"), generate).done == 1
    with rasterio.open(tmp_path / "half.tif") as file:
        assert file.transform == from_origin(500000 + 16 * 10, 5200000, 10, 20)
        assert np.array_equal(file.read(), wanted[:, :, 16:])


def test_control_points_are_kept(tiny: Make, tmp_path: Path) -> None:
    corners = [(0, 0, 10, 50), (0, 32, 12, 50), (24, 0, 10, 49), (24, 32, 12, 49)]
    points = [GroundControlPoint(*corner) for corner in corners]
    values = np.random.default_rng(0).integers(0, 60_000, (2, 24, 32)).astype(np.uint16)
    size = {"count": 2, "height": 24, "width": 32, "dtype": "uint16"}
    crs = CRS.from_epsg(4326)
    with rasterio.open(tmp_path / "in.tif", "w", "GTiff", **size, gcps=points, crs=crs) as file:
        file.write(values)
    assert applied(identity(tiny(), 2, "uint16"), tmp_path / "in.tif", tmp_path / "out.tif").done
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.gcps[1] == crs
        assert [(p.row, p.col, p.x, p.y) for p in file.gcps[0]] == corners
        assert np.array_equal(file.read(), values)


def test_units_of_the_target(tiny: Make, tmp_path: Path) -> None:
    """Values of 0 to 4095 become 0 to 1 in half precision."""
    model = identity(tiny(), 1, "uint16")
    model = Model(
        **{
            **{name: getattr(model, name) for name in model.__dataclass_fields__},
            "values": ValueMappings(
                ValueMapping((0.0,), (4095.0,), "linear", "uint16"),
                ValueMapping((0.0,), (1.0,), "linear", "float16"),
            ),
        }
    )
    values = np.arange(0, 4096, 65, dtype=np.uint16).reshape(8, 8, 1)
    write_raw(tmp_path / "in.png", RawImage(values))
    wanted = (values / 4095).astype(np.float16)
    assert applied(model, tmp_path / "in.png", tmp_path / "out.exr").done == 1
    assert np.allclose(read_raw(tmp_path / "out.exr").values, wanted, atol=1e-3)
    refused = applied(model, tmp_path / "in.png", tmp_path / "out.png")
    assert refused.done == 0
    assert "1 channel of float16" in refused.bad[0]
    # In Python: a path, an array, a tensor, several.
    for made in (model(tmp_path / "in.png"), model(values), model(values[..., 0])[..., None]):
        assert made.dtype == np.float16
        assert np.allclose(made, wanted, atol=1e-3)
    batch = torch.from_numpy(values.astype(np.int32)).permute(2, 0, 1)[None]
    assert model(batch).shape == (1, 1, 8, 8)
    with pytest.raises(DataError, match="NaN or infinite"):
        model(np.full((8, 8, 1), np.nan, np.float32))
    for dtype in (bool, np.complex64, object):
        with pytest.raises(DataError, match=r"are (bool|complex64|object); allowed are integers"):
            model(values.astype(dtype))
    with pytest.raises(DataError, match=r"shape \(8, 8, 2\).*takes \(H, W, 1\)"):
        model(np.zeros((8, 8, 2), np.uint16))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nectargan.config.config_manager import ConfigManager

    root = tmp_path_factory.mktemp("bands")
    for split, count in (("train", 4), ("val", 2)):
        for side in "AB":
            folder = root / "data" / f"{split}{side}"
            folder.mkdir(parents=True)
            for index in range(count):
                BANDS.write(folder / f"{index}.tif", draw(BANDS, 32, 32, index) // 16)
    options = {
        "dataloader.dataroot": str(root / "data"),
        "dataloader.load": {
            "input_nc": 13,
            "output_nc": 13,
            "load_size": 32,
            "crop_size": 32,
            "input_range": "percentile 1 99",
            "target_range": [0, 4095],
        },
        "common.output_directory": str(root / "runs"),
        "common.device": "cpu",
        "train.generator": {
            "features": 4,
            "n_downs": 2,
            "learning_rate": {"epochs": 2, "epochs_decay": 0},
        },
        "train.discriminator": {"base_channels": 4, "n_layers": 1},
        "logging.mlflow.enable": False,
        "logging.tensorboard.enable": False,
    }
    config = ConfigManager(None, list(options.items())).data
    return Path(str(Pix2pixTrainer(config).train(display=None)))


def test_a_trained_model_is_used_in_its_units(trained: Path, tmp_path: Path) -> None:
    model = load_model(trained, device="cpu")
    assert model.values is not None
    assert len(model.values.input.low) == 13
    source = trained.parent.parent / "data" / "valA" / "0.tif"
    assert applied(model, source, tmp_path / "out.tif").done == 1
    found = BANDS.read(tmp_path / "out.tif")
    assert (found.dtype, found.shape) == (np.uint16, (32, 32, 13))
    assert found.max() <= 4095
    batch = model.values.input.encode(
        torch.from_numpy(BANDS.read(source).astype(np.int32)).permute(2, 0, 1)[None]
    )
    wanted = model.values.target.decode(model.generate(batch))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("kind", ["onnx", "pt2", "safetensors"])
def test_an_exported_model_has_its_units(trained: Path, tmp_path: Path, kind: Any) -> None:
    from nectargan.inference.export import export_model

    model = load_model(trained, device="cpu")
    path = tmp_path / f"bands.{kind}"
    export_model(model, path, kind, torch.rand(1, 13, 32, 32))
    exported = load_model(path, device="cpu")
    assert exported.values == model.values
    image = draw(BANDS, 32, 32, 9) // 16
    assert np.abs(exported(image).astype(int) - model(image).astype(int)).max() <= 1


def test_a_model_of_bands_is_tested(trained: Path) -> None:
    from nectargan.dataset.data_check import check_data
    from nectargan.inference.rulers import open_ruler
    from nectargan.inference.testing import Protocol, measure
    from nectargan.metrics import METRICS

    model = load_model(trained, device="cpu", checkpoint="last")
    split = check_data(trained.parent.parent / "data", required=("val",), optional=())["val"]
    metrics = [METRICS[name] for name in ("l1", "psnr", "lpips", "fid")]
    ruler = open_ruler(metrics, None, (13, 32, 32), 2, model.device)
    assert [metric.name for metric in ruler.metrics] == ["l1", "psnr"]
    colors = "it looks at colors, and these images have 13 channels."
    assert ruler.left_out == [f"{name} is left out: {colors}" for name in ("lpips", "fid")]
    tested = measure(model, split, ruler, Protocol(), ("bands", "0"))
    metrics = (trained / "metrics.csv").read_text().splitlines()
    last = [float(row.split(",")[-1]) for row in metrics if ",val/l1," in row][-1]
    assert tested.record.metrics["l1"].value == pytest.approx(last, rel=1e-5)
    assert model.run is not None
    model.run.test_image("val", 0).parent.mkdir(parents=True)
    tested.extremes.save(model.run, "val")
    assert model.run.test_image("val", 0).stat().st_size > 0


@pytest.mark.parametrize(
    ("trained", "given", "is_used"),
    [
        ("uint8", np.uint16(60_000), False),
        ("uint8", np.int16(-5), False),
        ("uint16", np.int16(1000), True),
        ("uint16", np.uint8(200), True),
        ("int16", np.uint8(200), True),
        ("int16", np.float32(3), False),
        ("float32", np.int16(3), False),
        ("float32", np.float16(0.5), True),
        ("float16", np.float32(0.5), True),
    ],
)
def test_other_types_than_in_training(
    tiny: Make, tmp_path: Path, trained: str, given: Any, is_used: bool
) -> None:
    """No value wraps around, and floats and integers are not taken for each other."""
    values = np.full((8, 8, 1), given)
    np.save(tmp_path / "in.npy", values)
    outcome = applied(identity(tiny(), 1, trained), tmp_path / "in.npy", tmp_path / "out.npy")
    if is_used:
        wanted = values.astype(trained)
        if (trained, values.dtype) == ("uint16", np.uint8):
            wanted *= 257
        assert np.array_equal(np.load(tmp_path / "out.npy"), wanted)
    else:
        found = f"its values are {values.dtype}, from {given:g} to {given:g}, but the model was"
        assert found in outcome.bad[0]
        assert f"trained on {trained}; save it as {trained}" in outcome.bad[0]
        assert not (tmp_path / "out.npy").exists()


def test_more_than_8_bits_are_computed_in_fp32(tiny: Make) -> None:
    config = tiny()
    eight, sixteen, floats = (
        ValueMappings(ValueMapping.of_dtype(np.uint8), ValueMapping.of_dtype(dtype))
        for dtype in ("uint8", "uint16", "float32")
    )
    for precision, wanted in (("auto", "fp32"), ("bf16", "bf16"), ("fp32", "fp32")):
        config.common.precision = precision  # type: ignore[assignment]
        assert precision_for(config, sixteen) == precision_for(config, floats) == wanted
        assert precision_for(config, eight) == precision_for(config, None) == precision


def test_pillow_images_are_used_as_files_are(tiny: Make, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    palette = Image.fromarray(values).quantize(9)
    palette.save(tmp_path / "in.png")
    model = identity(tiny(), 3, "uint8")
    assert np.array_equal(model(palette), model(tmp_path / "in.png"))
    deep = Image.fromarray(np.full((8, 8), 60_000, np.uint16))
    assert (identity(tiny(), 1, "uint16")(deep) == 60_000).all()
    with pytest.raises(DataError, match="the image: its values are uint16, from 60000 to 60000"):
        identity(tiny(), 1, "uint8")(deep)


def test_formats_are_checked_before_anything_is_computed(tiny: Make, tmp_path: Path) -> None:
    jobs = [Job(tmp_path / f"{i}.jpg", tmp_path / f"out/{i}.jpg") for i in range(2)]
    with pytest.raises(DataError, match=r"1 channel of float32, but \.jpg holds .*--format"):
        check_formats(identity(tiny(), 1, "float32"), jobs, None)
    check_formats(identity(tiny(), 1, "float32"), jobs, ".exr")
    with pytest.raises(DataError, match=r"values of int16, but \.exr holds float16 or float32"):
        check_formats(identity(tiny(), 1, "int16"), jobs, ".exr")


def test_channels_are_named_as_those_of_the_targets(tiny: Make, tmp_path: Path) -> None:
    config = tiny()
    config.dataloader.load.target_channels = ["depth.Z"]
    model = identity(config, 1, "float32")
    image = RawImage(np.ones((8, 8, 1), np.float32), ("Y",))
    write_raw(tmp_path / "in.exr", image)
    assert applied(model, tmp_path / "in.exr", tmp_path / "out.exr").done == 1
    assert read_raw(tmp_path / "out.exr").channel_names == ("depth.Z",)
