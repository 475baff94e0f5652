from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from nectargan.config.schema import Config
from nectargan.dataset.paired_dataset import denormalize, normalize
from nectargan.errors import CheckpointError
from nectargan.metrics import METRICS
from nectargan.metrics.networks import NETWORKS
from nectargan.metrics.weights import VARIABLE
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from nectargan.trainers.validation import (
    View,
    evaluating,
    example_rows,
    generate_examples,
    save_grid,
    validate,
)
from tests.metrics.test_networks import random_state

CPU = torch.device("cpu")


def batches(count: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, 24, 32)
    return [
        (
            torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
            torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        )
        for _ in range(count)
    ]


def normalized(
    pairs: list[tuple[torch.Tensor, torch.Tensor]],
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(normalize(source), normalize(target)) for source, target in pairs]


def test_a_perfect_generator() -> None:
    data = [(target, target) for _, target in batches(2, 0)]
    values = validate(lambda x: x, normalized(data), CPU)
    assert values["val/l1"] == pytest.approx(0.0, abs=1e-6)
    assert values["val/ssim"] == pytest.approx(1.0, abs=1e-5)
    assert values["val/psnr"] > 100


def test_a_constant_error_has_known_l1_and_psnr() -> None:
    data = [(torch.zeros(3, 3, 16, 16, dtype=torch.uint8),) * 2 for _ in range(2)]
    # 0.2 in [-1, 1] is 0.1 in [0, 1]: PSNR = -20 log10(0.1).
    values = validate(lambda x: x + 0.2, normalized(data), CPU)
    assert values["val/l1"] == pytest.approx(0.1, rel=1e-5)
    assert values["val/psnr"] == pytest.approx(20.0, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_rounds_nothing_of_a_single_channel() -> None:
    """In TF32, SSIM of smooth images with one channel is off by up to 0.05."""
    ramp = torch.linspace(-1, 1, 64).expand(2, 1, 64, 64)
    data = [(ramp, (ramp + 0.01 * torch.sin(40 * ramp.mT)).clamp(-1, 1))]
    expected = validate(lambda x: x, data, CPU)
    on_gpu = [(source.cuda(), target.cuda()) for source, target in data]
    found = validate(lambda x: x, on_gpu, torch.device("cuda"))
    assert found == pytest.approx(expected, rel=1e-4)


def test_values_are_means_over_images_not_batches() -> None:
    # A numpy computation, image by image, over batches of unequal size.
    data = batches(2, 1)
    data[1] = (data[1][0][:1], data[1][1][:1])
    values = validate(lambda x: x, normalized(data), CPU)
    a = torch.cat([s for s, _ in data]).numpy() / 255.0
    b = torch.cat([t for _, t in data]).numpy() / 255.0
    mse = ((a - b) ** 2).mean(axis=(1, 2, 3))
    assert values["val/l1"] == pytest.approx(np.abs(a - b).mean(), rel=1e-5)
    assert values["val/psnr"] == pytest.approx((-10 * np.log10(mse)).mean(), rel=1e-5)


def test_ssim_of_one_window() -> None:
    # On a flat image SSIM is its luminance term: (2ab + c1) / (a^2 + b^2 + c1).
    source = torch.full((1, 1, 16, 16), 51, dtype=torch.uint8)
    target = torch.full((1, 1, 16, 16), 102, dtype=torch.uint8)
    a, b, c1 = 0.2, 0.4, 0.01**2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    values = validate(lambda x: x, normalized([(source, target)]), CPU)
    assert values["val/ssim"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("source_nc", "target_nc"), [(3, 3), (1, 3), (4, 1)])
def test_the_grid_shows_input_generated_and_target(
    tmp_path: Path, source_nc: int, target_nc: int
) -> None:
    source = torch.randint(0, 256, (source_nc, 10, 12), dtype=torch.uint8)
    target = torch.randint(0, 256, (target_nc, 10, 12), dtype=torch.uint8)
    path = tmp_path / "examples" / "grid.png"
    pairs = [(source, target)] * 2
    generated = generate_examples(lambda x: torch.ones(1, target_nc, 10, 12), pairs, CPU)
    save_grid(pairs, generated, path)
    grid = np.asarray(Image.open(path))
    assert grid.shape == (2 * 10 + 2, 3 * 12 + 4, 3)

    def shown(image: torch.Tensor) -> np.ndarray:
        rgb = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
        return rgb.permute(1, 2, 0).numpy()

    for top in (0, 12):
        np.testing.assert_array_equal(grid[top : top + 10, :12], shown(source))
        np.testing.assert_array_equal(grid[top : top + 10, 14:26], 255)
        np.testing.assert_array_equal(grid[top : top + 10, 28:], shown(target))


def test_examples_are_generated_one_by_one_from_normalized_inputs() -> None:
    pairs = [(torch.full((3, 4, 5), value, dtype=torch.uint8),) * 2 for value in (0, 255)]
    generated = generate_examples(lambda x: x.half() / 2, pairs, CPU)
    assert [(m.shape, m.dtype, m.unique().tolist()) for m in generated] == [
        ((3, 4, 5), torch.float32, [-0.5]),
        ((3, 4, 5), torch.float32, [0.5]),
    ]


def test_evaluating_restores_the_mode() -> None:
    network = nn.Dropout(0.5)
    with pytest.raises(ZeroDivisionError), evaluating(network):
        assert not network.training
        raise ZeroDivisionError
    assert network.training


def test_ssim_is_over_the_windows_within_the_image() -> None:
    """Against the definition of Wang et al. 2004 in NumPy, window by window."""
    data = batches(2, 3)
    values = validate(lambda x: x, normalized(data), CPU)
    offsets = np.arange(-5, 6)
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    kernel /= kernel.sum()

    def mean(image: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(image, (11, 11), axis=(-2, -1))
        return (windows * kernel).sum(axis=(-2, -1))

    a = torch.cat([source for source, _ in data]).double().numpy() / 255
    b = torch.cat([target for _, target in data]).double().numpy() / 255
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    assert ssim.shape == (4, 3, 14, 22)
    assert values["val/ssim"] == pytest.approx(ssim.mean(), abs=1e-5)


def test_lpips_is_measured_through_its_network(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights, whose file stands for the published one."""
    network = NETWORKS["lpips_alexnet"]
    made = network.make()
    made.load(random_state(made), "random")
    part = tmp_path / "part"
    torch.save(random_state(made), part)
    name = f"alex-{hashlib.sha256(part.read_bytes()).hexdigest()[:8]}.pth"
    part.rename(tmp_path / name)
    file = network.file._replace(name=name, url="file:///nowhere")
    monkeypatch.setitem(NETWORKS, "lpips_alexnet", network._replace(file=file))
    config = tiny(
        validation__metrics=["l1", "lpips"], train__stop={"metric": "val/lpips", "patience": 1}
    )
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        Pix2pixTrainer(config)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    trainer = Pix2pixTrainer(config)
    run = trainer.train()
    with evaluating(trainer.generator), torch.no_grad():
        values = [
            METRICS["lpips"].function(*(made(x.add(1) / 2) for x in (trainer.generate(a), b)))
            for a, b in trainer.data.val.epoch()  # type: ignore[union-attr]
        ]
    frame = pd.read_csv(run.metrics)
    (*_, recorded) = frame[frame["metric"] == "val/lpips"]["value"]
    assert recorded == pytest.approx(torch.cat(values).mean().item(), rel=1e-5)
    assert trainer.config.validation.is_lower_better("val/lpips")


def test_a_view_chooses_bands_and_stretches_them(tmp_path: Path) -> None:
    ramp = torch.linspace(-0.5, 0.5, 101 * 4).view(1, 4, 101).expand(5, -1, -1)
    scale = torch.arange(1.0, 6.0).view(5, 1, 1) / 5
    source, target = ramp * scale, ramp.flip(2)[:2]
    view = View(input_bands=[5, 1, 3], target_bands=[2], stretch=[0.0, 100.0])
    ((a, made, b),) = example_rows([(source, target)], [target * 2], view)
    rising = torch.linspace(0, 255, 404).round().view(4, 101).numpy()
    assert np.abs(a - rising[..., None]).max() <= 1, "each band is stretched by its own values"
    assert np.abs(b - rising.reshape(4, 101)[:, ::-1, None]).max() <= 1
    assert (made.min(), made.max()) == (0, 255), "twice the range of the target is clipped"
    ((a, _, b),) = example_rows([(source, target)], [target])
    assert (a == denormalize(source[:3]).permute(1, 2, 0).numpy()).all()
    assert (b == denormalize(target[:1]).expand(3, -1, -1).permute(1, 2, 0).numpy()).all()


def test_invalid_pixels_are_left_out_of_the_metrics() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 2, 16, 16, generator=generator) * 2 - 1
    mask = torch.rand(3, 1, 16, 16, generator=generator) < 0.6
    mask[2] = False
    target = torch.where(mask, target, 0.0)
    made = torch.rand(3, 2, 16, 16, generator=generator) * 2 - 1
    found = validate(lambda x: made, [(target, target, mask)], CPU)
    differences = [((made - target)[i] / 2)[mask[i].expand(2, -1, -1)] for i in range(2)]
    l1 = np.mean([float(each.abs().mean()) for each in differences])
    psnr = np.mean([-10 * float(each.square().mean().log10()) for each in differences])
    assert found["val/l1"] == pytest.approx(l1)
    assert found["val/psnr"] == pytest.approx(psnr)
    changed = torch.where(mask, made, made.flip(0))
    assert validate(lambda x: changed, [(target, target, mask)], CPU) == found
    whole = validate(lambda x: made[:2], [(target[:2], target[:2], mask[:2] | True)], CPU)
    assert whole == validate(lambda x: made[:2], [(target[:2], target[:2])], CPU)
