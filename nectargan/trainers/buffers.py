"""`synchronize_buffers`: all processes get the buffers of the main one."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from nectargan.distributed import World


@torch.no_grad()
def synchronize_buffers(network: nn.Module, world: World) -> None:
    """Gives the buffers of a network the values that they have in the main process.

    The weights are equal in all processes, because the gradients are summed. Buffers may differ: a
    forward pass can change them, such as the estimates of spectral normalization, and processes may
    run different numbers of passes. A checkpoint has those of the main process. If the others kept
    theirs, a resumed run would not equal an uninterrupted one.

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
