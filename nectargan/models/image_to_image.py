"""A generator as others are to use it: images in, images out, both in [0, 1]."""

from __future__ import annotations

from torch import Tensor, nn


class ImageToImage(nn.Module):
    """A generator with its pre- and post-processing inside.

    Args:
        generator: From ``(N, C, H, W)`` to the same, in [-1, 1].
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, images: Tensor) -> Tensor:
        """Generated images ``(N, output_nc, H, W)``, float32 in [0, 1], for ``images``
        ``(N, input_nc, H, W)`` alike."""
        generated: Tensor = self.generator(images * 2 - 1)
        return ((generated + 1) / 2).clamp(0, 1)
