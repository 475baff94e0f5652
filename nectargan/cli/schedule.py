"""``nectargan schedule``: plots the schedules of a config before training."""

from __future__ import annotations

from pathlib import Path

import click

from nectargan.cli.common import Command
from nectargan.cli.paths import OUTPUT, RUN, ConfigPath
from nectargan.files import is_stream
from nectargan.output import say


@click.command(
    cls=Command,
    examples=(
        "nectargan schedule facades_scheduled",
        "nectargan schedule mine.yaml -o weights.png",
        "nectargan schedule mine.yaml --over runs/first_v1",
    ),
)
@click.argument("config", type=ConfigPath())
@click.option(
    "-o",
    "--output",
    type=OUTPUT,
    default=Path("schedule.png"),
    show_default=True,
    help="PNG file.",
)
@click.option(
    "--over",
    type=RUN,
    metavar="RUN",
    help="Draw the losses of a run, its weights and its shares of the gradient with the schedules.",
)
@click.option("--trust", is_flag=True, help="Import the functions that the config of a run names.")
def schedule(config: str, output: Path, over: str | None, trust: bool) -> None:
    """Plot the weights, shares and learning rates of CONFIG that change over its epochs.

    Constant values are printed. If all are constant, all are plotted. Schedule functions of your
    own that CONFIG names are imported.
    """
    from nectargan.analysis.schedule_plot import constant_values, plot_schedules
    from nectargan.config.config_manager import ConfigManager
    from nectargan.config.run_schedules import all_schedules
    from nectargan.record.run_directory import RunDirectory
    from nectargan.runs.trust import check_trust

    data = ConfigManager(config).data
    schedules, epochs = all_schedules(data, imports=False), data.train.epochs
    if any(not schedule.is_imported for schedule in schedules.values()):
        run = RunDirectory(Path(config).parent)
        if not trust and run.status:
            # A run directory may come from another person, whose code must not run unasked.
            check_trust(run, data.model_dump(mode="json"), "add --trust")
        schedules = all_schedules(data)
    plot_schedules(schedules, epochs, output, over)
    if constant := constant_values(schedules, epochs):
        values = ", ".join(f"{name} {value:.4g}" for name, value in constant.items())
        say(f"Constant: {values}.", err=is_stream(output))
    say(f"Drew {output}.", err=is_stream(output))
