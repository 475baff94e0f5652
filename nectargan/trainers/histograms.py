"""Histograms of weights, gradients and generated images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nectargan.record.histogram_file import Histogram

# Weights and gradients span many orders of magnitude, so each bin is 10 % wider than the one before
# it, as in TensorFlow. The edges are fixed, so that histograms of epochs and runs can be added.
_GROWING = 1e-12 * 1.1 ** np.arange(774)
PARAMETER_EDGES = np.concatenate([-_GROWING[::-1], [0.0], _GROWING]).astype(np.float32)
IMAGE_EDGES = np.linspace(-1.0, 1.0, 65, dtype=np.float32)


@torch.no_grad()
def training_histograms(
    networks: Mapping[str, nn.Module], generated: Sequence[Tensor]
) -> dict[str, Histogram]:
    """Computes the histograms of the current state of a run. Waits for the device.

    Args:
        networks: The networks by name.
        generated: Generated images, each ``(C, H, W)`` in [-1, 1].

    Returns:
        Histograms by name: ``output/generator``, ``weights/<network>``, and
        ``gradients/<network>`` of the last update, if there was one in this process.
    """
    found = {"output/generator": histogram(generated, IMAGE_EDGES)}
    for name, network in networks.items():
        parameters = list(network.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        found[f"weights/{name}"] = histogram(parameters, PARAMETER_EDGES)
        found[f"gradients/{name}"] = histogram(gradients, PARAMETER_EDGES)
    return {name: each for name, each in found.items() if each is not None}


@torch.no_grad()
def histogram(tensors: Iterable[Tensor], edges: np.ndarray) -> Histogram | None:
    """The histogram of all finite values of tensors, counted on their device.

    Args:
        tensors: Tensors on the same device.
        edges: Ascending float32 edges ``(n + 1,)``. Values outside are counted in the first or last
            bin.

    Returns:
        The histogram without empty bins at its ends; ``None`` if there are no finite values.
    """
    counted: list[Tensor] = []
    moments: list[Tensor] = []
    for tensor in tensors:
        values = tensor.detach().float().flatten()
        values = values[values.isfinite()]
        if not values.numel():
            continue
        on_device = torch.from_numpy(edges).to(values.device)
        bins = torch.bucketize(values, on_device, right=True) - 1
        counted.append(torch.bincount(bins.clamp_(0, len(edges) - 2), minlength=len(edges) - 1))
        moments.append(
            torch.stack([values.min(), values.max(), values.sum(), values.square().sum()])
        )
    if not counted:
        return None
    counts = torch.stack(counted).sum(0).cpu().numpy()
    low, high, *sums = torch.stack(moments).cpu().numpy().astype(np.float64).T
    first, last = np.flatnonzero(counts)[[0, -1]]
    return Histogram(
        edges[first : last + 2],
        counts[first : last + 1],
        np.array([low.min(), high.max(), *(each.sum() for each in sums)]),
    )
