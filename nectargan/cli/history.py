"""``nectargan export-csv`` and ``nectargan plot``: the history of runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from nectargan.cli.common import Command, WholeNumber
from nectargan.cli.paths import OUTPUT, RUN
from nectargan.config.choices import PictureFormat
from nectargan.errors import RunError
from nectargan.files import is_stream
from nectargan.output import say
from nectargan.wording import counted

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

RUNS = click.argument("runs", nargs=-1, required=True, type=RUN, metavar="RUN...")
MLFLOW_URI = click.option(
    "--mlflow-uri",
    metavar="URI",
    help="Where 'mlflow:' runs are.  [default: $MLFLOW_TRACKING_URI, else runs/mlflow.db]",
)
SMOOTH = click.option(
    "--smooth",
    type=float,
    metavar="W",
    help="Smooth by an exponential moving average, as in TensorBoard: 0 <= W < 1.",
)
LOG = click.option("--log", is_flag=True, help="Logarithmic axes for losses that are positive.")


def _parse_size(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
    if text is None:
        return None
    try:
        width, height = map(float, text.split(","))
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is not a size; write W,H in inches, such as 7,4.5.", ctx, param
        ) from None
    return width, height


X_AXIS = click.option(
    "--x",
    type=click.Choice(["step", "epoch"]),
    help="The horizontal axis.  [default: step]",
)


def lineage_option(default: bool) -> Callable[[Decorated], Decorated]:
    """The option ``--lineage``, the same in all commands but for its default."""
    return click.option(
        "--lineage/--no-lineage",
        default=default,
        show_default=True,
        help="Of a fork, begin with the record of its parent, or show only its own.",
    )


SIZE = click.option(
    "--size", callback=_parse_size, metavar="W,H", help="Size of the figure in inches."
)


@click.command(
    "export-csv",
    cls=Command,
    examples=(
        "nectargan export-csv 'runs/*' -o history.parquet --wide --every 10",
        "nectargan export-csv runs/first_v1 -o - --losses G_L1 --smooth 0.9",
        "nectargan export-csv runs/first_v1 -o gradients.csv --gradients --epoch-means",
    ),
)
@RUNS
@click.option(
    "-o",
    "--output",
    required=True,
    type=OUTPUT,
    help="File: .csv, .tsv, .csv.gz, .tsv.gz or .parquet; - for CSV on standard output.",
)
@click.option(
    "--gradients", is_flag=True, help="The gradients of the losses instead of their values."
)
@click.option("--wide", is_flag=True, help="One row per step, one column per series.")
@click.option(
    "--every",
    type=WholeNumber(1, 10**9),
    default=1,
    metavar="N",
    help="Only the first step and every N-th step.",
)
@SMOOTH
@click.option("--epoch-means", is_flag=True, help="The mean of each loss per epoch.")
@click.option("--losses", multiple=True, metavar="A,B", help="Only these losses; may be repeated.")
@click.option(
    "--query", multiple=True, metavar="TAG", help="Only losses with this tag; may be repeated."
)
@lineage_option(False)
@MLFLOW_URI
def export_csv(
    runs: tuple[str, ...],
    output: Path,
    mlflow_uri: str | None,
    losses: tuple[str, ...],
    lineage: bool,
    **options: Any,
) -> None:
    """Write the losses or the gradients of one or more runs to one file.

    RUN is a run directory, mlflow:RUN_ID or a directory with TensorBoard event files. With more
    than one run, the file has a column "run".
    """
    from nectargan.analysis.export import Selection, export_losses

    names = [name.strip() for some in losses for name in some.split(",")]
    selection = Selection(losses=names, **options)
    if str(output) == "-":
        export_losses(runs, sys.stdout.buffer, selection, mlflow_uri, lineage)
        return
    rows = export_losses(runs, output, selection, mlflow_uri, lineage)
    # If the data goes to standard output, this message goes to standard error.
    say(f"Wrote {counted(rows, 'row')} to {output}.", err=is_stream(output))


@click.command(
    cls=Command,
    examples=(
        "nectargan plot runs/first_v1 --log --smooth 0.9",
        "nectargan plot runs/first_v1 -o losses.pdf --x epoch --size 7,4",
        "nectargan plot runs/first_v1 --gradients",
    ),
)
@RUNS
@click.option(
    "-o",
    "--output",
    type=OUTPUT,
    help="Image file: .png, .svg or .pdf.  [default: losses.png or gradients.png in the run "
    "directory]",
)
@click.option(
    "--format", "form", type=click.Choice(get_args(PictureFormat)), help="Format of the image."
)
@X_AXIS
@click.option(
    "--gradients",
    is_flag=True,
    help="The share and the cosine of each loss's gradient instead of its values.",
)
@LOG
@click.option("--split", is_flag=True, help="Two files: generator (_G), discriminator (_D).")
@SMOOTH
@SIZE
@lineage_option(True)
@MLFLOW_URI
def plot(
    runs: tuple[str, ...],
    output: Path | None,
    form: str | None,
    x: Any,
    gradients: bool,
    log: bool,
    split: bool,
    **options: Any,
) -> None:
    """Plot the losses, weights and validation metrics of each RUN, or its gradients.

    RUN is a run directory, mlflow:RUN_ID or a directory with TensorBoard event files. With
    --gradients, several runs can be plotted to one --output.
    """
    from nectargan.analysis.gradient_plot import plot_gradients
    from nectargan.analysis.plots import plot_run
    from nectargan.analysis.sources import runs_matching

    found = [each for run in runs for each in runs_matching(run)]
    if gradients:
        for option, is_given in (("--log", log), ("--split", split)):
            if is_given:
                raise RunError(f"--gradients and {option} cannot be used together.")
        groups = [found] if output is not None else [[run] for run in found]
        for group in groups:
            file = _picture(group[0], output, form, "gradients")
            plot_gradients(group, file, x=x or "step", **options)
            say(f"Drew {file}.", err=is_stream(file))
        return
    if output is not None and len(found) > 1:
        raise RunError(
            f"--output {output} is one file, but there are {len(found)} runs; without --output "
            "each run is plotted to its own directory. 'nectargan compare --plot' plots all runs "
            "in one picture."
        )
    for run in found:
        picture = _picture(run, output, form, "losses")
        for file in plot_run(run, picture, x=x or "step", log=log, split=split, **options):
            say(f"Drew {file}.", err=is_stream(file))


def _picture(run: str, output: Path | None, form: str | None, name: str) -> Path:
    if output is None:
        # An MLflow run has no directory: the current one is used.
        return (Path(run) if Path(run).is_dir() else Path()) / f"{name}.{form or 'png'}"
    if is_stream(output) and form in (None, "png"):
        return output
    if form is None or not output.suffix:
        return output.with_suffix(f".{form}") if form else output
    if output.suffix.lower() != f".{form}":
        raise RunError(f"--output {output} and --format {form} contradict each other; give one.")
    return output
