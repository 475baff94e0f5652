from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.errors import ModelError
from nectargan.models.blocks import SubPixelConv2d, init_weights
from nectargan.models.unet import UnetGenerator, fitting_sizes

BLOCKS = ("UnetBlock", "ResidualUnetBlock")
UPSAMPLES = ("Transposed", "Bilinear", "Nearest", "PixelShuffle")


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("norm", "expected"), [("batch", 54_413_955), ("instance", 54_404_675)])
def test_default_size_is_that_of_the_paper(norm: str, expected: int) -> None:
    # Instance norm: no 2 x 4928 affine weights, but biases of the two levels without norm.
    with torch.device("meta"):
        generator = UnetGenerator(norm=norm)
        assert count(generator) == expected
        # 256 x 256 goes down to 1 x 1.
        x = torch.empty(1, 3, 256, 256)
        sides = []
        for down in generator.downs:
            x = down(x)
            sides.append((x.shape[1], x.shape[2]))
    assert sides == [
        (64, 128), (128, 64), (256, 32), (512, 16), (512, 8), (512, 4), (512, 2), (512, 1),
    ]  # fmt: skip


def reference(generator: UnetGenerator, x: Tensor, n_downs: int, residual: bool, up: str) -> Tensor:
    """The network again, from its weights, by functional calls and a recursion."""
    state = dict(generator.named_parameters())

    def half(name: str, x: Tensor, act: float | None, normed: bool) -> Tensor:
        conv = next(k for k in state if k.startswith(f"{name}.main") and state[k].dim() == 4)
        bias = state.get(conv.replace("weight", "bias"))
        h = x if act is None else F.leaky_relu(x, act)
        if not name.startswith("ups"):
            h = F.conv2d(h, state[conv], bias, stride=2, padding=1)
        elif up == "Transposed":
            h = F.conv_transpose2d(h, state[conv], bias, stride=2, padding=1)
        elif up == "PixelShuffle":
            # Channel 4c + 2i + j becomes row i and column j of each 2 x 2 pixels of channel c.
            n, _, height, width = h.shape
            h = F.conv2d(h, state[conv], bias, 1, 1).view(n, -1, 2, 2, height, width)
            h = h.permute(0, 1, 4, 2, 5, 3).reshape(n, -1, 2 * height, 2 * width)
        else:
            h = F.conv2d(F.interpolate(h, scale_factor=2, mode=up.lower()), state[conv], bias, 1, 1)
        if normed:
            mean, var = h.mean((2, 3), keepdim=True), h.var((2, 3), keepdim=True, unbiased=False)
            h = (h - mean) / (var + 1e-5).sqrt()
        if residual:
            weight = next(state[k] for k in state if k.startswith(f"{name}.shortcut"))
            if name.startswith("ups"):
                h = h + F.conv2d(F.interpolate(x, scale_factor=2, mode="bilinear"), weight)
            else:
                h = h + F.conv2d(F.avg_pool2d(x, 2), weight)
        return h

    def level(depth: int, x: Tensor) -> Tensor:
        innermost = depth == n_downs + 1
        act = 0.2 if depth else None
        down = half(f"downs.{depth}", x, act, normed=0 < depth < n_downs + 1)
        if not innermost:
            down = torch.cat((level(depth + 1, down), down), dim=1)
        return half(f"ups.{n_downs + 1 - depth}", down, 0.0, normed=depth > 0)

    return torch.tanh(level(0, x))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("upsample", UPSAMPLES)
@pytest.mark.parametrize("n_downs", [0, 2])
def test_forward_equals_an_independent_one(block: str, upsample: str, n_downs: int) -> None:
    torch.manual_seed(0)
    generator = UnetGenerator(2, 1, 3, n_downs, block, upsample, dropout=0.5).double().eval()
    for parameter in generator.parameters():  # larger than N(0, 0.02), biases too, to see them all
        nn.init.normal_(parameter, 0.0, 0.2)
    x = image(2, 2, 16, 32).double()
    expected = reference(generator, x, n_downs, block.startswith("Res"), upsample)
    torch.testing.assert_close(generator(x), expected)


