from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nectargan.errors import ModelError
from nectargan.models.patchgan import PatchGANDiscriminator
from nectargan.models.pix2pixhd import MultiscaleDiscriminator
from tests.models.reach import make_positive, reach


def image(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1


def halved(x: Tensor) -> Tensor:
    """The mean of the pixels that lie within each window of 3 x 3."""
    inside = F.conv2d(torch.ones_like(x[:, :1]), torch.ones(1, 1, 3, 3).to(x), None, 2, 1)
    kernel = torch.ones(x.shape[1], 1, 3, 3).to(x)
    return F.conv2d(x, kernel, None, 2, 1, groups=x.shape[1]) / inside


def test_each_scale_is_a_patchgan_of_half_the_size() -> None:
    torch.manual_seed(0)
    network = MultiscaleDiscriminator(5, 3, base_channels=2, n_layers=1).double()
    x, y = image(2, 2, 34, 41), image(2, 3, 34, 41, seed=1)
    logits = network(x, y)
    features = network.features(x, y)
    assert len(logits) == len(features) == 3
    for single, found, maps in zip(network.scales, logits, features, strict=True):
        torch.testing.assert_close(found, single(x, y))
        torch.testing.assert_close(maps[-1], found)
        x, y = halved(x), halved(y)
    # Weights of its own for each.
    assert logits[0].shape == (2, 1, 34 // 2 - 2, 41 // 2 - 2)
    assert not torch.equal(network.scales[0].layers[0].weight, network.scales[1].layers[0].weight)


def test_it_has_the_parameters_of_its_patchgans() -> None:
    with torch.device("meta"):
        network, single = MultiscaleDiscriminator(n_scales=3), PatchGANDiscriminator()
    numbers = [sum(p.numel() for p in each.parameters()) for each in (network, single)]
    assert numbers == [3 * 2_766_913, 2_766_913]


@pytest.mark.parametrize(("n_layers", "fields"), [(1, [16, 33, 67]), (3, [70, 141])])
def test_receptive_fields_by_gradient(n_layers: int, fields: list[int]) -> None:
    scales = len(fields)
    network = MultiscaleDiscriminator(2, scales, 1, n_layers).double()
    assert network.receptive_fields == fields
    make_positive(network)
    side = 4 * fields[-1]
    for scale, field in enumerate(fields):
        y = torch.ones(1, 1, side, side, dtype=torch.float64)
        middle = network(y, y)[scale].shape[-1] // 2

        def logits(x: Tensor, scale: int = scale, y: Tensor = y) -> Tensor:
            found: Tensor = network(x, y)[scale]
            return found

        top, bottom, left, right = reach(logits, (1, 1, side, side), middle, middle)
        assert bottom - top + 1 == right - left + 1 == field
        assert 0 < min(top, left) < max(bottom, right) < side - 1


@pytest.mark.parametrize("n_scales", [1, 2, 3])
def test_check_size_refuses_exactly_what_fails(n_scales: int) -> None:
    network = MultiscaleDiscriminator(2, n_scales, 1, n_layers=1)
    smallest = next(side for side in range(1, 99) if fits(side, n_scales))
    network.check_size(smallest, smallest)
    logits = network(*(image(1, 1, smallest, smallest).float() for _ in range(2)))
    assert min(min(each.shape) for each in logits) > 0
    with pytest.raises(ModelError, match=f"images of {smallest - 1} x 64"):
        network.check_size(smallest - 1, 64)
    with pytest.raises((RuntimeError, ValueError)):
        network(*(image(1, 1, smallest - 1, 64).float() for _ in range(2)))


def fits(side: int, n_scales: int) -> bool:
    for _ in range(n_scales - 1):
        side = -(-side // 2)
    return side >= 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_scales": 0}, "MultiscaleDiscriminator: n_scales is 0; it must be a whole number"),
        ({"norm": "bacth"}, "norm is 'bacth'. Did you mean 'batch'?"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        MultiscaleDiscriminator(**arguments)
