from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nectargan.models.convolutions import (
    MOST_PIXELS_BY_PRODUCT,
    DoublingConvTranspose2d,
    HalvingConv2d,
    _DoublingProduct,
    _HalvingProduct,
    in_fast_order,
)
from nectargan.models.patchgan import PatchGANDiscriminator
from nectargan.models.unet import UnetGenerator

Layer = HalvingConv2d | DoublingConvTranspose2d

# (N, H, W): on both sides of the limit between few and many pixels, not square, several images.
SIZES = [(1, 2, 2), (1, 2, 6), (1, 8, 8), (3, 4, 2), (1, 16, 16), (5, 4, 12)]


def results(call: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, and gradients of input, weight and bias, for a gradient that is not constant."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = call(x)
    gradient = torch.linspace(-1, 1, y.numel()).view(y.shape)
    y.backward(gradient.to(y.dtype))
    gradients = [p.grad for p in (x, *layer.parameters())]
    return [y.detach(), *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [HalvingConv2d, DoublingConvTranspose2d])
def test_the_product_is_the_convolution(
    kind: type[Layer], bias: bool, size: tuple[int, int, int]
) -> None:
    """Against torch's operator in float64: as near as float32 and its sums allow."""
    torch.manual_seed(0)
    layer = kind(24, 8, bias=bias)
    x = torch.randn(size[0], 24, *size[1:])
    found = results(layer, layer, x)
    wide = kind(24, 8, bias=bias).double()
    wide.load_state_dict(layer.state_dict())
    function = F.conv2d if kind is HalvingConv2d else F.conv_transpose2d
    wanted = results(
        lambda x: function(x, wide.weight, wide.bias, stride=2, padding=1), wide, x.double()
    )
    assert len(found) == len(wanted) == 3 + bias
    for ours, exact in zip(found, wanted, strict=True):
        assert (ours - exact).abs().max() <= 2e-6 * exact.abs().max()


@pytest.mark.parametrize("pixels", [4, 20])
@pytest.mark.parametrize("function", [_HalvingProduct, _DoublingProduct])
def test_gradients_of_gradients(function: Any, pixels: int) -> None:
    torch.manual_seed(0)
    shape = (2, 3, 4, pixels) if function is _HalvingProduct else (2, 3, 2, pixels // 2)
    inputs = (torch.randn(shape, dtype=torch.double), torch.randn(3, 3, 4, 4, dtype=torch.double))
    for tensor in inputs:
        tensor.requires_grad_()
    assert gradcheck(function.apply, inputs)
    assert gradgradcheck(function.apply, inputs)


def operators(network: nn.Module, x: Tensor) -> set[str]:
    with FlopCounterMode(display=False) as counter:
        network(x)
    return {str(name).split(".")[1] for name in counter.get_flop_counts()["Global"]}


def test_the_way_is_chosen_by_the_pixels_of_the_batch() -> None:
    side = int(MOST_PIXELS_BY_PRODUCT**0.5)
    for layer, factor in ((HalvingConv2d(4, 4), 2), (DoublingConvTranspose2d(4, 4), 1)):
        least = torch.zeros(1, 4, side * factor, side * factor)
        assert operators(layer, least) == {"mm"}
        assert operators(layer, least.expand(2, -1, -1, -1)) == {"convolution"}
        assert operators(layer, torch.zeros(4, 4, side * factor // 2, side * factor // 2)) == {"mm"}


def test_sizes_that_do_not_halve_and_single_images_take_the_operator() -> None:
    layer = HalvingConv2d(2, 2)
    assert layer(torch.zeros(1, 2, 5, 4)).shape == (1, 2, 2, 2)
    assert layer(torch.zeros(2, 4, 4)).shape == (2, 2, 2)
    up = DoublingConvTranspose2d(2, 2)
    assert up(torch.zeros(2, 4, 4)).shape == (2, 8, 8)
    assert up(torch.zeros(1, 2, 4, 4), output_size=[9, 9]).shape == (1, 2, 9, 9)


def test_only_eager_float32_on_a_cpu_takes_products() -> None:
    layer, x = DoublingConvTranspose2d(4, 4), torch.zeros(1, 4, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert operators(layer, x) == {"convolution"}
    assert operators(layer.double(), x.double()) == {"convolution"}
    assert operators(layer.to("meta", torch.float32), x.to("meta")) == {"convolution"}


def test_an_exported_network_has_the_operators() -> None:
    network = UnetGenerator(features=4, n_downs=1).eval()
    x = torch.rand(1, 3, 16, 16)
    program = torch.export.export(network, (x,))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"aten.conv2d.default", "aten.conv_transpose2d.input"} <= called
    assert not any("unfold" in name or "im2col" in name or "mm" in name for name in called)
    torch.testing.assert_close(program.module()(x), network(x))


def test_weights_are_named_and_laid_out_as_ever() -> None:
    for ours, plain in (
        (HalvingConv2d(3, 5), nn.Conv2d(3, 5, 4, 2, 1)),
        (DoublingConvTranspose2d(3, 5), nn.ConvTranspose2d(3, 5, 4, 2, 1)),
    ):
        plain.load_state_dict(ours.state_dict())
        ours.load_state_dict(plain.state_dict())
        shapes = {name: p.shape for name, p in ours.state_dict().items()}
        assert shapes == {name: p.shape for name, p in plain.state_dict().items()}


@pytest.mark.parametrize("images", [1, 2])
def test_one_float32_image_is_laid_out_as_channels_last(images: int) -> None:
    x = torch.randn(images, 3, 128, 128)
    y = HalvingConv2d(3, 4)(x)
    assert y.is_contiguous(memory_format=torch.channels_last) == (images == 1)
    assert in_fast_order(x.double()).is_contiguous()


@pytest.mark.parametrize("images", [1, 2])
def test_both_networks_compute_what_they_do_in_float64(images: int) -> None:
    """Float64 takes torch's own operators, in torch's own order, throughout."""
    torch.manual_seed(0)
    generator = UnetGenerator(features=4, n_downs=2, dropout=0.0)
    discriminator = PatchGANDiscriminator(base_channels=4, n_layers=2)
    x = torch.rand(images, 3, 128, 128) * 2 - 1
    found: list[list[Tensor]] = []
    for dtype in (torch.float32, torch.float64):
        networks = copy.deepcopy(generator).to(dtype), copy.deepcopy(discriminator).to(dtype)
        generated = networks[0](x.to(dtype))
        logits = networks[1](x.to(dtype), generated)
        F.softplus(-logits).mean().backward()
        parameters = [p for network in networks for p in network.parameters()]
        found.append([generated, logits, *(p.grad for p in parameters if p.grad is not None)])
    assert len(found[0]) == 2 + len(parameters)
    for ours, exact in zip(*found, strict=True):
        scale = float(exact.detach().abs().max())
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4 * scale)
