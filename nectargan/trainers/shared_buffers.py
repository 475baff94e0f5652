"""`share_buffers`: all processes get the buffers of the main one."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from nectargan.distributed import World


@torch.no_grad()
def share_buffers(network: nn.Module, world: World) -> None:
    """Gives the buffers of a network the values that they have in the main process.

    Weights are alike in all processes, because their gradients are. A forward pass may change
    buffers, as the estimates of spectral normalization, and the processes may make other numbers of
    passes, of other images. They are those of the main process in a checkpoint, and so are they
    here, or a resumed run would differ.

    Args:
        network: The network, after an update.
        world: The processes.
    """
    if world.size == 1:
        return
    by_dtype = sorted(network.buffers(), key=lambda each: str(each.dtype))
    for _, alike in itertools.groupby(by_dtype, lambda each: each.dtype):
        buffers = list(alike)
        flat = world.broadcast(torch.cat([each.flatten() for each in buffers]))
        parts = torch.split(flat, [each.numel() for each in buffers])
        for each, part in zip(buffers, parts, strict=True):
            each.copy_(part.view_as(each))
