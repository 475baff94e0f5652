from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.errors import ModelError
from nectargan.models.patchgan import PatchGANDiscriminator, PixelDiscriminator


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("n_layers", "field"), [(0, 1), (1, 16), (2, 34), (3, 70), (4, 142)])
def test_receptive_field_by_gradient(n_layers: int, field: int) -> None:
    discriminator = PatchGANDiscriminator(2, 1, n_layers).double()
    # Instance norm spreads every pixel over the whole map; what counts is the geometry of the
    # convolutions. With positive weights no gradient cancels.
    for module in list(discriminator.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm2d):
                setattr(module, name, nn.Identity())
    for parameter in discriminator.parameters():
        nn.init.constant_(parameter, 0.1)
    side = 3 * field + 2 ** (n_layers + 2)
    x = torch.ones(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    logits = discriminator(x, torch.ones_like(x))
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()

    seen = x.grad[0, 0] != 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == columns[-1] - columns[0] + 1 == field
    assert seen.sum() == field**2
    assert rows[0] > 0  # the border cuts nothing off
    assert rows[-1] < side - 1
    assert discriminator.receptive_field == field


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"norm": "batch"}, 2_768_705),  # the paper's 2.77 million
        ({}, 2_766_913),  # without the 2 x 896 affine weights
        ({"base_channels": 8, "n_layers": 2, "max_channels": 16},
         6 * 8 * 16 + 8 + 8 * 16 * 16 + 16 * 16 * 16 + 16 * 16 + 1),
        ({"base_channels": 8, "n_layers": 0}, 6 * 8 + 8 + 8 * 16 + 16 + 1),
    ],
)  # fmt: skip
def test_parameter_count(arguments: dict[str, object], expected: int) -> None:
    with torch.device("meta"):
        discriminator = PatchGANDiscriminator(**arguments)
    assert sum(p.numel() for p in discriminator.parameters()) == expected


def test_forward_equals_an_independent_one() -> None:
    torch.manual_seed(0)
    discriminator = PatchGANDiscriminator(5, 2, 1).double()
    for parameter in discriminator.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    first, first_bias, second, last, last_bias = discriminator.parameters()
    x, y = image(2, 2, 12, 20).double(), image(2, 3, 12, 20, seed=1).double()
    h = F.leaky_relu(F.conv2d(torch.cat((x, y), 1), first, first_bias, 2, 1), 0.2)
    h = F.conv2d(h, second, None, 1, 1)
    h = (h - h.mean((2, 3), True)) / (h.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    h = F.conv2d(F.leaky_relu(h, 0.2), last, last_bias, 1, 1)
    torch.testing.assert_close(discriminator(x, y), h)
    assert h.shape == (2, 1, 12 // 2 - 2, 20 // 2 - 2)


def test_weights_are_drawn_as_in_the_paper() -> None:
    torch.manual_seed(0)
    discriminator = PatchGANDiscriminator(base_channels=16, norm="batch")
    convs = torch.cat([p.detach().flatten() for p in discriminator.parameters() if p.dim() == 4])
    assert convs.std() == pytest.approx(0.02, rel=0.01)
    assert discriminator.layers[0].bias.abs().max() == 0


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
def test_check_size_refuses_exactly_what_fails(n_layers: int, norm: str) -> None:
    discriminator = PatchGANDiscriminator(2, 1, n_layers, norm=norm)
    smallest = 3 * 2**n_layers if n_layers else 2
    for height, width in [(smallest, smallest), (smallest, smallest + 5)]:
        discriminator.check_size(height, width)
        logits = discriminator(image(1, 1, height, width), image(1, 1, height, width))
        assert min(logits.shape) > 0
        logits.sum().backward()
    if n_layers:  # a PixelGAN would take a line of pixels; not worth a rule of its own
        with pytest.raises((RuntimeError, ValueError)):
            discriminator(image(1, 1, smallest - 1, 64), image(1, 1, smallest - 1, 64))
    with pytest.raises(ModelError) as caught:
        discriminator.check_size(smallest - 1, 64)
    assert str(caught.value) == (
        f"The discriminator cannot take images of {smallest - 1} x 64 (height x width): with "
        f"n_layers={n_layers} they must be at least {smallest} x {smallest}."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 1}, "in_channels is 1; it must be a whole number of at least 2."),
        ({"base_channels": 0}, "base_channels is 0; it must be a whole number of at least 1."),
        ({"n_layers": -1}, "n_layers is -1; it must be a whole number of at least 0."),
        ({"max_channels": "512"}, "max_channels is '512'; it must be a whole number"),
        ({"norm": "instanc"}, "norm is 'instanc'. Did you mean 'instance'?"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match="PatchGANDiscriminator: " + re.escape(message)):
        PatchGANDiscriminator(**arguments)


def test_features_are_the_activations_and_the_logits() -> None:
    torch.manual_seed(0)
    discriminator = PatchGANDiscriminator(2, 4, 2)
    x, y = image(2, 1, 24, 24), image(2, 1, 24, 24, seed=1)
    (maps,) = discriminator.features(x, y)
    assert [tuple(each.shape) for each in maps] == [
        (2, 4, 12, 12), (2, 8, 6, 6), (2, 16, 5, 5), (2, 1, 4, 4),
    ]  # fmt: skip
    first = F.conv2d(torch.cat((x, y), 1), *discriminator.layers[0].parameters(), 2, 1)
    torch.testing.assert_close(maps[0], F.leaky_relu(first, 0.2))
    assert torch.equal(maps[-1], discriminator(x, y))


def test_a_pixel_discriminator_judges_each_pixel_by_itself() -> None:
    discriminator = PixelDiscriminator(6, 64)
    # 6 -> 64 -> 128 -> 1, with biases where no norm follows.
    assert sum(p.numel() for p in discriminator.parameters()) == 6 * 64 + 64 + 64 * 128 + 128 + 1
    assert discriminator.receptive_field == 1
    x, y = image(1, 3, 5, 7), image(1, 3, 5, 7, seed=1)
    logits = discriminator(x, y)
    assert logits.shape == (1, 1, 5, 7)
    # Pixels that are moved have their logits moved along: nothing but the pixel counts.
    order = torch.randperm(35, generator=torch.Generator().manual_seed(0))
    moved = discriminator(*(each.flatten(2)[..., order].view(1, 3, 5, 7) for each in (x, y)))
    torch.testing.assert_close(moved.flatten(), logits.flatten()[order], rtol=1e-4, atol=1e-6)
