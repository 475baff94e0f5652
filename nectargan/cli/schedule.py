"""``nectargan schedule``: what a config will do, before anybody pays for it."""

from __future__ import annotations

from pathlib import Path

import click

from nectargan.cli.common import Command
from nectargan.cli.paths import OUTPUT, ConfigPath
from nectargan.files import is_stream
from nectargan.output import say


@click.command(
    cls=Command,
    examples=(
        "nectargan schedule facades_scheduled",
        "nectargan schedule mine.yaml -o weights.png",
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
@click.option("--trust", is_flag=True, help="Import what the config of a run names.")
def schedule(config: str, output: Path, trust: bool) -> None:
    """Draw the loss weights and learning rates of CONFIG that move over its epochs.

    What stays the same is listed. If nothing moves, everything is drawn. Functions of your own that
    CONFIG names as schedules are imported.
    """
    from nectargan.analysis.schedule_plot import constant_values, plot_schedules
    from nectargan.config.config_manager import ConfigManager
    from nectargan.config.schedules import all_schedules
    from nectargan.record.run_directory import RunDirectory
    from nectargan.runs.trust import check_trust

    data = ConfigManager(config).data
    schedules, epochs = all_schedules(data, imports=False), data.train.epochs
    if any(not schedule.is_imported for schedule in schedules.values()):
        run = RunDirectory(Path(config).parent)
        if not trust and run.status:
            # Of a run, which may come from somebody else.
            check_trust(run, data.model_dump(mode="json"), "add --trust")
        schedules = all_schedules(data)
    plot_schedules(schedules, epochs, output)
    if constant := constant_values(schedules, epochs):
        told = ", ".join(f"{name} {value:.4g}" for name, value in constant.items())
        say(f"Constant: {told}.", err=is_stream(output))
    say(f"Drew {output}.", err=is_stream(output))
