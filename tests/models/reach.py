"""Which pixels of the input an output depends on, found from gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def make_positive(network: nn.Module) -> None:
    """Removes what spreads every pixel over the whole image (the norms) and what clips (ReLUs),
    and makes each weight positive, so that no gradients cancel."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, (nn.InstanceNorm2d, nn.BatchNorm2d, nn.ReLU, nn.LeakyReLU)):
                setattr(module, name, nn.Identity())
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.01)


def reach(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...], row: int, column: int
) -> tuple[int, int, int, int]:
    """First and last row, first and last column of the input of ``shape`` ``(1, C, H, W)`` that the
    output at ``[0, 0, row, column]`` depends on."""
    x = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    function(x)[0, 0, row, column].backward()
    assert x.grad is not None
    seen = x.grad[0, 0] != 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
