"""``nectargan apply``: applies a trained generator to images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nectargan.cli.common import LongCommand, WholeNumber, dropout_seed
from nectargan.cli.options import option
from nectargan.cli.progress import progress_bar
from nectargan.errors import DataError
from nectargan.output import say
from nectargan.wording import counted

if TYPE_CHECKING:
    from nectargan.inference.apply import Outcome

_MOST_NAMED = 20


@click.command(
    cls=LongCommand,
    examples=(
        "nectargan apply runs/facades_v1 photos -o generated",
        "nectargan apply runs/facades_v1 'scans/*.tif' -o out --format png --device cuda",
        "nectargan apply runs/facades_v1 data/facades/val --side A -o generated",
        "nectargan apply runs/facades_v1 - -o - < photo.jpg > generated.png",
    ),
)
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@option(
    *("-o", "--output"),
    required=True,
    metavar="OUT",
    group="Files",
    help="Output folder, a file for a single image, or - for standard output.",
)
@option("--recursive", is_flag=True, group="Files", help="Also use images in subfolders.")
@option(
    "--side",
    type=click.Choice(["A", "B"]),
    group="Files",
    help="Inputs are A|B images side by side: use the left half (A) or the right half (B).",
)
@option(
    "--format",
    "kind",
    metavar="NAME",
    group="Files",
    help="Output format: png, jpg, tif, webp, exr, npy, ...",
)
@option(
    "--suffix",
    default="",
    metavar="TEXT",
    group="Files",
    help="Text to append to the name of each file.",
)
@option("--overwrite", is_flag=True, group="Files", help="Replace existing files.")
@option(
    *("--checkpoint",),
    metavar="NAME",
    group="Model",
    help="Checkpoint of a run directory: best, last, epoch_0100, or a path.  [default: the best, "
    "else the last]",
)
@option("--resize", is_flag=True, group="Model", help="Resize images to the size in training.")
@option(
    "--dropout", is_flag=True, group="Model", help="Keep dropout active, as in the pix2pix paper."
)
@option(
    "--seed",
    type=WholeNumber(min=0, max=2**31),
    group="Model",
    show_default="0",
    help="Random seed for --dropout.",
)
@option(
    "--trust",
    is_flag=True,
    group="Model",
    help="Import a custom generator from a run of another user.",
)
@option(
    "--tile",
    type=WholeNumber(min=0, max=2**20),
    group="Large images",
    help="Split larger images into tiles of N x N pixels, 64 or more; 0 for never.  [default: only "
    "images that do not fit into the free memory]",
)
@option(
    "--overlap",
    type=WholeNumber(min=0, max=2**20),
    group="Large images",
    help="Overlap of two tiles in pixels.  [default: at least a quarter of a tile]",
)
@option(
    "--tile-norm",
    type=click.Choice(["exact", "fast"]),
    group="Large images",
    help="Statistics of instance norm for tiles: of the whole image (exact, one more pass per norm "
    "layer) or of a reduced image (fast).  [default: exact]",
)
@option("--device", default="auto", group="Speed", help="auto, cpu, mps, cuda or cuda:N.")
@option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    group="Speed",
    help="Floating-point precision.  [default: as in training, but fp32 instead of auto for "
    "targets of more than 8 bits]",
)
@option(
    "--batch",
    type=WholeNumber(min=1, max=4096),
    group="Speed",
    help="Images of the same size per batch.  [default: as in training, on CUDA at least 16]",
)
def apply(**options: Any) -> None:
    """Generate an image for each INPUT with a trained MODEL.

    MODEL is a run directory, a checkpoint, mlflow:RUN_ID, models:/NAME/VERSION, or a file from
    nectargan export. INPUT is an image, a folder, a pattern, or - for standard input. Images may
    have any size; the output has the same size. Images that cannot be used are listed at the end,
    and the exit code is then 1.
    """
    # Imported here, because torch takes a second to import and help texts do not need it.
    from nectargan.inference.apply import Reading, apply_model, check_formats
    from nectargan.inference.inputs import STREAM, find_inputs
    from nectargan.inference.model import load_model
    from nectargan.inference.picture_files import as_suffix
    from nectargan.inference.pixels import PixelGenerator, Tiling

    if any(c in options["suffix"] for c in "/\\\0"):
        raise DataError(f"--suffix is {options['suffix']!r}; it must be a part of a file name.")
    suffix = as_suffix(options["kind"]) if options["kind"] else None
    names = ("checkpoint", "device", "precision", "dropout", "trust")
    model = load_model(options["model"], **{name: options[name] for name in names})
    tiling = Tiling(options["tile"], options["overlap"], options["tile_norm"])
    generate = PixelGenerator(model, tiling)
    found = find_inputs(
        options["inputs"],
        options["output"],
        model.out_channels,
        options["recursive"],
        suffix,
        options["suffix"],
    )
    check_formats(model, found.jobs, suffix)
    for note in found.notes:
        say(note, err=True)
    reading = Reading(
        options["side"],
        options["resize"],
        options["overwrite"],
        suffix,
        options["batch"],
        dropout_seed(options["seed"], options["dropout"]),
    )
    with progress_bar(len(found.jobs), "images") as advance:
        outcome = apply_model(model, found.jobs, reading, generate, advance)
    for note in generate.notes:
        say(note, err=True)
    _report(outcome, options["output"], to_stderr=options["output"] == STREAM)
    if outcome.bad:
        raise click.exceptions.Exit(1)


def _report(outcome: Outcome, output: str, to_stderr: bool) -> None:
    for words, (count, first) in outcome.notes.items():
        others = f" and {counted(count - 1, 'other')}" if count > 1 else ""
        say(f"{first}{others}: {words}.", err=True)
    rate = outcome.done / outcome.seconds if outcome.seconds else 0.0
    line = f"{counted(outcome.done, 'image')} in {outcome.seconds:.1f} s ({rate:.1f} images/s)"
    line += f" to {output}" if not to_stderr else ""
    if outcome.kept:
        is_are = "is" if outcome.kept == 1 else "are"
        line += f"; {counted(outcome.kept, 'file')} {is_are} there already (--overwrite)"
    if outcome.done or outcome.kept:
        say(f"{line}.", err=to_stderr)
    for bad in outcome.bad[:_MOST_NAMED]:
        say(bad, err=True)
    if len(outcome.bad) > _MOST_NAMED:
        say(f"and {len(outcome.bad) - _MOST_NAMED} more", err=True)
    if outcome.bad:
        say(f"{counted(len(outcome.bad), 'image')} could not be used.", err=True)