@settings(max_examples=25, deadline=None)
@given(
    block=st.sampled_from(BLOCKS),
    upsample=st.sampled_from(UPSAMPLES),
    norm=st.sampled_from(["instance", "batch"]),
    n_downs=st.integers(0, 3),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    tiles=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_every_size_that_fits_trains_at_batch_one(
    block: str, upsample: str, norm: str, n_downs: int,
    channels: tuple[int, int], tiles: tuple[int, int],
) -> None:  # fmt: skip
    torch.manual_seed(0)
    generator = UnetGenerator(*channels, 2, n_downs, block, upsample, norm).train()
    height, width = (tile * generator.multiple for tile in tiles)
    generator.check_size(height, width)
    out = generator(image(1, channels[0], height, width))
    assert out.shape == (1, channels[1], height, width)
    assert out.abs().max() <= 1
    out.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in generator.parameters())


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("upsample", UPSAMPLES)
def test_every_weight_learns_and_no_bias_is_without_effect(block: str, upsample: str) -> None:
    torch.manual_seed(0)
    generator = UnetGenerator(3, 3, 4, 2, block, upsample, dropout=0.0).double()
    (generator(image(1, 3, 32, 32).double()) - 0.5).abs().mean().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad.abs().max() > 1e-12, name


@pytest.mark.parametrize(
    ("n_downs", "dropout", "expected"),
    [
        (6, 0.5, [0.5, 0.5, 0.5, 0, 0, 0, 0, 0]),
        (1, 0.3, [0.3, 0.3, 0]),
        (0, 0.5, [0.5, 0]),
        (4, 0.0, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_dropout_follows_the_bottleneck(
    n_downs: int, dropout: float, expected: list[float]
) -> None:
    generator = UnetGenerator(features=1, n_downs=n_downs, dropout=dropout)
    found = [sum(m.p for m in up.modules() if isinstance(m, nn.Dropout)) for up in generator.ups]
    assert found == expected
    assert not any(isinstance(m, nn.Dropout) for m in generator.downs.modules())


def test_dropout_acts_in_training_only() -> None:
    generator = UnetGenerator(features=4, n_downs=1)
    x = image(1, 3, 16, 16)
    assert not torch.equal(generator.train()(x), generator(x))
    assert torch.equal(generator.eval()(x), generator(x))


def test_init_weights() -> None:
    torch.manual_seed(0)
    generator = UnetGenerator(features=16, n_downs=3, norm="batch")
    convs = torch.cat([p.detach().flatten() for p in generator.parameters() if p.dim() == 4])
    assert abs(convs.mean()) < 1e-4
    assert convs.std() == pytest.approx(0.02, rel=0.01)
    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm2d)]
    scales = torch.cat([m.weight.detach() for m in norms])
    assert scales.mean() == pytest.approx(1.0, abs=0.005)
    assert scales.std() == pytest.approx(0.02, rel=0.15)
    biases = [p for name, p in generator.named_parameters() if name.endswith("bias")]
    assert len(biases) == len(norms) + 1
    assert all(torch.count_nonzero(b) == 0 for b in biases)

    plain = nn.Conv2d(8, 64, 5)
    init_weights(plain, std=0.5)
    assert plain.weight.detach().std() == pytest.approx(0.5, rel=0.05)
    assert torch.count_nonzero(plain.bias) == 0
    assert plain.weight.requires_grad


@given(st.integers(0, 3000), st.integers(0, 3000), st.sampled_from([4, 64, 256]))
def test_fitting_sizes_are_the_nearest(height: int, width: int, multiple: int) -> None:
    allowed = range(multiple, 4000, multiple)
    smaller = tuple(max((a for a in allowed if a <= s), default=multiple) for s in (height, width))
    larger = tuple(min(a for a in allowed if a >= s) for s in (height, width))
    assert fitting_sizes(height, width, multiple) == sorted({smaller, larger})


@given(st.integers(-8, 200), st.integers(-8, 200), st.integers(0, 4))
def test_check_size(height: int, width: int, n_downs: int) -> None:
    with torch.device("meta"):
        generator = UnetGenerator(features=1, n_downs=n_downs)
    multiple = 2 ** (n_downs + 2)
    if height > 0 and width > 0 and math.gcd(height, width) % multiple == 0:
        generator.check_size(height, width)
    else:
        with pytest.raises(ModelError, match=f"multiple of {multiple}"):
            generator.check_size(height, width)


def test_check_size_names_what_would_fit() -> None:
    with torch.device("meta"):
        generator = UnetGenerator(features=1, n_downs=4)
    with pytest.raises(ModelError) as caught:
        generator.check_size(100, 320)
    assert str(caught.value) == (
        "The generator cannot take images of 100 x 320 (height x width): with n_downs=4 both sides "
        "must be a multiple of 64, the nearest being 64 x 320 or 128 x 320, "
        "or n_downs of at most 0 for this size."
    )
    with pytest.raises(ModelError, match=r"the nearest being 64 x 64\.$"):
        generator.check_size(1, 1)
    # The advice holds.
    with torch.device("meta"):
        UnetGenerator(features=1, n_downs=0).check_size(100, 320)
        with pytest.raises(ModelError):
            UnetGenerator(features=1, n_downs=1).check_size(100, 320)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_nc": 0}, "input_nc is 0; it must be a whole number of at least 1."),
        ({"output_nc": -3}, "output_nc is -3; it must be a whole number of at least 1."),
        ({"features": 0.5}, "features is 0.5; it must be a whole number of at least 1."),
        ({"features": True}, "features is True; it must be a whole number of at least 1."),
        ({"n_downs": -1}, "n_downs is -1; it must be a whole number of at least 0."),
        ({"block_type": "UNetBlock"}, "Did you mean 'UnetBlock'?"),
        (
            {"upsample_type": "bicubic"},
            "'bicubic'. Allowed: Bilinear, Nearest, PixelShuffle, Transposed.",
        ),
        ({"norm": "bacth"}, "norm is 'bacth'. Did you mean 'batch'?"),
        ({"norm": None}, "norm is None. Allowed: batch, instance."),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1."),
        ({"dropout": float("nan")}, "dropout is nan; it must be at least 0 and below 1."),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match="UnetGenerator: .*" + re.escape(message)):
        UnetGenerator(**arguments)


