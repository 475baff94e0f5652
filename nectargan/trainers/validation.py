"""Measures a generator on the validation images, and writes example images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from nectargan.dataset.paired_dataset import denormalize, normalize
from nectargan.distributed import ALONE, World
from nectargan.files import replacing
from nectargan.metrics import METRICS, USUAL, Metric

TensorPair = tuple[Tensor, Tensor]

_GAP = 2  # pixels between the images of a grid


class View(NamedTuple):
    """How images are shown.

    Attributes:
        input_bands: The one or three channels of the input that are shown, by number from 1;
            ``None`` for the first three, or for the first alone if there are fewer.
        target_bands: The channels of target and generated image.
        stretch: Percentiles of the values of each channel that are shown as black and as white;
            ``None`` to show -1 as black and 1 as white. Those of the target are also used for the
            generated image.
    """

    input_bands: Sequence[int] | None = None
    target_bands: Sequence[int] | None = None
    stretch: Sequence[float] | None = None


PLAIN_VIEW = View()


@torch.no_grad()
def validate(
    generate: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, ...]],
    device: torch.device,
    metrics: Sequence[Metric] = tuple(METRICS[name] for name in USUAL),
    world: World = ALONE,
) -> dict[str, float]:
    """Mean of each metric per image, on values scaled to [0, 1].

    Args:
        generate: Maps inputs ``(N, C, H, W)`` to generated images ``(N, C, H, W)``, both float32
            in [-1, 1].
        batches: Batches (input, target), float32 in [-1, 1], on the device; or with a mask, as
            `PairLoader.epoch` yields them. Both images are then alike where a pixel is invalid, the
            metrics of single pixels are means over the valid ones, and images without a valid pixel
            are left out.
        device: The device.
        metrics: The metrics to compute.
        world: The processes that share the images; the mean is that of all.

    Returns:
        ``val/<name>`` of each metric, in their order.
    """
    totals, count = torch.zeros(len(metrics) + 1, device=device), 0
    for source, target, *masks in batches:
        if not len(source):
            continue
        wanted = target.add(1).div(2)
        generated = generate(source).float().add(1).div(2)
        for mask in masks:
            generated = torch.where(mask, generated, wanted)
            totals[-1] -= (~mask.flatten(1).any(1)).sum()
        for index, metric in enumerate(metrics):
            values = metric.measure(generated, wanted, *masks).float().expand(len(target))
            totals[index] += values.sum()
        count += len(target)
    totals[-1] += count
    world.all_reduce(totals)
    names = [f"val/{metric.name}" for metric in metrics]
    return dict(zip(names, (totals[:-1] / totals[-1]).tolist(), strict=True))


@torch.no_grad()
def generate_examples(
    generate: Callable[[Tensor], Tensor], pairs: Sequence[TensorPair], device: torch.device
) -> list[Tensor]:
    """Generates an image for the input of each pair, one by one.

    Args:
        generate: As in `validate`.
        pairs: Images (input, target), each ``(C, H, W)``, uint8 or float32 in [-1, 1].
        device: The device.

    Returns:
        Images ``(C, H, W)``, float32 in [-1, 1], on the device.
    """
    return [generate(encoded(source[None].to(device)))[0].float() for source, _ in pairs]


def encoded(images: Tensor) -> Tensor:
    """Example images as the networks take them: float32 in [-1, 1]."""
    return normalize(images) if images.dtype == torch.uint8 else images


def save_grid(
    pairs: Sequence[TensorPair], generated: Sequence[Tensor], path: Path, view: View = PLAIN_VIEW
) -> None:
    """Writes a PNG with a row for each pair: input, generated, target.

    Args:
        pairs: As in `generate_examples`.
        generated: The result of `generate_examples` for them.
        path: The file.
        view: How the images are shown.
    """
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as part:
        Image.fromarray(_tile(example_rows(pairs, generated, view))).save(part, format="PNG")


def example_rows(
    pairs: Sequence[TensorPair], generated: Sequence[Tensor], view: View = PLAIN_VIEW
) -> list[list[np.ndarray]]:
    """For each pair, input, generated and target as uint8 ``(H, W, 3)``."""
    rows = []
    for (source, target), image in zip(pairs, generated, strict=True):
        target = _bands(target, view.target_bands)
        shown = [_bands(source, view.input_bands), _bands(image, view.target_bands), target]
        limits = [_limits(each, view.stretch) for each in (shown[0], target, target)]
        rows.append([_rgb(each, ends) for each, ends in zip(shown, limits, strict=True)])
    return rows


def _bands(image: Tensor, bands: Sequence[int] | None) -> Tensor:
    """The channels of ``(C, H, W)`` that are shown, on the CPU: one or three of them."""
    if bands is None:
        return image[: 3 if len(image) >= 3 else 1].cpu()
    return image.cpu()[[number - 1 for number in bands]]


def _limits(image: Tensor, stretch: Sequence[float] | None) -> Tensor | None:
    """The values of each channel that are shown as black and as white, ``(2, C, 1, 1)``."""
    if stretch is None:
        return None
    ends = np.percentile(encoded(image).numpy(), stretch, axis=(1, 2))
    return torch.from_numpy(ends).float()[..., None, None]


def _rgb(image: Tensor, limits: Tensor | None) -> np.ndarray:
    """Converts 1 or 3 channels, uint8 or floats in [-1, 1], to uint8 ``(H, W, 3)``."""
    if limits is not None:
        low, high = limits
        image = (encoded(image) - low) / (high - low).clamp_min(1e-6) * 2 - 1
    image = image if image.dtype == torch.uint8 else denormalize(image)
    return image.expand(3, -1, -1).permute(1, 2, 0).numpy()


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
