"""Trains networks on one data set and prints a Markdown table: parameters, metrics of validation,
the checkerboard at periods of 2 and 4 pixels, time of a step.

    python tools/compare_networks.py -d demo/data --epochs 30 > table.md

Every row is the config "demo" with some options changed. A finished row is printed at once.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click
import torch
from checkerboard import PERIODS, checkerboard

from nectargan import load_config, load_metrics
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from nectargan.trainers.validation import evaluating

METRICS = ("val/l1", "val/psnr", "val/ssim")
SPEED = "time/images_per_second"

_MULTISCALE = {"name": "multiscale", "n_scales": 3, "base_channels": 24, "n_layers": 2}
_MATCHING = {"train.discriminator": _MULTISCALE, "train.loss.G_FM": 10.0}
_AS_V023 = {
    "train.generator.padding": "reflect",
    "train.discriminator.padding": "reflect",
    "train.discriminator.init": "default",
}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "U-Net, Nearest": {},
    "U-Net, Bilinear": {"train.generator.upsample_type": "Bilinear"},
    "U-Net, PixelShuffle": {"train.generator.upsample_type": "PixelShuffle"},
    "U-Net, Transposed": {"train.generator.upsample_type": "Transposed"},
    "U-Net, reflect; D reflect, init default": _AS_V023,
    "U-Net; D spectral norm": {"train.discriminator.spectral_norm": True},
    "U-Net; D pixel": {"train.discriminator": {"name": "pixel", "base_channels": 24}},
    "U-Net; D multi-scale": {"train.discriminator": _MULTISCALE},
    "U-Net; D multi-scale, G_FM": _MATCHING,
    "ResNet, 6 blocks": {"train.generator": {"name": "resnet", "features": 24, "n_blocks": 6}},
    "ResNet, 9 blocks": {"train.generator": {"name": "resnet", "features": 24}},
    "pix2pixHD; D multi-scale, G_FM": {
        "train.generator": {"name": "pix2pixhd", "features": 12},
        **_MATCHING,
    },
}


class Figures(NamedTuple):
    """What is told of a variant.

    Attributes:
        parameters: Of the generator and of the discriminator.
        metrics: In the order of `METRICS`, after the last epoch.
        peaks: The `checkerboard`, in the order of `PERIODS`.
        step: Median over the epochs, in milliseconds; waiting for images included.
    """

    parameters: tuple[int, int]
    metrics: list[float]
    peaks: list[float]
    step: float

    def cells(self) -> list[str]:
        """The figures as they are printed."""
        return [
            *(f"{count:,}" for count in self.parameters),
            *(f"{value:#.4g}" for value in self.metrics),
            *(f"{peak:.2f}" for peak in self.peaks),
            f"{self.step:.0f}",
        ]


HEADINGS = ["network", "G", "D", "L1", "PSNR, dB", "SSIM"]
HEADINGS += [f"period {period}" for period in PERIODS] + ["step, ms"]


@torch.no_grad()
def checkerboards(trainer: Pix2pixTrainer) -> list[float]:
    """`checkerboard` of what is generated for the validation images, at each of `PERIODS`."""
    val = trainer.data.val
    if val is None:
        raise click.UsageError("The data set has no validation images.")
    generated, real = [], []
    with evaluating(trainer.generator):
        for source, target in val.epoch():
            generated.append(trainer.generate(source).float().cpu())
            real.append(target.float().cpu())
    ours, theirs = torch.cat(generated), torch.cat(real)
    return [checkerboard(ours, theirs, period) for period in PERIODS]


def measure(options: Mapping[str, Any]) -> Figures:
    """Trains the config "demo" with some options changed."""
    trainer = Pix2pixTrainer(load_config("demo", options))
    table = load_metrics(trainer.train())
    values = {name: rows["value"] for name, rows in table.groupby("metric")}
    generator, discriminator = (
        sum(parameter.numel() for parameter in network.parameters())
        for network in (trainer.generator, trainer.discriminator)
    )
    speed = statistics.median(values[SPEED])
    return Figures(
        (generator, discriminator),
        [float(values[name].iloc[-1]) for name in METRICS],
        checkerboards(trainer),
        1000 * trainer.config.dataloader.batch_size / speed,
    )


def line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


@click.command(help=__doc__, no_args_is_help=True)
@click.option("-d", "--dataroot", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True)
@click.option("--only", "texts", multiple=True, help="Only the rows that contain this text.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(dataroot: Path, epochs: int, texts: tuple[str, ...], seed: int) -> None:
    """See the module."""
    rows = {
        name: changes
        for name, changes in VARIANTS.items()
        if not texts or any(text in name for text in texts)
    }
    if not rows:
        raise click.UsageError(f"No row contains that. There are: {'; '.join(VARIANTS)}.")
    click.echo(line(HEADINGS))
    click.echo(line("---" for _ in HEADINGS))
    with TemporaryDirectory() as folder:
        for name, changes in rows.items():
            options = {
                **changes,
                "train.generator.learning_rate.epochs": (epochs + 1) // 2,
                "train.generator.learning_rate.epochs_decay": epochs // 2,
                "dataloader.dataroot": str(dataroot),
                "common.output_directory": folder,
                "common.seed": seed,
                "logging.tensorboard.enable": False,
                "logging.mlflow.enable": False,
                "save.save_model": False,
                "save.save_examples": False,
            }
            with redirect_stdout(sys.stderr):
                figures = measure(options)
            click.echo(line([name, *figures.cells()]))


if __name__ == "__main__":
    main()
