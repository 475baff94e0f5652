"""``nectargan compare``: the differences between runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nectargan.cli.common import Command
from nectargan.cli.history import LOG, MLFLOW_URI, SIZE, SMOOTH, X_AXIS, lineage_option
from nectargan.cli.paths import OUTPUT, RUN
from nectargan.errors import RunError
from nectargan.output import make_console, say


@click.command(
    cls=Command,
    examples=(
        "nectargan compare runs/first_v1 runs/first_v2 --plot both.png",
        "nectargan compare 'runs/*' --sort best/ssim --format md",
    ),
)
@click.argument("runs", nargs=-1, required=True, type=RUN, metavar="RUN RUN...")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "csv", "json"]),
    default="table",
    show_default=True,
    help="Output format.",
)
@click.option(
    "--plot",
    "picture",
    type=OUTPUT,
    help="Also plot losses and weights to this file: .png, .svg or .pdf.",
)
@click.option(
    "--sort",
    metavar="COLUMN",
    help="Sort by this column, such as best/ssim; the best run comes first.",
)
@X_AXIS
@LOG
@SMOOTH
@SIZE
@lineage_option(True)
@MLFLOW_URI
def compare(
    runs: tuple[str, ...],
    form: Any,
    picture: Path | None,
    sort: str | None,
    mlflow_uri: str | None,
    x: Any,
    lineage: bool,
    **options: Any,
) -> None:
    """Print the differences between the configs of runs, with their last and best values.

    RUN is a run directory, mlflow:RUN_ID or a directory with TensorBoard event files. Losses are
    means over the last complete epoch (columns "mean"). --x, --log, --smooth and --size need
    --plot.
    """
    from nectargan.analysis import compare as comparison
    from nectargan.analysis.plots import plot_comparison

    for name, value in {"x": x, **options}.items():
        if picture is None and value:
            raise RunError(f"--{name} needs --plot.")
    frame = comparison.compare_runs(runs, mlflow_uri, sort, lineage)
    if len(frame) < 2:
        raise RunError(f"'{runs[0]}' is a single run; give two or more runs to compare.")
    if picture is not None:
        plot_comparison(
            runs, picture, x=x or "step", mlflow_uri=mlflow_uri, lineage=lineage, **options
        )
    if form == "table":
        console = make_console()
        for table in comparison.comparison_tables(frame, console.width):
            console.print(table)
    else:
        say(comparison.render_comparison(frame, form), nl=False)
    if picture is not None:
        say(f"Drew {picture}.", err=True)
