"""``nectargan export``: a trained generator for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nectargan.cli.common import LongCommand
from nectargan.cli.options import option
from nectargan.cli.paths import INPUT, OUTPUT
from nectargan.output import say


@click.command(
    cls=LongCommand,
    examples=(
        "nectargan export runs/facades_v1",
        "nectargan export runs/facades_v1 --format onnx --input uint8 --fp16 -o facades.onnx",
        "nectargan export runs/facades_v1 --format safetensors --license CC-BY-4.0 -o shared",
    ),
)
@click.argument("model")
@option(
    *("--format", "kind"),
    type=click.Choice(["onnx", "pt2", "safetensors"]),
    default="onnx",
    help="onnx for any program, pt2 for torch alone, safetensors for the weights.",
)
@option(
    *("-o", "--output"),
    type=OUTPUT,
    metavar="DIR_OR_FILE",
    help="Where to write; a folder named after the model if it is left out.",
)
@option("--overwrite", is_flag=True, help="Replace a model that is there already.")
@option(
    *("--input", "values"),
    type=click.Choice(["float", "uint8"]),
    help="What images hold, in and out: float for [0, 1], the default; uint8 for 0 to 255.",
)
@option("--fp16", is_flag=True, help="Weights and computation in 16 bits: half of the size.")
@option("--license", "license_name", metavar="NAME", help="For the model card: CC-BY-4.0, ...")
@option(
    *("-d", "--data"),
    type=INPUT,
    metavar="DIR",
    help="Data set to compare on; that of the run if it is left out.",
)
@option(
    *("--checkpoint",),
    metavar="NAME",
    help="Of a run directory: best, last, epoch_0100, or a path; else the best, else the last.",
)
@option("--trust", is_flag=True, help="Import a generator of somebody else's.")
def export(model: str, output: Path | None, fp16: bool, **options: Any) -> None:
    """Write a trained MODEL to a file that other programs can use.

    MODEL is a run directory or a checkpoint. The file is compared with the network on images, in
    two sizes, and not written if it differs. A model card and a picture of examples go beside it.
    """
    # Not above: torch takes a second to import, and a help text needs none of it.
    from nectargan.inference.export_files import export as write

    made = write(model, output, precision="fp16" if fp16 else "fp32", **options)
    say(f"Wrote {made.file}, {made.card.name} and {made.picture.name}.")
    say(f"Largest difference from the network, in [0, 1]: {made.comparison}, on {made.images}.")
