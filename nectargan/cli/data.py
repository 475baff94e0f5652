"""``nectargan data``: draws a synthetic data set, or checks a data set."""

from __future__ import annotations

from pathlib import Path

import click

from nectargan.cli.common import Command
from nectargan.cli.paths import INPUT, OUTPUT
from nectargan.output import say


@click.group()
def data() -> None:
    """Draw a synthetic data set, or check a data set."""


@data.command(
    cls=Command,
    examples=(
        "nectargan data synth fronts",
        "nectargan data synth small --train 16 --val 4 --size 64",
    ),
)
@click.argument("directory", type=OUTPUT)
@click.option("--train", default=400, show_default=True, metavar="N", help="Training pairs.")
@click.option("--val", default=100, show_default=True, metavar="N", help="Validation pairs.")
@click.option("--test", default=0, show_default=True, metavar="N", help="Test pairs.")
@click.option(
    "--size", default=256, show_default=True, metavar="PIXELS", help="Width and height of an image."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the drawings.")
def synth(directory: Path, train: int, val: int, test: int, size: int, seed: int) -> None:
    """Draw facades into DIRECTORY: label map and rendered facade side by side (A|B)."""
    from nectargan.dataset.synthetic import synthesize

    synthesize(directory, train=train, val=val, test=test, size=size, seed=seed)
    say(f"Drew {train} training, {val} validation and {test} test pairs in {directory}.")


@data.command(
    cls=Command,
    examples=("nectargan data check fronts", "nectargan data check datasets/facades"),
)
@click.argument("directory", type=INPUT)
def check(directory: Path) -> None:
    """Read every image in DIRECTORY and list all problems."""
    from nectargan.dataset.pairs import check_data, unread_splits

    for warning in unread_splits(directory) if directory.is_dir() else ():
        say(f"Warning: {warning}", err=True)
    for summary in check_data(directory, required=("train",), optional=("val", "test")).values():
        say(str(summary))
        for warning in summary.warnings:
            say(f"Warning: {warning}", err=True)
        for hint in summary.hints:
            say(f"Hint: {hint}", err=True)
