"""`apply`, `test` and `export` on a GPU: what it makes is what a CPU makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import nn

from nectargan import load_model
from nectargan.cli.main import main
from nectargan.inference.model import Model
from nectargan.inference.pixels import PixelGenerator, Tiling
from nectargan.models.resnet import ResnetGenerator
from nectargan.models.unet import UnetGenerator
from nectargan.record.run_directory import RunDirectory

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

# The largest and the mean difference from a CPU in fp32, in steps of 255. Convolutions of fp32 on
# CUDA have the 11 bits of TF32, as fp16 has; bf16 has 8.
TOLERANCES = {"fp32": (3, 0.2), "fp16": (6, 0.5), "bf16": (24, 2.0)}
NETWORKS = {
    "unet": lambda: UnetGenerator(features=8, n_downs=2),
    "resnet": lambda: ResnetGenerator(features=8, n_downs=2, n_blocks=2),
    "batch": lambda: UnetGenerator(features=8, n_downs=1, norm="batch"),
}


def command(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Dark at one end and bright at the other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 9, 3), np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return (image * np.linspace(0.2, 1, width)[None, :, None]).astype(np.uint8)


def differences(made: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    assert made.shape == wanted.shape
    apart = np.abs(made.astype(int) - wanted)
    return float(apart.max()), float(apart.mean())


def assert_close(made: np.ndarray, wanted: np.ndarray, precision: str) -> None:
    largest, mean = differences(made, wanted)
    most, most_mean = TOLERANCES[precision]
    assert largest <= most, (largest, mean)
    assert mean <= most_mean, (largest, mean)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images of one size and one of another."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        Image.fromarray(smooth(64, 48, index)).save(folder / f"{index}.png")
    Image.fromarray(smooth(33, 71)).save(folder / "odd.png")
    return folder


def images_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.iterdir())}


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_apply_makes_what_a_cpu_makes(
    trained: RunDirectory, photos: Path, tmp_path: Path, precision: str
) -> None:
    for device, words in {"cpu": ["fp32"], "cuda": [precision, "--batch", 3]}.items():
        out = tmp_path / device
        words = ["-o", out, "--device", device, "--precision", *words]
        result = command("apply", trained, photos, *words)
        assert result.exit_code == 0, result.output
    made, wanted = images_in(tmp_path / "cuda"), images_in(tmp_path / "cpu")
    assert list(made) == list(wanted) == [*(f"{index}.png" for index in range(5)), "odd.png"]
    for name, image in made.items():
        assert_close(image, wanted[name], precision)


@pytest.mark.gpu
@needs_cuda
def test_apply_with_dropout_is_seeded(trained: RunDirectory, photos: Path, tmp_path: Path) -> None:
    made = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(number)
        words = ("-o", out, "--device", "cuda", "--dropout", "--seed", seed)
        assert command("apply", trained, photos, *words).exit_code == 0
        made.append(np.stack([images_in(out)[f"{index}.png"] for index in range(5)]))
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


@pytest.mark.gpu
@needs_cuda
def test_16_bits_and_python(trained: RunDirectory) -> None:
    models = [load_model(trained, device=device, precision="fp32") for device in ("cuda", "cpu")]
    eight = smooth(40, 57)
    for image, scale in ((eight, 1), (eight.astype(np.uint16) * 257, 257), (eight / 255, 1 / 255)):
        made, wanted = (model(image) for model in models)
        assert made.dtype == image.dtype
        assert np.abs(made.astype(float) - wanted).max() <= 3 * scale
    tensor = torch.from_numpy(eight).permute(2, 0, 1).cuda()
    made = models[0](tensor)
    assert made.device == tensor.device
    assert made.dtype == torch.uint8
    on_cpu = models[1](tensor.cpu())
    assert (made.cpu().int() - on_cpu.int()).abs().max() <= 3
    assert models[0].generate(torch.rand(2, 3, 20, 33)).device.type == "cuda"


def as_model(base: Model, network: nn.Module) -> Model:
    """A network that makes different things at different places."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    network.to(base.device).eval()

    def forward(batch: torch.Tensor) -> torch.Tensor:
        kinds = {"fp16": torch.float16, "bf16": torch.bfloat16}
        kind = kinds.get(base.precision)
        with torch.autocast("cuda", dtype=kind, enabled=kind is not None):
            generated: torch.Tensor = network(batch)
        return generated

    return replace(
        base,
        network=network,
        forward=forward,
        multiple=network.multiple,
        smallest=network.smallest,
    )


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_tiles_are_the_whole_image(trained: RunDirectory, name: str, precision: str) -> None:
    model = as_model(load_model(trained, device="cuda", precision=precision), NETWORKS[name]())
    image = smooth(300, 700)
    (whole,) = PixelGenerator(model, Tiling(tile=0))([image])
    generate = PixelGenerator(model, Tiling(tile=256, overlap=192))
    (tiled,) = generate([image])
    assert "tiles of 256 x 256" in generate.notes[0]
    assert whole.std() > 1
    assert_close(tiled, whole, precision)
    (fast,) = PixelGenerator(model, Tiling(tile=256, norm="fast"))([image])
    assert fast.shape == whole.shape


