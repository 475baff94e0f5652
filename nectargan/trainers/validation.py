"""Measures a generator on the validation images, and writes example images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from nectargan.dataset.paired_dataset import denormalize, normalize
from nectargan.files import replacing
from nectargan.metrics import METRICS, USUAL, Metric

TensorPair = tuple[Tensor, Tensor]

_GAP = 2  # pixels between the images of a grid


@torch.no_grad()
def validate(
    generate: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    metrics: Sequence[Metric] = tuple(METRICS[name] for name in USUAL),
) -> dict[str, float]:
    """Mean of each metric per image, on values scaled to [0, 1].

    Args:
        generate: Maps inputs ``(N, C, H, W)`` to generated images ``(N, C, H, W)``, both float32
            in [-1, 1].
        batches: Batches (input, target), float32 in [-1, 1], on the device.
        device: The device.
        metrics: The metrics to compute.

    Returns:
        ``val/<name>`` of each metric, in their order.
    """
    totals, count = torch.zeros(len(metrics), device=device), 0
    for source, target in batches:
        wanted = target.add(1).div(2)
        generated = generate(source).float().add(1).div(2)
        for index, metric in enumerate(metrics):
            totals[index] += metric.function(generated, wanted).float().expand(len(target)).sum()
        count += len(target)
    names = [f"val/{metric.name}" for metric in metrics]
    return dict(zip(names, (totals / count).tolist(), strict=True))


@torch.no_grad()
def generate_examples(
    generate: Callable[[Tensor], Tensor], pairs: Sequence[TensorPair], device: torch.device
) -> list[Tensor]:
    """Generates an image for the input of each pair, one by one.

    Args:
        generate: As in `validate`.
        pairs: uint8 images (input, target), each ``(C, H, W)``.
        device: The device.

    Returns:
        Images ``(C, H, W)``, float32 in [-1, 1], on the device.
    """
    return [generate(normalize(source[None].to(device)))[0].float() for source, _ in pairs]


def save_grid(pairs: Sequence[TensorPair], generated: Sequence[Tensor], path: Path) -> None:
    """Writes a PNG with a row for each pair: input, generated, target.

    Args:
        pairs: As in `generate_examples`.
        generated: The result of `generate_examples` for them.
        path: The file.
    """
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as part:
        Image.fromarray(_tile(example_rows(pairs, generated))).save(part, format="PNG")


def example_rows(
    pairs: Sequence[TensorPair], generated: Sequence[Tensor]
) -> list[list[np.ndarray]]:
    """For each pair, input, generated and target as uint8 ``(H, W, 3)``."""
    return [
        [_rgb(source), _rgb(denormalize(image).cpu()), _rgb(target)]
        for (source, target), image in zip(pairs, generated, strict=True)
    ]


def _rgb(image: Tensor) -> np.ndarray:
    """Converts ``(C, H, W)`` uint8 with 1 to 4 channels to ``(H, W, 3)``, without alpha."""
    colours = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return colours.permute(1, 2, 0).numpy()


def _tile(rows: list[list[np.ndarray]]) -> np.ndarray:
    height, width, _ = rows[0][0].shape
    grid = np.full(
        ((height + _GAP) * len(rows) - _GAP, (width + _GAP) * len(rows[0]) - _GAP, 3), 255, np.uint8
    )
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + _GAP), j * (width + _GAP)
            grid[top : top + height, left : left + width] = image
    return grid


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """A context manager that puts a network in eval mode."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
