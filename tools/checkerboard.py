"""Measures the checkerboard in what generators make of their validation images.

Upsampling by 2 leaves a pattern of period 2, twice in a row one of period 4. In the spectrum along
an axis that is a peak: power at the frequency 1/period above that at the frequencies beside it. Its
mere power would also be lower where detail is missing, and hide the pattern.

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
# Bins from a peak to its neighbours; nearer ones are in the main lobe of the window.
_NEAR = range(3, 7)


def peak(images: Tensor, period: int) -> tuple[float, float]:
    """Power at the frequency 1/period, relative to the geometric mean at its neighbours.

    Args:
        images: ``(N, C, H, W)``; each side at least 8 periods.
        period: In pixels.

    Returns:
        Along the height, and along the width. About 1 where there is no pattern.
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
    """The `peak` of generated images relative to that of real ones, in the axis where it is more.

    Above 1: a pattern that real images do not have. Below 1: less at this frequency than beside it.
    """
    pairs = zip(peak(generated, period), peak(real, period), strict=True)
    return max(made / wanted for made, wanted in pairs)


def validation_images(run: Path, data: str | None) -> tuple[Tensor, Tensor]:
    """What the newest generator of a run makes of its validation images, and their targets; both
    ``(N, C, H, W)`` in [-1, 1]."""
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
@click.option("--data", help="Data set, if it is not where the runs had it.")
def main(runs: tuple[Path, ...], data: str | None) -> None:
    """Print a table of runs: the last validation metrics, and the checkerboard."""
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
