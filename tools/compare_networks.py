"""Trains networks on one data set and prints a Markdown table: parameters, validation metrics, the
checkerboard pattern at periods of 2 and 4 pixels, and the time of a step.

    python tools/compare_networks.py -d demo/data --epochs 30 > table.md

Every row is the config "demo" with some options changed. The steps of all rows are timed first, in
turn. A finished row is printed at once.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click
import torch
from benchmarking import interleaved
from checkerboard import PERIODS, checkerboard
from step_variants import Stopwatch, our_steps

from nectargan import Config, load_config, load_metrics
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from nectargan.trainers.validation import evaluating

METRICS = ("val/l1", "val/psnr", "val/ssim")
ROUNDS = 24
WARM_UP = 4  # rounds that are not counted

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
    """The results of a variant.

    Attributes:
        parameters: Number of parameters of the generator and of the discriminator.
        metrics: The metrics after the last epoch, in the order of `METRICS`.
        peaks: The results of `checkerboard`, in the order of `PERIODS`.
    """

    parameters: tuple[int, int]
    metrics: list[float]
    peaks: list[float]

    def cells(self) -> list[str]:
        """The results as text."""
        return [
            *(f"{count:,}" for count in self.parameters),
            *(f"{value:#.4g}" for value in self.metrics),
            *(f"{peak:.2f}" for peak in self.peaks),
        ]


HEADINGS = ["network", "G", "D", "L1", "PSNR, dB", "SSIM"]
HEADINGS += [f"period {period}" for period in PERIODS] + ["step, ms"]


@torch.no_grad()
def checkerboards(trainer: Pix2pixTrainer) -> list[float]:
    """`checkerboard` of the generated validation images for each of `PERIODS`."""
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


def step_times(configs: Mapping[str, Config]) -> dict[str, float]:
    """Median milliseconds per step of each config; a round runs one step of each."""
    steps = {
        name: our_steps(trainer, Stopwatch(trainer.device.type == "cuda"))
        for name, trainer in ((name, Pix2pixTrainer(config)) for name, config in configs.items())
    }
    seconds = interleaved({name: partial(next, step) for name, step in steps.items()}, ROUNDS)
    return {name: 1000 * statistics.median(times[WARM_UP:]) for name, times in seconds.items()}


def measure(config: Config) -> Figures:
    """Trains with ``config``."""
    trainer = Pix2pixTrainer(config)
    table = load_metrics(trainer.train())
    values = {name: rows["value"] for name, rows in table.groupby("metric")}
    generator, discriminator = (
        sum(parameter.numel() for parameter in network.parameters())
        for network in (trainer.generator, trainer.discriminator)
    )
    return Figures(
        (generator, discriminator),
        [float(values[name].iloc[-1]) for name in METRICS],
        checkerboards(trainer),
    )


def line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


@click.command(help=__doc__, no_args_is_help=True)
@click.option("-d", "--dataroot", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True)
@click.option("--only", "texts", multiple=True, help="Only the rows that contain this text.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--only-times", is_flag=True, help="Only measure the time of the steps, without training."
)
def main(dataroot: Path, epochs: int, texts: tuple[str, ...], seed: int, only_times: bool) -> None:
    """See the module."""
    rows = {
        name: changes
        for name, changes in VARIANTS.items()
        if not texts or any(text in name for text in texts)
    }
    if not rows:
        raise click.UsageError(f"No row contains that. There are: {'; '.join(VARIANTS)}.")
    headings = HEADINGS[:: len(HEADINGS) - 1] if only_times else HEADINGS
    click.echo(line(headings))
    click.echo(line("---" for _ in headings))
    with TemporaryDirectory() as folder:
        common = {
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
        configs = {
            name: load_config("demo", {**changes, **common}) for name, changes in rows.items()
        }
        with redirect_stdout(sys.stderr):
            times = step_times(configs)
        if only_times:
            for name, milliseconds in times.items():
                click.echo(line([name, f"{milliseconds:#.3g}"]))
            return
        for name, config in configs.items():
            with redirect_stdout(sys.stderr):
                figures = measure(config)
            click.echo(line([name, *figures.cells(), f"{times[name]:#.3g}"]))


if __name__ == "__main__":
    main()
