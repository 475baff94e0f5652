from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nectargan.build import build_losses
from nectargan.config.schema import Config
from nectargan.dataset.paired_dataset import normalize
from nectargan.losses.lm_data import LMLoss
from nectargan.losses.losses import AdversarialLoss, LaplacianLoss, SobelLoss
from nectargan.trainers.loss_maps import loss_maps, per_pixel_losses, save_loss_maps
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

Make = Callable[..., Config]


def losses(**functions: Callable[..., Tensor]) -> dict[str, LMLoss]:
    return {name: LMLoss(name, function) for name, function in functions.items()}


def ramp(slope: float, side: int = 8) -> Tensor:
    """``(1, H, W)``, rising from left to right from 0."""
    return (slope * torch.arange(side)).expand(1, side, side).clone()


def test_maps_of_a_ramp_have_closed_forms() -> None:
    # Against a target of zeros. 127.5 is no uint8: 128 is 1/255 above the middle.
    target = torch.full((1, 8, 8), 128, dtype=torch.uint8)
    generated = ramp(0.1) + 1 / 255
    maps = loss_maps(
        losses(a=nn.L1Loss(), b=nn.MSELoss(), c=SobelLoss(), d=LaplacianLoss()),
        [(target, target)],
        [generated],
    )
    assert list(maps) == ["a", "b", "c", "d"]
    x = np.tile(0.1 * np.arange(8), (8, 1))
    inside = np.s_[:, 1:-1]
    np.testing.assert_allclose(maps["a"][0], x, atol=1e-6)
    np.testing.assert_allclose(maps["b"][0], x**2, atol=1e-6)
    # Half of it is the vertical part, which is 0; a straight line has no second derivative.
    np.testing.assert_allclose(maps["c"][0][inside], 0.05, atol=1e-6)
    np.testing.assert_allclose(maps["d"][0][inside], 0.0, atol=1e-6)
    # Replicated borders bend it.
    np.testing.assert_allclose(maps["d"][0][:, [0, -1]], 0.1, atol=1e-6)


@pytest.mark.parametrize("function", [nn.L1Loss(), nn.MSELoss(), SobelLoss(), LaplacianLoss()])
def test_the_mean_of_a_map_is_the_loss(function: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 256, (3, 16, 12), dtype=torch.uint8, generator=generator)
    generated = torch.rand((3, 16, 12), generator=generator) * 2 - 1
    ((shown,),) = loss_maps(losses(x=function), [(target, target)], [generated]).values()
    expected = function(generated[None], normalize(target[None])).item()
    assert shown.shape == (16, 12)
    assert shown.mean() == pytest.approx(expected, rel=1e-5)
    # What the training uses still returns its mean.
    assert function(generated[None], generated[None]).shape == ()


class Scalar(nn.L1Loss):
    """Derives from a loss of pixels and still returns one number."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().mean()


def test_the_class_decides_not_the_name(tiny: Make) -> None:
    terms = {"edges": {"function": "nectargan.losses.losses.SobelLoss", "weight": 2.0}}
    found = per_pixel_losses(build_losses(tiny(train__objective="extended", train__loss=terms)))
    assert list(found) == ["G_L1", "G_L2", "G_SOBEL", "G_LAP", "edges"]
    others = losses(G_GAN=AdversarialLoss(), D_real=nn.L1Loss(), f=torch.nn.functional.l1_loss)
    assert per_pixel_losses(others) == {}
    pixels = torch.zeros(3, 4, 4, dtype=torch.uint8)
    assert loss_maps(losses(x=Scalar()), [(pixels, pixels)], [torch.zeros(3, 4, 4)]) == {}


def test_a_run_draws_them(tiny: Make) -> None:
    options = {"train__objective": "extended", "logging__loss_map_every_n_epochs": 2}
    run = Pix2pixTrainer(tiny(**options)).train()
    before, path = sorted((run / "loss_maps").iterdir())
    assert before.name == "epoch_0000_step_00000000.png"
    assert path.name == "epoch_0002_step_00000006.png"
    # Two pairs; three images and four losses.
    width, height = Image.open(path).size
    assert width > 7 / 2 * 0.8 * height


def test_a_map_of_nothing_finite_or_of_zeros_is_drawn(tmp_path: Path) -> None:
    pixels = torch.zeros(1, 6, 9, dtype=torch.uint8)
    generated = [torch.full((1, 6, 9), value) for value in (-1.0, float("nan"))]
    maps = loss_maps(losses(a=nn.L1Loss()), [(pixels, pixels)] * 2, generated)
    assert np.isnan(maps["a"][1]).all()
    assert not maps["a"][0].any()
    save_loss_maps(maps, [(pixels, pixels)] * 2, generated, tmp_path / "loss_maps" / "x.png")
    assert Image.open(tmp_path / "loss_maps" / "x.png").format == "PNG"
