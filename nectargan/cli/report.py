"""``nectargan report``: one page that shows runs."""

from __future__ import annotations

from pathlib import Path

import click

from nectargan.cli.common import Command
from nectargan.cli.history import MLFLOW_URI, RUNS, lineage_option
from nectargan.cli.paths import OUTPUT
from nectargan.files import is_stream
from nectargan.output import say
from nectargan.wording import counted


@click.command(
    cls=Command,
    examples=(
        "nectargan report runs/first_v1",
        "nectargan report 'runs/*' -o all.html --sort best/ssim",
    ),
)
@RUNS
@click.option(
    "-o",
    "--output",
    type=OUTPUT,
    default="report.html",
    show_default=True,
    help="The page, an .html file.",
)
@click.option(
    "--sort",
    metavar="COLUMN",
    help="Order of the runs, such as best/ssim: the best run first.",
)
@lineage_option(True)
@MLFLOW_URI
def report(
    runs: tuple[str, ...],
    output: Path,
    sort: str | None,
    lineage: bool,
    mlflow_uri: str | None,
) -> None:
    """Write one HTML page that shows each RUN: status, curves, example pictures and tests.

    RUN is a run directory, mlflow:RUN_ID or a directory with TensorBoard event files. Only run
    directories have pictures and tests. The page can be opened from disk and needs no network.
    """
    from nectargan.analysis.report.page import write_report

    made = write_report(runs, output, mlflow_uri, sort, lineage)
    summary = f"{counted(made.runs, 'run')}, {counted(made.pictures, 'picture')}"
    say(f"Wrote {output} ({summary}, {made.size / 1e6:.1f} MB).", err=is_stream(output))
