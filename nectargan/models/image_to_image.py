"""A generator for export, which takes images of any size and returns images of the same size."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nectargan.models.padding import fitting_side, padded

Values = Literal["float", "uint8"]


class ImageToImage(nn.Module):
    """A generator together with its pre- and post-processing, to be exported as one module.

    Args:
        generator: The generator, for images ``(N, C, H, W)`` in [-1, 1]. `network_sizes` gives the
            sizes that it takes. It computes in the dtype of its parameters.
        values: The values of input and output images: "float" for float32 in [0, 1], "uint8" for
            0 to 255.
    """

    def __init__(self, generator: nn.Module, values: Values = "float") -> None:
        super().__init__()
        self.generator = generator
        self.values = values
        self._sizes = network_sizes(generator)
        parameter = next(generator.parameters(), None)
        self._dtype = torch.float32 if parameter is None else parameter.dtype

    def forward(self, images: Tensor) -> Tensor:
        """Generates images ``(N, output_nc, H, W)`` from ``images`` ``(N, input_nc, H, W)``."""
        height, width = images.shape[-2:]
        is_uint8 = self.values == "uint8"
        x = images.float() / 127.5 - 1 if is_uint8 else images * 2 - 1
        fitting = [fitting_side(side, *self._sizes) for side in (height, width)]
        x = padded(x, fitting[0], fitting[1])
        generated: Tensor = self.generator(x.to(self._dtype)).float()
        generated = generated[..., :height, :width]
        if is_uint8:
            return ((generated + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return ((generated + 1) / 2).clamp(0, 1)


def network_sizes(generator: nn.Module) -> tuple[int, int]:
    """The image sizes that a generator takes, in pixels, as ``(multiple, smallest)``.

    Both sides of an image must be a multiple of ``multiple`` and at least ``smallest``. They are
    attributes of the generator; a custom generator without them takes any size.
    """
    return int(getattr(generator, "multiple", 1)), int(getattr(generator, "smallest", 1))
