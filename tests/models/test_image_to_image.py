"""A generator with its pre- and post-processing inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nectargan.models.image_to_image import ImageToImage, network_sizes
from nectargan.models.resnet import ResnetGenerator


class _Brighter(nn.Module):
    """Takes sides that are multiples of 4."""

    multiple = 4
    smallest = 8

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] % 4 == x.shape[-2] % 4 == 0
        assert min(x.shape[-2:]) >= 8
        assert -1 <= x.min() <= x.max() <= 1
        return x + 0.5


def test_values_are_scaled_and_any_size_comes_back() -> None:
    images = torch.rand(2, 3, 5, 9)
    brighter = (images + 0.25).clamp(max=1)
    made = ImageToImage(_Brighter())(images)
    torch.testing.assert_close(made, brighter)
    whole = (images * 255).round().to(torch.uint8)
    made = ImageToImage(_Brighter(), "uint8")(whole)
    assert made.dtype == torch.uint8
    wanted = (whole.float() + 63.75).clamp(max=255).round()
    assert (made.float() - wanted).abs().max() <= 1  # halves may be rounded either way


def test_a_half_network_takes_and_makes_floats() -> None:
    images = torch.rand(1, 3, 16, 16)
    network = ResnetGenerator(features=4, n_blocks=1).eval()
    assert network_sizes(network) == (network.multiple, network.smallest)
    with torch.no_grad():
        wanted = ImageToImage(network)(images)
        made = ImageToImage(network.half())(images)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, wanted, atol=1e-2, rtol=0)