def test_sub_pixels_begin_as_nearest_neighbours() -> None:
    """ICNR: each 2 x 2 pixels are equal at first, and their weights have the usual spread."""
    torch.manual_seed(0)
    layer = SubPixelConv2d(16, 32, bias=False)
    init_weights(layer)
    out = layer(image(2, 16, 5, 7))
    assert out.shape == (2, 32, 10, 14)
    coarse = out[..., ::2, ::2]
    torch.testing.assert_close(out, F.interpolate(coarse, scale_factor=2, mode="nearest"))
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.weight[::4].unique().numel() > 4000


@pytest.mark.parametrize(("height", "width"), [(65, 64), (64, 65), (50, 65), (8, 16), (16, 0)])
def test_an_image_that_does_not_fit_is_refused(height: int, width: int) -> None:
    generator = UnetGenerator(features=1, n_downs=2)
    with pytest.raises(ModelError, match=rf"images of {height} x {width} .* multiple of 16"):
        generator(image(1, 3, height, width))


def test_a_program_for_any_size_can_be_exported() -> None:
    generator = UnetGenerator(features=1, n_downs=1).eval()
    side = torch.export.Dim("side", min=2, max=8)
    images = image(1, 3, 32, 32)
    program = torch.export.export(generator, (images,), dynamic_shapes=({2: 8 * side},))
    taller = image(1, 3, 48, 32)
    # A CPU computes deep levels by other products than the program has.
    torch.testing.assert_close(program.module()(taller), generator(taller), rtol=1e-4, atol=1e-6)
