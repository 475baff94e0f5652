"""Convolutions that mirror the borders, and such by half and double the size that compute in the
way that is faster on a CPU.

oneDNN brings a layer's weights into a layout of its own at each call: 33 MB for a deep level of a
U-Net, which then meet a handful of pixels. There a matrix product of the weights as they lie is up
to five times as fast. Both ways add up the same products, in another order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Pixels of the smaller map, over the batch, up to which the product is faster; see
# docs/performance.md for the measurement.
MOST_PIXELS = 256
# With so few pixels a product of transposed weights reads them in the order in which they lie.
_FEW_PIXELS = 16

_KERNEL = 4


def reflected(x: Tensor, pixels: int) -> Tensor:
    """``x``, ``(N, C, H, W)``, with ``pixels`` more on each side, mirrored at the outermost ones;
    H and W must be larger than ``pixels``."""
    if not torch.are_deterministic_algorithms_enabled():
        return F.pad(x, (pixels, pixels, pixels, pixels), mode="reflect")
    # Torch's own has no deterministic gradient on CUDA.
    for dim in (2, 3):
        size = x.shape[dim]
        before = x.narrow(dim, 1, pixels).flip(dim)
        after = x.narrow(dim, size - pixels - 1, pixels).flip(dim)
        x = torch.cat((before, x, after), dim)
    return x


class PaddedConv2d(nn.Conv2d):
    """A convolution of an image with ``(kernel - 1) // 2`` pixels of zeros, or mirrored, around it.

    Args:
        in_channels: Channels of the input ``(N, in_channels, H, W)``.
        out_channels: Channels of the output.
        kernel: Side of the kernel.
        stride: Pixels from one window to the next.
        bias: Add a bias.
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
    """A 4 x 4 convolution of stride 2, from ``(N, in_channels, H, W)`` to
    ``(N, out_channels, H/2, W/2)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        bias: Add a bias.
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
        output: Tensor = _HalvingProduct.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return output if self.bias is None else output + self.bias[:, None, None]


class DoublingConvTranspose2d(nn.ConvTranspose2d):
    """A transposed 4 x 4 convolution of stride 2: ``(N, in_channels, H, W)`` to
    ``(N, out_channels, 2H, 2W)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        bias: Add a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, _KERNEL, 2, 1, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """See the class."""
        if output_size is not None or not _product_is_faster(x, x.numel() // x.shape[1]):
            return super().forward(in_fast_order(x), output_size)
        output: Tensor = _DoublingProduct.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return output if self.bias is None else output + self.bias[:, None, None]


def in_fast_order(x: Tensor) -> Tensor:
    """``x`` in the order in which a CPU convolves it faster: ``channels_last`` for one image.

    oneDNN makes the gradient of a stride of 2 in that order and copies it into the other one. With
    several images an instance norm takes longer than that copy.
    """
    # In this order: a size that is asked for would be that of an exported network for ever.
    if not _is_on_cpu(x) or x.shape[0] != 1:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def is_eager() -> bool:
    """Whether nobody writes down the operators, for export or compilation, that are called."""
    return not torch.compiler.is_compiling() and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _product_is_faster(x: Tensor, pixels: int) -> bool:
    return _is_on_cpu(x) and 0 < pixels <= MOST_PIXELS


def _is_on_cpu(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.dim() != 4:
        return False
    # Autocast chooses its number format.
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
    """The windows of ``(N, C, H, W)`` as columns: ``(C x 16, N x windows)``."""
    return _joined(F.unfold(maps, _KERNEL, stride=2, padding=1))


def _folded(weight: Tensor, flat: Tensor, batch: int, size: tuple[int, int]) -> Tensor:
    """``(C, batch x pixels)`` times ``weight`` ``(C, D, 4, 4)``, summed into maps of ``size``."""
    matrix = weight.flatten(1)
    few = flat.shape[1] <= _FEW_PIXELS
    product = (flat.t() @ matrix).t() if few else matrix.t() @ flat
    return F.fold(_split(product, batch), size, _KERNEL, stride=2, padding=1)


def _joined(maps: Tensor) -> Tensor:
    """``(N, C, pixels)`` to ``(C, N x pixels)``."""
    return maps[0] if len(maps) == 1 else maps.transpose(0, 1).flatten(1)


def _split(joined: Tensor, batch: int) -> Tensor:
    """``(C, batch x pixels)`` to ``(batch, C, pixels)``."""
    return joined[None] if batch == 1 else joined.view(len(joined), batch, -1).transpose(0, 1)
