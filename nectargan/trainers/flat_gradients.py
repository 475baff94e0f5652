"""`FlatGradients`: the gradients of a network in one buffer, which processes sum at once.

An eager step leaves this to `DistributedDataParallel`, which sums some gradients while others are
still computed. A captured step cannot have its hooks, and sums the buffer inside the graph.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from nectargan.distributed import World


class FlatGradients:
    """Sums the gradients of a network over processes, in place of `World.wrapped`.

    The parameters that have a gradient must be the same in all processes, as they are in a step
    that can be captured.

    Args:
        network: The network, on its device. It gets the weights of the main process.
        world: The processes.
    """

    @torch.no_grad()
    def __init__(self, network: nn.Module, world: World) -> None:
        self._world = world
        self._parameters = list(network.parameters())
        # One buffer, unless parameters have several dtypes.
        self._buffers = {
            dtype: torch.zeros(
                sum(each.numel() for each in self._parameters if each.dtype == dtype),
                dtype=dtype,
                device=self._parameters[0].device,
            )
            for dtype in dict.fromkeys(each.dtype for each in self._parameters)
        }
        self._views = []
        places = dict.fromkeys(self._buffers, 0)
        for each in self._parameters:
            # With the strides of the parameter, which a fused optimiser needs.
            strides = torch.empty_like(each, device="meta").stride()
            buffer, place = self._buffers[each.dtype], places[each.dtype]
            self._views.append(buffer.as_strided(each.shape, strides, place))
            places[each.dtype] += each.numel()
        for tensor in itertools.chain(network.parameters(), network.buffers()):
            tensor.copy_(
                world.broadcast(tensor.detach().clone(memory_format=torch.contiguous_format))
            )

    @torch.no_grad()
    def sum(self) -> None:
        """Sums the gradients over all processes; they are then views of the buffer.

        A parameter without a gradient is left without one.
        """
        found = [
            (parameter, view, parameter.grad)
            for parameter, view in zip(self._parameters, self._views, strict=True)
            if parameter.grad is not None
        ]
        torch._foreach_copy_([view for _, view, _ in found], [own for _, _, own in found])
        for buffer in self._buffers.values():
            self._world.all_reduce(buffer)
        for parameter, view, _ in found:
            parameter.grad = view
