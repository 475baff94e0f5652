"""Heat maps of the losses that are computed per pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nectargan.config.objectives import ADVERSARIAL
from nectargan.files import replacing
from nectargan.losses.lm_data import LMLoss
from nectargan.losses.masking import PER_PIXEL, WeightedPixels, as_map
from nectargan.trainers.validation import PLAIN_VIEW, TensorPair, View, encoded, example_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL, _BAR = 1.6, 0.7  # inches: longer side of an image; title and scale
_FONT, _DPI = 9, 160
_TOP_OF_SCALE = 99.5  # percentile; a single bright pixel must not make all others black


def per_pixel_losses(losses: Mapping[str, LMLoss]) -> dict[str, nn.Module]:
    """The losses that compare images pixel by pixel, as modules that return a map.

    They are recognized by the class of their function, not by their names.
    """
    forms: dict[str, nn.Module] = {}
    for name, loss in losses.items():
        function: object = loss.function
        if isinstance(function, WeightedPixels):
            function = function.function
        if isinstance(function, PER_PIXEL) and name not in ADVERSARIAL:
            forms[name] = as_map(function)
    return forms


@torch.no_grad()
def loss_maps(
    losses: Mapping[str, LMLoss], pairs: Sequence[TensorPair], generated: Sequence[Tensor]
) -> dict[str, list[np.ndarray]]:
    """The raw loss of each pixel, averaged over its channels.

    Args:
        losses: The losses of the run.
        pairs: uint8 images (input, target), each ``(C, H, W)``.
        generated: Generated images of these pairs, float32 ``(C, H, W)`` in [-1, 1].

    Returns:
        By name of the loss, a map ``(H, W)`` for each pair; its mean is the loss.
    """
    maps: dict[str, list[np.ndarray]] = {}
    for name, form in per_pixel_losses(losses).items():
        for (_, target), image in zip(pairs, generated, strict=True):
            cost = form(image[None], encoded(target[None].to(image.device)))
            # A custom subclass may still return a scalar.
            if cost.shape == image[None].shape:
                maps.setdefault(name, []).append(cost[0].float().mean(0).cpu().numpy())
    return maps


def save_loss_maps(
    maps: Mapping[str, Sequence[np.ndarray]],
    pairs: Sequence[TensorPair],
    generated: Sequence[Tensor],
    path: Path,
    view: View = PLAIN_VIEW,
) -> None:
    """Writes a PNG with a row for each pair: input, generated, target, and a heat map of each loss.

    The maps of a loss share one scale, which is shown below them.

    Args:
        maps: The result of `loss_maps`.
        pairs: As in `loss_maps`.
        generated: As in `loss_maps`.
        path: The file.
        view: How the images are shown.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    rows = example_rows(pairs, generated, view)
    figure, grid = _grid(len(rows), 3 + len(maps), rows[0][0].shape)
    for column, title in enumerate(("input", "generated", "target")):
        grid[0, column].set_title(title, fontsize=_FONT, loc="left")
        for axes, images in zip(grid, rows, strict=True):
            axes[column].imshow(images[column])
    for (name, values), column in zip(maps.items(), grid.T[3:], strict=True):
        column[0].set_title(name, fontsize=_FONT, loc="left")
        scale = {"cmap": "inferno", "vmin": 0.0, "vmax": _limit(values)}
        shown = [axes.imshow(each, **scale) for axes, each in zip(column, values, strict=True)]
        bar = figure.colorbar(
            shown[0], ax=list(column), location="bottom", extend="max", pad=0.02, aspect=14
        )
        bar.set_label("raw loss of a pixel", fontsize=_FONT - 2)
        bar.ax.tick_params(labelsize=_FONT - 2)
        bar.locator = MaxNLocator(3)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=_DPI)


def _grid(rows: int, columns: int, shape: Sequence[int]) -> tuple[Figure, Any]:
    """A figure with axes ``(rows, columns)`` without frames, for images ``(H, W, ...)``."""
    from matplotlib.figure import Figure

    height, width = (_CELL * side / max(shape[:2]) for side in shape[:2])
    size = (columns * width, rows * height + _BAR)
    figure = Figure(figsize=size, layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


def _limit(values: Sequence[np.ndarray]) -> float:
    """The upper limit of the scale of all maps of a loss."""
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    return (float(np.percentile(finite, _TOP_OF_SCALE)) if finite.size else 0.0) or 1.0