@pytest.fixture
def half_of_the_memory() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.gpu
@needs_cuda
@pytest.mark.usefixtures("half_of_the_memory")
def test_what_does_not_fit_is_done_in_parts(trained: RunDirectory) -> None:
    model = as_model(load_model(trained, device="cuda", precision="fp32"), NETWORKS["unet"]())

    def generated(images: list[np.ndarray], share: float | None) -> tuple[list[np.ndarray], str]:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        if share is not None:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(share * peaks[-1] / total)
        generate = PixelGenerator(model)
        made = generate(images)
        peaks.append(torch.cuda.max_memory_reserved())
        torch.cuda.set_per_process_memory_fraction(1.0)
        return made, "\n".join(generate.notes)

    peaks: list[int] = []
    four = [smooth(1024, 1024, seed) for seed in range(4)]
    whole, told = generated(four, None)
    assert told == ""
    made, told = generated(four, 0.6)
    assert "could not be allocated; continued with batches of " in told
    assert "tiles" not in told
    for mine, wanted in zip(made, whole, strict=True):
        assert_close(mine, wanted, "fp32")

    large = [smooth(2048, 2048)]
    whole, told = generated(large, None)
    assert told == ""
    made, told = generated(large, 0.6)
    assert "could not be allocated; continued in smaller tiles" in told
    assert "tiles of 1024 x 1024 pixels" in told or "tiles of 512 x 512 pixels" in told
    assert_close(made[0], whole[0], "fp32")


@pytest.mark.gpu
@needs_cuda
def test_metrics_are_those_of_a_cpu(
    trained: RunDirectory, pairs_root: Path, tmp_path: Path
) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        run = shutil.copytree(trained.path, tmp_path / device / "mine_v1")
        words = ("-d", pairs_root, "--split", "val", "--metrics", "l1,psnr,ssim")
        result = command("test", run, *words, "--device", device)
        assert result.exit_code == 0, result.output
        found[device] = json.loads((run / "test" / "val.json").read_text())["metrics"]
        assert (run / "test" / "val.csv").read_text().count("\n") == 4
    for name, measured in found["cuda"].items():
        for key in ("value", "low", "high"):
            # What is generated differs by TF32.
            assert measured[key] == pytest.approx(found["cpu"][name][key], rel=5e-3, abs=2e-3)


@pytest.mark.gpu
@needs_cuda
def test_networks_of_metrics_equal_their_references(
    pairs_root: Path, trained: RunDirectory
) -> None:
    """LPIPS, DISTS, FID and KID by random weights, of the same images on both devices."""
    from nectargan.dataset.data_check import check_data
    from nectargan.inference.rulers import Ruler
    from nectargan.inference.testing import Protocol, measure
    from nectargan.metrics import METRICS
    from nectargan.metrics.networks import NETWORKS as OF_METRICS
    from nectargan.metrics.networks import LoadedNetwork

    pytest.importorskip("torchmetrics")
    metrics = [METRICS[name] for name in ("lpips", "dists", "fid", "kid")]
    split = check_data(pairs_root, ("val",), ())["val"]
    values = {}
    for device in ("cpu", "cuda"):
        networks = {}
        for metric in metrics:
            torch.manual_seed(0)
            network = OF_METRICS[metric.network].make().eval().requires_grad_(False)
            networks[metric.network] = LoadedNetwork(network.to(device), "file", "digest")
        model = load_model(trained, device=device, precision="fp32")
        # The generated image is the input, so that only the metrics compute.
        model = replace(model, forward=lambda batch: batch)
        ruler = Ruler(metrics, networks, [])
        tested = measure(model, split, ruler, Protocol(size=(64, 64)), ("data", "digest"))
        values[device] = {name: each.value for name, each in tested.record.metrics.items()}
    for name, value in values["cuda"].items():
        assert value == pytest.approx(values["cpu"][name], rel=1e-3, abs=1e-6), name


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(
    ("kind", "words"), [("pt2", []), ("pt2", ["--fp16", "--input", "uint8"]), ("onnx", [])]
)
def test_what_was_exported_runs_on_cuda(
    trained: RunDirectory, photos: Path, pairs_root: Path, tmp_path: Path, kind: str, words: list
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    file = tmp_path / f"mine.{kind}"
    result = command("export", trained, "--format", kind, "-o", file, "-d", pairs_root, *words)
    assert result.exit_code == 0, result.output
    device = "cuda" if kind == "pt2" else "auto"  # onnxruntime may be the one for CPUs
    result = command("apply", file, photos, "-o", tmp_path / "made", "--device", device)
    assert result.exit_code == 0, result.output
    result = command("apply", trained, photos, "-o", tmp_path / "cpu", "--device", "cpu")
    assert result.exit_code == 0, result.output
    wanted = images_in(tmp_path / "cpu")
    made = images_in(tmp_path / "made")
    assert list(made) == list(wanted)
    for name, image in made.items():
        assert_close(image, wanted[name], "fp16" if "--fp16" in words else "fp32")


@pytest.mark.gpu
@needs_cuda
def test_a_run_trained_on_cuda_is_tested_and_exported(pairs_root: Path, tmp_path: Path) -> None:
    from nectargan.config.config_manager import ConfigManager
    from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
    from tests.conftest import TINY

    overrides = [
        ("dataloader.dataroot", str(pairs_root)),
        ("common.output_directory", str(tmp_path / "runs")),
        ("common.device", "cuda"),
        ("common.deterministic", False),
    ]
    run = Pix2pixTrainer(ConfigManager(TINY, overrides).data).train(display=None)
    result = command("test", run, "-d", pairs_root, "--split", "val", "--metrics", "l1,psnr")
    assert result.exit_code == 0, result.output
    file = tmp_path / "mine.pt2"
    result = command("export", run, "--format", "pt2", "-o", file)
    assert result.exit_code == 0, result.output
    result = command(
        *("apply", run, pairs_root / "val", "--side", "A", "-o", tmp_path / "run"),
        *("--precision", "fp32"),
    )
    assert result.exit_code == 0, result.output
    result = command("apply", file, pairs_root / "val", "--side", "A", "-o", tmp_path / "pt2")
    assert result.exit_code == 0, result.output
    for name, image in images_in(tmp_path / "pt2").items():
        assert_close(image, images_in(tmp_path / "run")[name], "fp32")
