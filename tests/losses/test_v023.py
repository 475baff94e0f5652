"""Against the formulas of v0.2.3, stated here in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch.nn import functional as F

from nectargan.build import build_losses
from nectargan.config.config_manager import ConfigManager
from nectargan.losses.losses import LaplacianLoss, SobelLoss
from nectargan.losses.v023 import GreyLaplacianLoss, GreySobelLoss, ShallowVGGLoss
from nectargan.losses.vgg import VGG19Features

GX = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=np.float64)
# Numbers and channels of the first convolutions of torchvision's VGG19.
LAYERS_OF_VGG = {
    0: (3, 64),
    2: (64, 64),
    5: (64, 128),
    7: (128, 128),
    10: (128, 256),
    12: (256, 256),
    14: (256, 256),
}
LAPLACE = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=np.float64)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 2, 3, 24, 32, generator=generator) * 2 - 1
    return x, y


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VGG19 of random weights, drawn so that signals keep their size."""
    generator = torch.Generator().manual_seed(1)
    names = [*LAYERS_OF_VGG]
    state = {}
    for number, (nc_in, nc_out) in zip(names, LAYERS_OF_VGG.values(), strict=True):
        shape = (nc_out, nc_in, 3, 3)
        state[f"features.{number}.weight"] = (
            torch.randn(shape, generator=generator) * (2 / (9 * nc_in)) ** 0.5
        )
        state[f"features.{number}.bias"] = torch.zeros(nc_out)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state, path)
    return path


def filtered(images: torch.Tensor, kernel: np.ndarray) -> np.ndarray:
    """Of the mean of the channels, with zeros beyond the borders."""
    grey = images.double().mean(dim=1).numpy()
    return np.stack([correlate2d(image, kernel, "same", "fill", 0) for image in grey])


def magnitude(images: torch.Tensor) -> np.ndarray:
    return np.sqrt(filtered(images, GX) ** 2 + filtered(images, GX.T) ** 2 + 1e-6)


def test_sobel(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = images
    expected = np.abs(magnitude(x) - magnitude(y)).mean()
    assert GreySobelLoss()(x, y).item() == pytest.approx(expected, rel=1e-5)


def test_laplacian(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = images
    expected = np.abs(filtered(x, LAPLACE) - filtered(y, LAPLACE)).mean()
    assert GreyLaplacianLoss()(x, y).item() == pytest.approx(expected, rel=1e-5)


def test_vgg(images: tuple[torch.Tensor, torch.Tensor], weights: Path) -> None:
    """The images as they are, ReLUs 2, 4 and 7 of the network, and plain means."""
    x, y = images
    state = torch.load(weights, weights_only=True)
    expected = 0.0
    # Numbers of the convolutions in torchvision's VGG19, in the three blocks that were compared.
    for block in ((0, 2), (5, 7), (10, 12, 14)):
        if block[0]:
            x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
        for number in block:
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            x, y = (F.relu(F.conv2d(image, weight, bias, padding=1)) for image in (x, y))
        expected += (x - y).abs().mean().item()
    assert ShallowVGGLoss(weights)(*images).item() == pytest.approx(expected, rel=1e-4)
    assert set(ShallowVGGLoss.layers) <= set(
        VGG19Features(ShallowVGGLoss.layers, weights)(images[0])
    )


def test_how_much_the_formulas_of_today_differ() -> None:
    """On smooth images, as photographs are; a weight carried over would not mean the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 9, 9, generator=generator)
    x, y = F.interpolate(coarse, size=(128, 128), mode="bicubic").split(2)
    assert 4 < (GreySobelLoss()(x, y) / SobelLoss()(x, y)).item() < 12
    assert (GreyLaplacianLoss()(x, y) / LaplacianLoss()(x, y)).item() != pytest.approx(1, abs=0.05)


def test_an_old_config_computes_what_it_computed(
    images: tuple[torch.Tensor, torch.Tensor], weights: Path
) -> None:
    old = {
        "dataloader": {"load": {"load_size": 32, "crop_size": 32}},
        "train": {
            "generator": {"n_downs": 2},
            "vgg_weights": str(weights),
            "loss": {
                "lambda_gan": 1.0,
                "lambda_l1": 50.0,
                "lambda_l2": 2.0,
                "lambda_sobel": 3.0,
                "lambda_laplacian": 1.0,
                "lambda_vgg": 10.0,
            },
        },
    }
    with pytest.warns(UserWarning, match=r"v0\.2\.3 config"):
        losses = build_losses(ConfigManager({"config": old}).data)
    x, y = images
    expected = {
        "G_L1": 50 * (x - y).abs().mean().item(),
        "G_L2": 2 * (x - y).square().mean().item(),
        "G_SOBEL": 3 * np.abs(magnitude(x) - magnitude(y)).mean(),
        "G_LAP": np.abs(filtered(x, LAPLACE) - filtered(y, LAPLACE)).mean(),
        "G_VGG": 10 * ShallowVGGLoss(weights)(x, y).item(),
    }
    for name, value in expected.items():
        weighted = losses[name].loss_weight * losses[name].function(x, y)
        assert weighted.item() == pytest.approx(value, rel=1e-5), name
    logits = torch.linspace(-3, 3, 7).view(1, 1, 1, 7)
    bce = F.binary_cross_entropy_with_logits
    # v0.2.3 halved the sum of both losses of the discriminator.
    for name, label, weight in (("G_GAN", 1.0, 1.0), ("D_real", 1.0, 0.5), ("D_fake", 0.0, 0.5)):
        expected_loss = weight * bce(logits, torch.full_like(logits, label)).item()
        weighted = losses[name].loss_weight * losses[name].function(logits)
        assert weighted.item() == pytest.approx(expected_loss, rel=1e-5), name
