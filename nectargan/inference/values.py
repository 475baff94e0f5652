"""The values of pixels as a generator takes them, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nectargan.dataset.paired_dataset import denormalize, normalize

Values = npt.NDArray[Any]


def to_batch(images: Sequence[Values], device: torch.device) -> Tensor:
    """``(N, C, H, W)`` in [-1, 1], as in training.

    Args:
        images: ``(H, W, C)`` each, of one size and type: uint8 or uint16 over its whole range, or
            float32 in [0, 1].
        device: Where the batch goes.
    """
    stacked = np.stack(images)
    if stacked.dtype == np.uint8:
        batch = normalize(torch.from_numpy(stacked).to(device))
    elif stacked.dtype == np.uint16:
        wide = torch.from_numpy(stacked.astype(np.int32)).to(device)
        batch = wide.float().div_(32767.5).sub_(1.0)
    else:
        batch = torch.from_numpy(stacked).to(device).mul(2.0).sub_(1.0)
    return batch.permute(0, 3, 1, 2).contiguous()


def from_batch(batch: Tensor, dtype: npt.DTypeLike) -> list[Values]:
    """Undoes `to_batch`, for values of this type; clamps what lies outside."""
    if dtype == np.uint8:
        made = denormalize(batch).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    elif dtype == np.uint16:
        wide = batch.add(1.0).mul_(32767.5).round_().clamp_(0, 65535).to(torch.int32)
        made = wide.permute(0, 2, 3, 1).contiguous().cpu().numpy().astype(np.uint16)
    else:
        scaled = batch.add(1.0).div_(2.0).clamp_(0.0, 1.0)
        made = scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return list(made)
