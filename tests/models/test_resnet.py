"""The ResNet generator, and the global generator of pix2pixHD, which is a deeper one."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.errors import ModelError
from nectargan.models.pix2pixhd import GlobalGenerator
from nectargan.models.resnet import ResnetGenerator
from tests.models.reach import make_positive, reach

UPSAMPLES = ("Transposed", "Bilinear", "Nearest", "PixelShuffle")


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def image(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1


def weights_of(features: int, n_downs: int, n_blocks: int, input_nc: int) -> int:
    """Weights and biases of all convolutions, counted on paper."""
    widths = [features * 2**level for level in range(n_downs + 1)]
    ends = 49 * input_nc * features + features + 49 * features * 3 + 3
    downs = sum(9 * a * b + b for a, b in pairwise(widths))
    ups = sum(9 * a * b + a for a, b in pairwise(widths))
    return ends + downs + ups + n_blocks * 2 * (9 * widths[-1] ** 2 + widths[-1])


@pytest.mark.parametrize(
    ("kind", "n_downs", "n_blocks", "input_nc", "published"),
    [
        (ResnetGenerator, 2, 6, 3, 7_837_699),
        (ResnetGenerator, 2, 9, 3, 11_378_179),
        (GlobalGenerator, 4, 9, 3, 182_443_267),
        (GlobalGenerator, 4, 9, 36, 182_546_755),  # 35 labels and the edges, as in the paper
    ],
)
def test_sizes_are_the_published_ones(
    kind: type[ResnetGenerator], n_downs: int, n_blocks: int, input_nc: int, published: int
) -> None:
    with torch.device("meta"):
        generator = kind(input_nc, n_blocks=n_blocks)
    assert count(generator) == weights_of(64, n_downs, n_blocks, input_nc) == published


def test_batch_norm_has_weights_and_the_convolutions_before_it_no_bias() -> None:
    with torch.device("meta"):
        instance, batch = ResnetGenerator(n_blocks=6), ResnetGenerator(n_blocks=6, norm="batch")
    channels = 64 + 128 + 256 + 6 * 2 * 256 + 128 + 64
    assert count(batch) == count(instance) - channels + 2 * channels


def reference(generator: ResnetGenerator, x: Tensor, upsample: str, mode: str) -> Tensor:
    """The network with one strided layer and one block again, from its weights, by functions."""
    weights = iter(generator.parameters())

    def padded(x: Tensor, pixels: int) -> Tensor:
        how = "constant" if mode == "zeros" else mode
        return F.pad(x, (pixels,) * 4, mode=how)

    def normed(x: Tensor) -> Tensor:
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-5).sqrt()

    x = F.relu(normed(F.conv2d(padded(x, 3), next(weights), next(weights))))
    x = F.relu(normed(F.conv2d(x, next(weights), next(weights), stride=2, padding=1)))
    h = F.relu(normed(F.conv2d(padded(x, 1), next(weights), next(weights))))
    x = x + normed(F.conv2d(padded(h, 1), next(weights), next(weights)))
    if upsample == "Transposed":
        x = F.conv_transpose2d(x, next(weights), next(weights), 2, 1, output_padding=1)
    elif upsample == "PixelShuffle":
        x = F.pixel_shuffle(F.conv2d(x, next(weights), next(weights), padding=1), 2)
    else:
        x = F.interpolate(x, scale_factor=2, mode=upsample.lower())
        x = F.conv2d(padded(x, 1), next(weights), next(weights))
    x = F.conv2d(padded(F.relu(normed(x)), 3), next(weights), next(weights))
    assert next(weights, None) is None
    return torch.tanh(x)


@pytest.mark.parametrize("upsample", UPSAMPLES)
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_forward_equals_an_independent_one(
    upsample: str, padding: str, deterministic: bool
) -> None:
    torch.manual_seed(0)
    generator = ResnetGenerator(
        2, 3, features=2, n_downs=1, n_blocks=1, upsample_type=upsample, padding=padding
    ).double()
    for parameter in generator.parameters():  # biases too, larger than they begin
        nn.init.normal_(parameter, 0.0, 0.3)
    x = image(2, 2, 8, 12)
    torch.use_deterministic_algorithms(deterministic)
    torch.testing.assert_close(generator(x), reference(generator, x, upsample, padding))


def field(pixel: int, n_downs: int, n_blocks: int) -> tuple[int, int]:
    """First and last input pixel that an output pixel sees, by the geometry of the layers."""
    first, last = pixel - 3, pixel + 3
    for _ in range(n_downs):
        # Input i of a transposed convolution reaches the outputs 2i - 1, 2i and 2i + 1.
        first, last = first // 2, -(-last // 2)
    first, last = first - 2 * n_blocks, last + 2 * n_blocks
    for _ in range(n_downs):
        first, last = 2 * first - 1, 2 * last + 1
    return first - 3, last + 3


@pytest.mark.parametrize(
    ("kind", "n_downs", "n_blocks"),
    [
        (ResnetGenerator, 2, 6),
        (ResnetGenerator, 2, 9),
        (ResnetGenerator, 0, 1),
        (GlobalGenerator, 4, 2),
    ],
)
def test_receptive_field_by_gradient(
    kind: type[ResnetGenerator], n_downs: int, n_blocks: int
) -> None:
    generator = kind(1, 1, features=1, n_downs=n_downs, n_blocks=n_blocks, padding="zeros").double()
    make_positive(generator)
    side = 256
    for row, column in ((128, 131), (133, 126)):
        found = reach(generator.layers, (1, 1, side, side), row, column)
        assert found == (*field(row, n_downs, n_blocks), *field(column, n_downs, n_blocks))
        assert 0 < min(found) < max(found) < side - 1  # the border cuts nothing off


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("upsample", UPSAMPLES)
def test_the_smallest_size_trains_at_batch_one(norm: str, upsample: str) -> None:
    torch.manual_seed(0)
    generator = ResnetGenerator(2, 1, 2, 2, 1, upsample, norm, dropout=0.5)
    side = generator.smallest
    assert side == 8
    out = generator(image(1, 2, side, side + generator.multiple).float())
    assert out.shape == (1, 1, side, side + generator.multiple)
    out.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in generator.parameters())


@given(st.integers(-4, 80), st.integers(-4, 80), st.integers(0, 4))
def test_check_size(height: int, width: int, n_downs: int) -> None:
    with torch.device("meta"):
        generator = ResnetGenerator(features=1, n_downs=n_downs, n_blocks=1)
    sides = (height, width)
    if min(sides) >= max(4, 2 ** (n_downs + 1)) and all(side % 2**n_downs == 0 for side in sides):
        generator.check_size(height, width)
        x = torch.empty(1, 3, height, width, device="meta")
        assert generator(x).shape == (1, 3, height, width)
    else:
        with pytest.raises(ModelError, match=f"a multiple of {2**n_downs}, and at least"):
            generator.check_size(height, width)


def test_dropout_is_within_the_blocks_and_acts_in_training_only() -> None:
    generator = ResnetGenerator(features=2, n_blocks=3, dropout=0.25)
    assert [m.p for m in generator.modules() if isinstance(m, nn.Dropout)] == [0.25] * 3
    x = image(1, 3, 16, 16).float()
    assert not torch.equal(generator.train()(x), generator(x))
    assert torch.equal(generator.eval()(x), generator(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_blocks": 0}, "n_blocks is 0; it must be a whole number of at least 1."),
        ({"n_downs": -1}, "n_downs is -1; it must be a whole number of at least 0."),
        ({"padding": "mirror"}, "padding is 'mirror'. Allowed: reflect, zeros."),
        ({"init": "norml"}, "init is 'norml'. Did you mean 'normal'?"),
        ({"dropout": 1}, "dropout is 1; it must be at least 0 and below 1."),
        ({"upsample_type": "nearest"}, "Did you mean 'Nearest'?"),
    ],
)
@pytest.mark.parametrize("kind", [ResnetGenerator, GlobalGenerator])
def test_bad_arguments(
    kind: type[ResnetGenerator], arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=f"{kind.__name__}: .*" + re.escape(message)):
        kind(**arguments)
