"""Convolutions with reflection padding, and 4 x 4 convolutions that are faster on a CPU.

At each call, oneDNN copies the weights of a layer into its own memory layout. At a deep level of a
U-Net this is 33 MB, for a handful of pixels. There, a matrix product that reads the weights in
place is up to five times as fast. Both methods sum the same products, in a different order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The matrix product is faster up to this number of pixels of the smaller map, over the whole batch;
# docs/performance.md has the measurements.
MOST_PIXELS_BY_PRODUCT = 256
# Up to this number of pixels, a product with transposed weights is faster, because it reads the
# weights in memory order.
_FEW_PIXELS = 16

_KERNEL = 4


def reflected(x: Tensor, pixels: int) -> Tensor:
    """Pads ``x``, ``(N, C, H, W)``, by reflection with ``pixels`` pixels on each side.

    H and W must be larger than ``pixels``.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return F.pad(x, (pixels, pixels, pixels, pixels), mode="reflect")
    # F.pad has no deterministic gradient on CUDA.
    for dim in (2, 3):
        size = x.shape[dim]
        before = x.narrow(dim, 1, pixels).flip(dim)
        after = x.narrow(dim, size - pixels - 1, pixels).flip(dim)
        x = torch.cat((before, x, after), dim)
    return x


class PaddedConv2d(nn.Conv2d):
    """A convolution with a padding of ``(kernel - 1) // 2`` pixels, zeros or by reflection.

    Args:
        in_channels: Channels of the input ``(N, in_channels, H, W)``.
        out_channels: Channels of the output.
        kernel: Side of the kernel, in pixels.
        stride: Stride, in pixels.
        bias: Whether to add a bias.
        padding: "zeros" or "reflect".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        bias: bool = True,
        padding: str = "zeros",
    ) -> None:
        border = (kernel - 1) // 2
        mirrors = padding == "reflect"
        super().__init__(
            in_channels, out_channels, kernel, stride, 0 if mirrors else border, bias=bias
        )
        self.reflection = border if mirrors else 0

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return super().forward(reflected(x, self.reflection) if self.reflection else x)


class HalvingConv2d(PaddedConv2d):
    """A 4 x 4 convolution with stride 2, from ``(N, in_channels, H, W)`` to
    ``(N, out_channels, H/2, W/2)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        bias: Whether to add a bias.
        padding: "zeros" or "reflect".
    """

    def __init__(
        self, in_channels: int, out_channels: int, bias: bool = True, padding: str = "zeros"
    ) -> None:
        super().__init__(in_channels, out_channels, _KERNEL, 2, bias, padding)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if self.reflection:
            return super().forward(in_fast_order(x))
        height, width = x.shape[-2:]
        if height % 2 or width % 2 or not _product_is_faster(x, x.shape[0] * (height * width // 4)):
            return super().forward(in_fast_order(x))
        output: Tensor = _HalvingProduct.apply(x, self.weight)  # type: ignore[no-untyped-call]  # untyped in torch
        return output if self.bias is None else output + self.bias[:, None, None]


class DoublingConvTranspose2d(nn.ConvTranspose2d):
    """A transposed 4 x 4 convolution with stride 2, from ``(N, in_channels, H, W)`` to
    ``(N, out_channels, 2H, 2W)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        bias: Whether to add a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, _KERNEL, 2, 1, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """See the class."""
        if output_size is not None or not _product_is_faster(x, x.numel() // x.shape[1]):
            return super().forward(in_fast_order(x), output_size)
        output: Tensor = _DoublingProduct.apply(x, self.weight)  # type: ignore[no-untyped-call]  # untyped in torch
        return output if self.bias is None else output + self.bias[:, None, None]


def in_fast_order(x: Tensor) -> Tensor:
    """Returns ``x`` in the memory format in which a CPU convolves it faster.

    For one image this is ``channels_last``: oneDNN computes the gradient of a convolution with
    stride 2 in this format and otherwise copies it. For several images, instance norm in this
    format costs more than the copy.
    """
    # The size is read last. While a network is exported, reading it would make it a constant.
    if not _is_on_cpu(x) or x.shape[0] != 1:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def is_eager() -> bool:
    """Whether the code runs normally, not under compilation, export or tracing."""
    return not torch.compiler.is_compiling() and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _product_is_faster(x: Tensor, pixels: int) -> bool:
    return _is_on_cpu(x) and 0 < pixels <= MOST_PIXELS_BY_PRODUCT


def _is_on_cpu(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.dim() != 4:
        return False
    # Under autocast, the dtype of the convolution is not that of x.
    return is_eager() and not torch.is_autocast_enabled("cpu")


class _HalvingProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        height, width = x.shape[-2:]
        output = _split(weight.flatten(1) @ _columns(x), len(x))
        return output.reshape(len(x), -1, height // 2, width // 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        flat = _joined(gradient.flatten(2))
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _folded(weight, flat, len(x), x.shape[-2:])
        if ctx.needs_input_grad[1]:
            of_weight = (flat @ _columns(x).t()).view_as(weight)
        return of_x, of_weight


class _DoublingProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        height, width = x.shape[-2:]
        return _folded(weight, _joined(x.flatten(2)), len(x), (2 * height, 2 * width))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        columns = _columns(gradient)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _split(weight.flatten(1) @ columns, len(x)).reshape(x.shape)
        if ctx.needs_input_grad[1]:
            of_weight = (_joined(x.flatten(2)) @ columns.t()).view_as(weight)
        return of_x, of_weight


def _columns(maps: Tensor) -> Tensor:
    """The 4 x 4 windows of ``(N, C, H, W)`` as columns ``(C * 16, N * windows)``."""
    return _joined(F.unfold(maps, _KERNEL, stride=2, padding=1))


def _folded(weight: Tensor, flat: Tensor, batch: int, size: tuple[int, int]) -> Tensor:
    """Multiplies ``(C, batch * pixels)`` by ``weight`` ``(C, D, 4, 4)`` and sums into maps of
    ``size``."""
    matrix = weight.flatten(1)
    few = flat.shape[1] <= _FEW_PIXELS
    product = (flat.t() @ matrix).t() if few else matrix.t() @ flat
    return F.fold(_split(product, batch), size, _KERNEL, stride=2, padding=1)


def _joined(maps: Tensor) -> Tensor:
    """Reshapes ``(N, C, pixels)`` to ``(C, N * pixels)``."""
    return maps[0] if len(maps) == 1 else maps.transpose(0, 1).flatten(1)


def _split(joined: Tensor, batch: int) -> Tensor:
    """Reshapes ``(C, batch * pixels)`` to ``(batch, C, pixels)``."""
    return joined[None] if batch == 1 else joined.view(len(joined), batch, -1).transpose(0, 1)
