from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nectargan.config.objectives import OBJECTIVES, objective_weights
from nectargan.errors import CheckpointError, LossError
from nectargan.losses.loss_manager import LossManager
from nectargan.losses.pix2pix_objective import pix2pix

BASIC = {"G_GAN": 1.0, "G_L1": 100.0, "D_real": 0.5, "D_fake": 0.5}
MORE = {"G_L2": 10.0, "G_SOBEL": 3.0, "G_LAP": 1.0}


@pytest.mark.parametrize(
    ("objective", "weights"),
    [
        ("basic", BASIC),
        ("extended", BASIC | MORE),
        ("basic+vgg", BASIC | {"G_VGG": 10.0}),
        ("extended+vgg", BASIC | MORE | {"G_VGG": 10.0}),
    ],
)
def test_the_losses_of_an_objective(objective: str, weights: dict[str, float]) -> None:
    assert objective in OBJECTIVES
    assert objective_weights(objective) == weights
    if "vgg" not in objective:
        manager = LossManager()
        manager.init_from_spec(pix2pix, objective)
        assert manager.get_loss_weights() == weights
        assert set(manager.get_registered_losses(["D"])) == {"D_real", "D_fake"}
        assert set(manager.get_registered_losses(["G"])) == weights.keys() - {"D_real", "D_fake"}


def test_tags_tell_the_kind() -> None:
    kinds = {
        "adversarial": {"G_GAN", "D_real", "D_fake"},
        "pixel": {"G_L1", "G_L2"},
        "structure": {"G_SOBEL", "G_LAP"},
    }
    manager = LossManager()
    manager.init_from_spec(pix2pix, "extended")
    assert {kind: set(manager.get_registered_losses([kind])) for kind in kinds} == kinds


def test_nothing_is_scheduled_unless_somebody_asks() -> None:
    assert not any(loss.is_scheduled for loss in pix2pix("extended").values())


@pytest.mark.parametrize("mode", ["vanilla", "lsgan"])
def test_adversarial_losses_are_those_of_torch_against_labels(mode: str) -> None:
    losses = pix2pix(gan_mode=mode)
    logits = torch.randn(2, 1, 5, 5)
    against = F.binary_cross_entropy_with_logits if mode == "vanilla" else F.mse_loss
    for name, label in (("G_GAN", 1.0), ("D_real", 1.0), ("D_fake", 0.0)):
        expected = against(logits, torch.full_like(logits, label))
        torch.testing.assert_close(losses[name].function(logits), expected)


def test_hinge_losses_are_margins() -> None:
    losses = pix2pix(gan_mode="hinge")
    logits = torch.randn(2, 1, 5, 5)
    expected = {
        "G_GAN": -logits.mean(),
        "D_real": (1 - logits).clamp(min=0).mean(),
        "D_fake": (1 + logits).clamp(min=0).mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].function(logits), value)


def test_structure_losses_are_differences_of_neighbours() -> None:
    losses = pix2pix("extended")
    x, y = torch.randn(2, 2, 3, 8, 8)
    d = F.pad(x - y, (1, 1, 1, 1), mode="replicate")
    rows = d[..., :-2] + d[..., 2:] + 2 * d[..., 1:-1]  # smoothed along a row
    columns = d[..., :-2, :] + d[..., 2:, :] + 2 * d[..., 1:-1, :]
    down, right = rows[..., 2:, :] - rows[..., :-2, :], columns[..., 2:] - columns[..., :-2]
    sobel = (down.abs().mean() + right.abs().mean()) / 16
    torch.testing.assert_close(losses["G_SOBEL"].function(x, y), sobel)
    around = d[..., :-2, 1:-1] + d[..., 2:, 1:-1] + d[..., 1:-1, :-2] + d[..., 1:-1, 2:]
    laplace = (around - 4 * (x - y)).abs().mean()
    torch.testing.assert_close(losses["G_LAP"].function(x, y), laplace)


def test_pixel_losses_are_those_of_torch() -> None:
    losses = pix2pix("extended")
    x, y = torch.randn(2, 2, 3, 8, 8)
    assert torch.equal(losses["G_L1"].function(x, y), F.l1_loss(x, y))
    assert torch.equal(losses["G_L2"].function(x, y), F.mse_loss(x, y))


def test_two_specs_share_nothing() -> None:
    one, other = pix2pix(), pix2pix()
    one["G_L1"].schedule.current_value = 3.0
    assert other["G_L1"].schedule.current_value == 100.0


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(LossError, match=r"There is no objective 'basics'. Did you mean 'basic'"):
        pix2pix("basics")
    with pytest.raises(LossError, match="mode"):
        pix2pix(gan_mode="wgan")
    with pytest.raises(CheckpointError, match=r"nothing\.pth"):
        pix2pix("basic+vgg", vgg_weights=tmp_path / "nothing.pth")
