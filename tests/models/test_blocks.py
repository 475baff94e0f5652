"""Options that several networks share: padding, init, spectral norm."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.models.blocks import with_spectral_norm
from nectargan.models.convolutions import HalvingConv2d, PaddedConv2d, reflected
from nectargan.models.patchgan import PatchGANDiscriminator, PixelDiscriminator
from nectargan.models.pix2pixhd import MultiscaleDiscriminator
from nectargan.models.resnet import ResnetGenerator
from nectargan.models.unet import UnetGenerator

DISCRIMINATORS: list[Callable[..., nn.Module]] = [
    PatchGANDiscriminator,
    PixelDiscriminator,
    MultiscaleDiscriminator,
]


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# --- padding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("pixels", [1, 3])
def test_borders_are_mirrored_without_the_outermost_pixel(pixels: int, deterministic: bool) -> None:
    x = image(2, 3, 5, 7).double().requires_grad_()
    torch.use_deterministic_algorithms(deterministic)
    found = reflected(x, pixels)

    def index(place: int, size: int) -> int:
        return abs(place) if place < size else 2 * (size - 1) - place

    rows = [index(place, 5) for place in range(-pixels, 5 + pixels)]
    columns = [index(place, 7) for place in range(-pixels, 7 + pixels)]
    expected = x[:, :, rows][:, :, :, columns]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    gradient = image(*found.shape, seed=1).double()
    (ours,) = torch.autograd.grad(found, x, gradient)
    (wanted,) = torch.autograd.grad(expected, x, gradient)
    torch.testing.assert_close(ours, wanted)


def test_padded_convolutions() -> None:
    torch.manual_seed(0)
    x = image(1, 2, 8, 8)
    for layer, border, stride in (
        (PaddedConv2d(2, 3, 3, padding="reflect"), 1, 1),
        (PaddedConv2d(2, 3, 7, padding="reflect"), 3, 1),
        (HalvingConv2d(2, 3, padding="reflect"), 1, 2),
    ):
        mirrored = F.pad(x, (border,) * 4, mode="reflect")
        torch.testing.assert_close(layer(x), F.conv2d(mirrored, layer.weight, layer.bias, stride))


@pytest.mark.parametrize(
    "make",
    [
        lambda padding: UnetGenerator(2, 2, 2, 1, upsample_type="Nearest", padding=padding),
        lambda padding: ResnetGenerator(
            2, 2, 2, n_downs=0, n_blocks=1, upsample_type="Nearest", padding=padding
        ),
    ],
)
def test_a_flat_image_has_no_border_where_it_is_mirrored(make: Callable[[str], nn.Module]) -> None:
    """Zeros around an image show at its border; a mirrored flat image goes on as it is."""
    torch.manual_seed(0)
    flat = torch.full((1, 2, 16, 16), 0.5)
    for padding, is_flat in (("reflect", True), ("zeros", False)):
        network = make(padding).eval()
        for parameter in network.parameters():
            nn.init.normal_(parameter, 0.0, 0.3)
        for module in network.modules():
            for name, child in module.named_children():
                if isinstance(child, nn.InstanceNorm2d):
                    setattr(module, name, nn.Identity())
        with torch.no_grad():
            spread = network(flat).flatten(2).std(-1).max().item()
        assert (spread < 1e-6) is is_flat


def test_with_reflect_padding_all_patches_of_a_flat_pair_are_equal() -> None:
    torch.manual_seed(0)
    network = PatchGANDiscriminator(2, 4, 2, padding="reflect").eval()
    flat = torch.full((1, 1, 32, 32), 0.5)
    assert network(flat, flat).std() < 1e-6
    assert PatchGANDiscriminator(2, 4, 2)(flat, flat).std() > 1e-6


# --- weights at the start ------------------------------------------------------------------------


def test_default_init_keeps_what_torch_draws() -> None:
    torch.manual_seed(3)
    network = PatchGANDiscriminator(base_channels=4, n_layers=1, init="default")
    torch.manual_seed(3)
    plain = [nn.Conv2d(6, 4, 4), nn.Conv2d(4, 8, 4, bias=False), nn.Conv2d(8, 1, 4)]
    drawn = [parameter for layer in plain for parameter in layer.parameters()]
    for ours, torchs in zip(network.parameters(), drawn, strict=True):
        assert torch.equal(ours, torchs)


def test_sub_pixels_start_equal_with_either_init() -> None:
    for init in ("normal", "default"):
        generator = UnetGenerator(features=2, n_downs=0, upsample_type="PixelShuffle", init=init)
        for name, weight in generator.named_parameters():
            if name.startswith("ups") and weight.dim() == 4:
                assert torch.equal(weight[::4], weight[3::4])


# --- spectral norm -------------------------------------------------------------------------------


def largest(weight: Tensor) -> float:
    return float(torch.linalg.svdvals(weight.detach().double().flatten(1))[0])


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_every_convolution_has_spectral_norm_one(kind: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    network = kind(2, base_channels=8, spectral_norm=True)
    plain = kind(2, base_channels=8)
    assert sum(p.numel() for p in network.parameters()) == sum(
        p.numel() for p in plain.parameters()
    )
    pair = image(1, 1, 96, 96), image(1, 1, 96, 96, seed=1)
    with torch.no_grad():
        for _ in range(200):
            network(*pair)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    network.eval()  # the estimate stands still
    for layer in convolutions:
        original = layer.parametrizations.weight.original
        assert largest(layer.weight) == pytest.approx(1.0, abs=0.01)
        torch.testing.assert_close(layer.weight, original / largest(original), rtol=0.01, atol=1e-6)
    assert any(largest(layer.weight) < 0.9 for layer in plain.modules() if hasattr(layer, "weight"))


def test_the_estimate_is_refined_by_training_and_kept_in_the_state() -> None:
    torch.manual_seed(0)
    layer = with_spectral_norm(nn.Conv2d(16, 16, 3))
    before = layer.weight.detach().clone()
    assert not torch.equal(before, layer.weight)
    other = with_spectral_norm(nn.Conv2d(16, 16, 3))
    other.load_state_dict(layer.state_dict())
    layer.eval(), other.eval()
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.weight, layer.weight)


def test_the_norm_is_estimated_in_full_precision() -> None:
    torch.manual_seed(0)
    layer = with_spectral_norm(nn.Conv2d(4, 8, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.weight.dtype == torch.float32
        assert layer(image(1, 4, 8, 8)).dtype == torch.bfloat16


def test_gradients_pass_the_division() -> None:
    """W / sigma(W) does not change with the length of W: the gradient is orthogonal to W."""
    torch.manual_seed(0)
    layer = with_spectral_norm(nn.Conv2d(3, 4, 3, bias=False)).double()
    x = image(1, 3, 8, 8).double()
    for _ in range(300):
        layer(x)
    original = layer.parametrizations.weight.original
    layer(x).square().sum().backward()
    assert original.grad is not None
    length = original.grad.norm() * original.detach().norm()
    assert float((original.grad * original.detach()).sum().abs() / length) < 1e-3
    assert float(original.grad.norm()) > 1e-3
