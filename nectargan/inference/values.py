"""The values of pixels as a generator takes them, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nectargan.dataset.paired_dataset import denormalize, normalize
from nectargan.images.mapping import ValueMapping

Values = npt.NDArray[Any]


def to_batch(
    images: Sequence[Values], device: torch.device, mapping: ValueMapping | None = None
) -> Tensor:
    """``(N, C, H, W)`` in [-1, 1], as in training.

    Args:
        images: ``(H, W, C)`` each, of one size and type: with a mapping in its units; without one
            uint8 or uint16 over its whole range, or float32 in [0, 1].
        device: Where the batch goes.
        mapping: That of the inputs in training; ``None`` for plain 8-bit images.
    """
    stacked = np.stack(images)
    if mapping is not None:
        # torch computes nothing in uint16.
        known = stacked.astype(np.int32) if stacked.dtype == np.uint16 else stacked
        units = torch.from_numpy(known).to(device).permute(0, 3, 1, 2)
        return mapping.encode(units).contiguous()
    if stacked.dtype == np.uint8:
        batch = normalize(torch.from_numpy(stacked).to(device))
    elif stacked.dtype == np.uint16:
        wide = torch.from_numpy(stacked.astype(np.int32)).to(device)
        batch = wide.float().div_(32767.5).sub_(1.0)
    else:
        batch = torch.from_numpy(stacked).to(device).mul(2.0).sub_(1.0)
    return batch.permute(0, 3, 1, 2).contiguous()


def from_batch(
    batch: Tensor, dtype: npt.DTypeLike, mapping: ValueMapping | None = None
) -> list[Values]:
    """Undoes `to_batch`, for values of this type; clamps what lies outside.

    Args:
        batch: ``(N, C, H, W)``.
        dtype: The type of the images; that of ``mapping`` if there is one.
        mapping: That of the targets in training; ``None`` for plain 8-bit images.
    """
    if mapping is not None:
        units = mapping.decode(batch).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return list(units.astype(mapping.dtype, copy=False))
    if dtype == np.uint8:
        made = denormalize(batch).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    elif dtype == np.uint16:
        wide = batch.add(1.0).mul_(32767.5).round_().clamp_(0, 65535).to(torch.int32)
        made = wide.permute(0, 2, 3, 1).contiguous().cpu().numpy().astype(np.uint16)
    else:
        scaled = batch.add(1.0).div_(2.0).clamp_(0.0, 1.0)
        made = scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return list(made)
