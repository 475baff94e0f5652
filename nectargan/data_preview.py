"""`write_preview`: one page that shows a data set as the trainer sees it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import islice
from pathlib import Path
from string import Template

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nectargan.build_data import Data, build_data
from nectargan.config.schema import Config
from nectargan.errors import DataError
from nectargan.files import replacing
from nectargan.trainers.validation import View, example_rows
from nectargan.wording import counted

_BINS = 64
_COLOURS = {1: ["gray"], 2: ["gray", "silver"], 3: ["red", "green", "blue"]}
_COLOURS[4] = [*_COLOURS[3], "silver"]
_GRAYS = ["gray"] * 64  # lines of more channels


def write_preview(config: Config, output: Path, count: int) -> int:
    """Writes an HTML page with random training pairs, histograms of their values and all sizes.

    The page needs no other file and no network.

    Args:
        config: The config; its seed chooses the pairs.
        output: The file.
        count: Number of pairs, at most those of an epoch.

    Returns:
        The number of pairs on the page.

    Raises:
        ConfigError: If the options do not fit the data set.
        DataError: If images cannot be used, or the page cannot be written.
    """
    data = build_data(config, torch.device("cpu"))
    pairs = list(islice(_training_pairs(data), count))
    view = View(**dict(config.save.view))
    template = resources.files("nectargan").joinpath("data_preview.html")
    page = Template(template.read_text(encoding="utf-8")).substitute(
        title=html.escape(config.dataloader.dataroot),
        facts=html.escape(_facts(config)),
        pairs="\n".join(_figure(*pair, view) for pair in pairs),
        histograms="\n".join(
            _histogram(name, torch.stack(list(images)))
            for name, images in zip(("Input", "Target"), zip(*pairs, strict=True), strict=True)
        ),
        sizes="\n".join(_row(summary.split, data) for summary in data.splits.values()),
    )
    try:
        with replacing(output) as part:
            part.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DataError(f"'{output}' cannot be written: {error.strerror}.") from None
    return len(pairs)


def _training_pairs(data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    """Input and target of each pair of the first epoch, ``(C, H, W)`` in [-1, 1].

    Masked pixels are NaN.
    """
    for source, target, *masks in data.train.epoch(1):
        for mask in masks:
            source, target = (torch.where(mask != 0, each, torch.nan) for each in (source, target))
        yield from zip(source.cpu(), target.cpu(), strict=True)


def _facts(config: Config) -> str:
    load = config.dataloader.load
    view = config.save.view
    sides = (
        ("input", load.input_nc, view.input_bands),
        ("target", load.output_nc, view.target_bands),
    )
    shown = "".join(
        f" Of {name}, {_channels(bands or (1, 2, 3))} shown."
        for name, count, bands in sides
        if bands or count > 4
    )
    if view.stretch:
        low, high = view.stretch
        shown += f" Black and white are percentiles {low:g} and {high:g} of each channel."
    if load.invalid == "mask":
        shown += " Pixels without values are gray and not counted."
    ranges = f"input_range {load.input_range}, target_range {load.target_range}"
    return (
        f"Direction {config.dataloader.direction}, load_size {load.load_size}, crop_size "
        f"{load.crop_size}, {counted(load.input_nc, 'input channel')}, "
        f"{counted(load.output_nc, 'output channel')}, {ranges}, transfer {load.transfer}, "
        f"seed {config.common.seed}.{shown}"
    )


def _channels(bands: Sequence[int]) -> str:
    numbers = ", ".join(map(str, bands))
    return f"channel {numbers} is" if len(bands) == 1 else f"channels {numbers} are"


def _figure(source: Tensor, target: Tensor, view: View) -> str:
    source, target = (each.nan_to_num(0.0) for each in (source, target))
    ((of_source, _, of_target),) = example_rows([(source, target)], [target], view)
    images = "".join(
        f'<img alt="{name}" src="data:image/png;base64,{_png(image)}">'
        for name, image in (("input", of_source), ("target", of_target))
    )
    return f"<figure>{images}</figure>"


def _png(image: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    is_gray = bool((image == image[..., :1]).all())
    Image.fromarray(image[..., 0] if is_gray else image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _histogram(name: str, images: Tensor) -> str:
    """An SVG with a line for each channel of ``(N, C, H, W)``; masked pixels are not counted."""
    valid = [channel[channel.isfinite()] for channel in images.float().transpose(0, 1)]
    counts = [torch.histc(channel, _BINS, -1, 1) for channel in valid]
    values = torch.cat(valid) if any(map(len, valid)) else torch.zeros(1)
    most = max(float(each.max()) for each in counts) or 1.0
    lines = "".join(
        f'<polyline fill="none" stroke="{colour}" vector-effect="non-scaling-stroke" points="'
        + " ".join(f"{i},{100 - 100 * float(value) / most:.1f}" for i, value in enumerate(channel))
        + '"/>'
        for channel, colour in zip(counts, _COLOURS.get(len(counts), _GRAYS), strict=False)
    )
    low, high, mean = float(values.min()), float(values.max()), float(values.mean())
    caption = f"{name}: from {low:.2f} to {high:.2f}, mean {mean:.2f}"
    view = f'viewBox="0 0 {_BINS - 1} 100" preserveAspectRatio="none"'
    return f"<figure><svg {view}>{lines}</svg><figcaption>{caption}</figcaption></figure>"


def _row(split: str, data: Data) -> str:
    summary = data.splits[split]
    sizes = [f"{height} x {width}" for height, width in (summary.smallest, summary.largest)]
    cells = [split, str(len(summary.pairs)), *sizes]
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
