"""How alike two images are."""

from __future__ import annotations

import torch
from torch import Tensor

SSIM_WINDOW = 11  # sides of the smallest image that has a structural similarity


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """The structural similarity ``(N,)`` of images in [0, 1], as Wang et al. 2004 define it: the
    mean over all windows, 11 x 11 Gaussians of 1.5 pixels, that lie within the image."""
    from kornia.metrics import ssim as kornia_ssim

    # In float64 on CUDA: a convolution of float32 may be rounded to TF32 there, and the variances
    # within SSIM are small differences of large numbers.
    exact = torch.float64 if x.is_cuda else torch.float32
    values: Tensor = kornia_ssim(x.to(exact), y.to(exact), SSIM_WINDOW, eps=0.0, padding="valid")
    return values.float().mean(dim=(1, 2, 3))
