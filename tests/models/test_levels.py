"""Levels of the generators: each with those below it, and how far their pixels reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nectargan.models.pix2pixhd import GlobalGenerator
from nectargan.models.resnet import ResnetGenerator
from nectargan.models.unet import UnetGenerator

NETWORKS: dict[str, Any] = {
    **{
        f"unet {upsampling} {block}": lambda up=upsampling, b=block: UnetGenerator(
            features=2, n_downs=2, norm="batch", upsample_type=up, block_type=b
        )
        for upsampling, block in (
            ("Transposed", "UnetBlock"),
            ("Bilinear", "ResidualUnetBlock"),
            ("Nearest", "UnetBlock"),
            ("PixelShuffle", "UnetBlock"),
        )
    },
    **{
        f"resnet {upsampling}": lambda up=upsampling: ResnetGenerator(
            features=2, n_downs=2, n_blocks=2, norm="batch", upsample_type=up
        )
        for upsampling in ("Transposed", "Bilinear", "PixelShuffle")
    },
    "pix2pixHD": lambda: GlobalGenerator(features=2, n_downs=3, n_blocks=1, norm="batch"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pixel_reaches_no_farther_than_is_said(name: str) -> None:
    """What depends on a pixel that is no number is no number."""
    network = NETWORKS[name]().eval()
    original = network.level
    middle = 16 * network.multiple
    for given in range(1, network.deepest + 2):
        whole: dict[str, Tensor] = {}

        def level(number: int, x: Tensor, given: int = given, whole: Any = whole) -> Tensor:
            if number != given:
                return original(number, x)
            whole.setdefault("made", original(number, x))
            return whole["made"]

        network.level = level
        image = torch.rand(1, 3, network.smallest, 2 * middle)
        network(image)
        reach, step = network.reach(given), 2**given
        found = 0
        if whole:
            made = whole["made"].clone()
            whole["made"][..., middle // step] = torch.nan
            first, last = spread(network(image))
            assert middle - reach <= first < last < middle + step + reach
            found = max(middle - first, last - middle - step)
            whole["made"] = made
        image[..., middle] = torch.nan
        first, last = spread(network(image))
        if last:  # a ResNet has no way around a given level
            assert middle - reach <= first < last <= middle + reach
            found = max(found, middle - first, last - middle)
        assert found > reach / 4, "it is said to reach much farther than it does"


def spread(images: Tensor) -> tuple[int, int]:
    """The first and the last column with values that are no numbers; zeros if there are none."""
    columns = images.isnan().any(1).any(1)[0].nonzero()[:, 0].tolist()
    return (columns[0], columns[-1]) if columns else (0, 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_levels_have_maps_of_their_size(name: str) -> None:
    network = NETWORKS[name]().eval()
    original, seen = network.level, []

    def level(number: int, x: Tensor) -> Tensor:
        made: Tensor = original(number, x)
        seen.append((number, x.shape[2:], made.shape[2:]))
        return made

    network.level = level
    network(torch.rand(1, 3, 64, 128))
    sizes = [(64 >> number, 128 >> number) for number in range(network.deepest + 1)]
    assert seen == [(n, sizes[n], sizes[n]) for n in reversed(range(network.deepest + 1))]
    assert isinstance(network, nn.Module)
