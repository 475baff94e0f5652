"""The table of networks: its measure of checkerboards, and a small run of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from nectargan import load_config
from nectargan.build import build_discriminator, build_generator, build_losses
from nectargan.dataset.synthetic import synthesize
from tools.compare_networks import HEADINGS, VARIANTS, main, power_at

H, W = 16, 24


def wave(period: int, amplitude: float, dim: int) -> Tensor:
    phase = torch.arange((H, W)[dim], dtype=torch.float64) * (2 * math.pi / period)
    shape = [1, 1, 1, 1]
    shape[2 + dim] = -1
    return (amplitude * phase.cos()).view(shape).expand(1, 1, H, W)


@pytest.mark.parametrize("dim", [0, 1])
def test_power_of_a_wave(dim: int) -> None:
    # Of one bin: (amplitude x pixels)^2 at a period of 2, and half of that each at +-1/4.
    bins = H + W
    assert power_at(wave(2, 3.0, dim), 2) == pytest.approx((3 * H * W) ** 2 / bins)
    assert power_at(wave(4, 3.0, dim), 4) == pytest.approx((3 * H * W / 2) ** 2 / bins)
    for period, other in ((2, 4), (4, 2), (8, 2), (8, 4)):
        assert power_at(wave(period, 3.0, dim), other) == pytest.approx(0, abs=1e-12)


def test_noise_has_the_same_power_at_all_periods() -> None:
    noise = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for period in (2, 4):
        assert power_at(noise, period) == pytest.approx(64 * 64, rel=0.05)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_row_is_a_config_that_can_be_trained(name: str) -> None:
    config = load_config("demo", VARIANTS[name])
    with torch.device("meta"):
        build_generator(config)
        build_discriminator(config)
    assert ("G_FM" in build_losses(config)) == ("G_FM" in name)


def test_a_table(tmp_path: Path) -> None:
    synthesize(tmp_path / "fronts", train=4, val=2, size=136)
    arguments = ["-d", str(tmp_path / "fronts"), "--epochs", "1", "--only", "D pixel"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    rows = [line.strip("| ").split(" | ") for line in result.stdout.splitlines()]
    assert rows[0] == HEADINGS
    assert [row[0] for row in rows[2:]] == ["U-Net; D pixel"]
    assert rows[2][2] == f"{6 * 24 + 24 + 24 * 48 + 48 + 1:,}"
    assert all(float(cell.replace(",", "")) > 0 for cell in rows[2][1:])
    wrong = CliRunner().invoke(main, [*arguments[:4], "--only", "nothing"])
    assert wrong.exit_code == 2
    assert "No row contains that" in wrong.output
