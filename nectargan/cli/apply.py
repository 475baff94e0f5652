"""``nectargan apply``: use what was trained."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from nectargan.cli.common import LongCommand, WholeNumber, dropout_seed
from nectargan.cli.options import option
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
    help="Folder to write to; a file, for one image; or - for standard output.",
)
@option(
    "--recursive", is_flag=True, group="Files", help="Use the images in folders below folders too."
)
@option(
    "--side",
    type=click.Choice(["A", "B"]),
    group="Files",
    help="The inputs are pairs side by side: use their left half (A) or their right one (B).",
)
@option("--format", "kind", metavar="NAME", group="Files", help="Write png, jpg, tif, webp, ...")
@option("--suffix", default="", metavar="TEXT", group="Files", help="Goes after each file's name.")
@option("--overwrite", is_flag=True, group="Files", help="Replace files that are there already.")
@option(
    *("--checkpoint",),
    metavar="NAME",
    group="Model",
    help="Of a run directory: best, last, epoch_0100, or a path; else the best, else the last.",
)
@option("--resize", is_flag=True, group="Model", help="Bring images to the size of training first.")
@option(
    "--dropout", is_flag=True, group="Model", help="Keep dropout on, as the pix2pix paper does."
)
@option(
    "--seed",
    type=WholeNumber(min=0, max=2**31),
    group="Model",
    show_default="0",
    help="Of dropout.",
)
@option("--trust", is_flag=True, group="Model", help="Import a generator of somebody else's.")
@option(
    "--tile",
    type=WholeNumber(min=0, max=2**20),
    group="Large images",
    help="Cut images that are larger into tiles of so many pixels a side; 0: never. By itself, "
    "only what does not fit into the free memory is cut.",
)
@option(
    "--overlap",
    type=WholeNumber(min=0, max=2**20),
    group="Large images",
    help="Pixels that two tiles share; a quarter of a tile if it is left out.",
)
@option(
    "--tile-norm",
    type=click.Choice(["exact", "fast"]),
    group="Large images",
    help="Where the tiles of a network with instance norm have its statistics from: the whole "
    "image (exact, one more pass for each norm), or a reduced one (fast). Default: exact.",
)
@option("--device", default="auto", group="Speed", help="auto, cpu, mps, cuda or cuda:N.")
@option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    group="Speed",
    help="As in training if it is left out.",
)
@option(
    "--batch",
    type=WholeNumber(min=1, max=4096),
    group="Speed",
    help="Images of one size to compute at once; as in training, on CUDA at least 16.",
)
def apply(**options: Any) -> None:
    """Generate an image for each INPUT with a trained MODEL.

    MODEL is a run directory, a checkpoint, mlflow:RUN_ID, models:/NAME/VERSION, or a file that
    nectargan export wrote. An INPUT is an image, a folder, a pattern, or - for standard input.
    Images may have any size, and keep it. Images that cannot be used are named at the end, and the
    exit code is 1.
    """
    # Not above: torch takes a second to import, and a help text needs none of it.
    from nectargan.inference.apply import Reading, apply_model
    from nectargan.inference.inputs import STREAM, find_inputs
    from nectargan.inference.model import load_model
    from nectargan.inference.picture_files import as_suffix
    from nectargan.inference.pixels import PixelGenerator, Tiling

    if any(c in options["suffix"] for c in "/\\\0"):
        raise DataError(f"--suffix is {options['suffix']!r}; it is a part of a file's name.")
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
    with _progress(len(found.jobs)) as advance:
        outcome = apply_model(model, found.jobs, reading, generate, advance)
    for note in generate.notes:
        say(note, err=True)
    _report(outcome, options["output"], to_stderr=options["output"] == STREAM)
    if outcome.bad:
        raise click.exceptions.Exit(1)


def _progress(count: int) -> AbstractContextManager[Any]:
    """A bar on a terminal; gives a function to be called after each image."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from nectargan.output import make_console

    class Bar(Progress):
        def __enter__(self) -> Any:
            super().__enter__()
            task = self.add_task("", total=count)
            return lambda: self.update(task, advance=1, speed=self._speed(task))

        def _speed(self, task: Any) -> str:
            speed = self.tasks[task].speed
            return "" if speed is None else f"{speed:.1f} images/s"

    console = make_console(stderr=True)
    if not console.is_terminal or count < 2:
        return nullcontext(lambda: None)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    return Bar(*columns, TimeRemainingColumn(), console=console)


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
