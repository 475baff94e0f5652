"""The norms of both networks, by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InstanceNorm2d(nn.InstanceNorm2d):
    """Torch's instance norm, which keeps a single ``channels_last`` image on CUDA as it lies.

    Torch's own copies ``channels_last`` maps into the other order, and every convolution that
    follows copies them back. Over one image, the statistics of a channel are those of a batch
    norm, which computes them in either order.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The normed ``(N, C, H, W)``, with more than one pixel; see ``nn.InstanceNorm2d``."""
        if x.is_cuda and not self.track_running_stats and _is_one_channels_last(x):
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return super().forward(x)


def _is_one_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and len(x) == 1 and x.is_contiguous(memory_format=torch.channels_last)


NORMS: dict[str, type[nn.Module]] = {"instance": InstanceNorm2d, "batch": nn.BatchNorm2d}
