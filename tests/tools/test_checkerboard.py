"""The measure of a checkerboard, on images whose spectrum is known."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from nectargan.config.schema import Config
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from checkerboard import checkerboard, main, peak

NOISE = torch.randn(64, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def stripes(period: int, axis: int) -> torch.Tensor:
    """Cosines of amplitude 1 along an axis."""
    wave = torch.cos(2 * torch.pi * torch.arange(64) / period)
    return wave.view(64, 1).expand(64, 64) if axis == 0 else wave.view(1, 64).expand(64, 64)


@pytest.mark.parametrize("period", [2, 4])
def test_noise_has_no_peak(period: int) -> None:
    assert peak(NOISE, period) == pytest.approx((1, 1), abs=0.06)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("amplitude", [0.1, 1.0])
@pytest.mark.parametrize(("period", "power"), [(2, 1.0), (4, 0.25)])
def test_a_pattern_has_the_power_of_its_wave(
    period: int, power: float, amplitude: float, axis: int
) -> None:
    """A wave of amplitude a adds a² (Σw)² at period 2, a quarter of it at others; white noise has
    σ² Σw² everywhere."""
    window = torch.hann_window(64, dtype=torch.float64)
    gain = float(window.sum() ** 2 / window.square().sum())
    found = peak(NOISE + amplitude * stripes(period, axis), period)
    assert found[axis] == pytest.approx(1 + power * amplitude**2 * gain, rel=0.1)
    assert found[1 - axis] == pytest.approx(1, abs=0.06)


def test_missing_detail_is_not_a_pattern_and_does_not_hide_one() -> None:
    """A blur [1 2 1] / 4 has the power response cos(pi f)^4, and the pattern is added after it."""
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    blurred = functional.conv2d(NOISE, torch.outer(kernel, kernel)[None, None], padding="same")
    near = torch.tensor([16.0 + side * d for d in (3, 4, 5, 6) for side in (-1, 1)]) / 64
    slope = 4 * (torch.cos(torch.pi * near).log().mean() - torch.tensor(0.5).sqrt().log())
    assert checkerboard(blurred, NOISE, 4) == pytest.approx(float(torch.exp(-slope)), abs=0.1)
    assert checkerboard(blurred + 0.1 * stripes(4, 1), NOISE, 4) > 1.5
    assert checkerboard(NOISE, NOISE, 2) == 1


def test_a_transposed_convolution_shows() -> None:
    small = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    bumpy = functional.conv_transpose2d(small + 3, torch.rand(1, 1, 4, 4), stride=2, padding=1)
    assert checkerboard(bumpy, NOISE, 2) > 3


def test_an_image_too_small_to_measure_is_an_error() -> None:
    with pytest.raises(ValueError, match="31 pixels is too short for period 4"):
        peak(NOISE[..., :31], 4)


def test_the_table_of_a_run(tiny: Callable[..., Config]) -> None:
    run = Pix2pixTrainer(tiny()).train()
    result = CliRunner().invoke(main, [str(run)], catch_exceptions=False)
    header, _, row = result.output.splitlines()
    assert header == "| run | L1 | PSNR | SSIM | period 2 | period 4 |"
    cells = row.strip("| ").split(" | ")
    assert cells[0] == "tiny_v1"
    assert all(float(cell) > 0 for cell in cells[1:])
