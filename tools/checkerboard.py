"""Measures the checkerboard pattern in generated validation images.

Upsampling by 2 can cause a pattern with a period of 2 pixels; two upsamplings in a row, of 4
pixels. In the spectrum along an axis, the pattern is a peak: the power at the frequency 1/period is
higher than at the neighboring frequencies. The power alone would not be a good measure, because it
is also lower in images with less detail.

python tools/checkerboard.py runs/demo_v1 runs/demo_v2
python tools/checkerboard.py runs/demo_v1 --data demo/data
"""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd
import torch
from torch import Tensor

from nectargan.build_data import build_data
from nectargan.config.config_manager import ConfigManager
from nectargan.runs.checkpoint import load_checkpoint, load_generator

PERIODS = (2, 4)
_METRICS = ("val/l1", "val/psnr", "val/ssim")
# Distances in bins from a peak to its neighbors; nearer bins are in the main lobe of the window.
_NEAR = range(3, 7)


def peak(images: Tensor, period: int) -> tuple[float, float]:
    """The power at the frequency 1/period relative to the geometric mean of its neighbors.

    Args:
        images: ``(N, C, H, W)``; each side at least 8 periods.
        period: The period in pixels.

    Returns:
        The ratios along the height and along the width; about 1 if there is no pattern.
    """
    height, width = (_peak_along(images.double().movedim(axis, -1), period) for axis in (-2, -1))
    return height, width


def _peak_along(rows: Tensor, period: int) -> float:
    size = rows.shape[-1] // period * period
    if size < 8 * period:
        raise ValueError(f"A side of {rows.shape[-1]} pixels is too short for period {period}.")
    rows = rows[..., :size]
    window = torch.hann_window(size, dtype=rows.dtype, device=rows.device)
    spectrum = torch.fft.fft((rows - rows.mean(-1, keepdim=True)) * window)
    power = spectrum.abs().square().flatten(0, -2).mean(0)
    place = size // period
    near = [(place + side * distance) % size for distance in _NEAR for side in (-1, 1)]
    return float(power[place] / power[near].log().mean().exp())


def checkerboard(generated: Tensor, real: Tensor, period: int) -> float:
    """The `peak` of generated images relative to that of real ones; the larger one of both axes.

    A value above 1 means a pattern that real images do not have.
    """
    pairs = zip(peak(generated, period), peak(real, period), strict=True)
    return max(found / wanted for found, wanted in pairs)


def validation_images(run: Path, data: str | None) -> tuple[Tensor, Tensor]:
    """The images that the newest generator of a run generates for the validation images, and the
    targets; both ``(N, C, H, W)`` in [-1, 1]."""
    overrides = [] if data is None else [("dataloader.dataroot", data)]
    config = ConfigManager(load_checkpoint(run)["config"], overrides).data
    loader = build_data(config, torch.device("cpu")).val
    if loader is None:
        raise click.ClickException(f"'{config.dataloader.dataroot}' has no validation images.")
    generator = load_generator(run)
    with torch.no_grad():
        made = [(generator(source), target) for source, target in loader.epoch()]
    return torch.cat([image for image, _ in made]), torch.cat([target for _, target in made])


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", help="Data set, if it was moved.")
def main(runs: tuple[Path, ...], data: str | None) -> None:
    """Print a table of runs: their last validation metrics and the checkerboard pattern."""
    click.echo(f"| run | L1 | PSNR | SSIM | {' | '.join(f'period {p}' for p in PERIODS)} |")
    click.echo("|---|" + "---|" * (len(_METRICS) + len(PERIODS)))
    for run in runs:
        table = pd.read_csv(run / "metrics.csv").groupby("metric")["value"].last()
        generated, real = validation_images(run, data)
        values = [f"{table[name]:.4g}" for name in _METRICS]
        values += [f"{checkerboard(generated, real, period):.2f}" for period in PERIODS]
        click.echo(f"| {run.name} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
