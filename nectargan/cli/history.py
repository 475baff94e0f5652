"""``nectargan export-csv`` and ``nectargan plot``: the history of runs."""

from __future__ import annotations

from pathlib import Path

import click

from nectargan.cli.common import Command

RUN = click.Path(path_type=Path)


@click.command("export-csv", cls=Command)
@click.argument("runs", nargs=-1, required=True, type=RUN, metavar="RUN...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="CSV file.")
@click.option("--wide", is_flag=True, help="A row per step, a column per series.")
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Only the first step and every N-th.",
)
def export_csv(runs: tuple[Path, ...], output: Path, wide: bool, every: int) -> None:
    """Write the losses of one or more run directories to one CSV file.

    Several runs get a column "run".
    """
    from nectargan.analysis import history

    rows = history.export_csv(runs, output, wide=wide, every=every)
    click.echo(f"Wrote {rows} rows to {output}.")


@click.command(cls=Command)
@click.argument("run", type=RUN)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="PNG file.  [default: losses.png in the run directory]",
)
def plot(run: Path, output: Path | None) -> None:
    """Draw the losses and weights of a run directory."""
    from nectargan.analysis.plots import plot_run

    output = output or run / "losses.png"
    plot_run(run, output)
    click.echo(f"Drew {output}.")
