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
def schedule(config: str, output: Path) -> None:
    """Draw the loss weights and learning rates of CONFIG that move over its epochs.

    What stays the same is listed. If nothing moves, everything is drawn.
    """
    from nectargan.analysis.schedule_plot import constant_values, plot_schedules
    from nectargan.build import all_schedules
    from nectargan.config.config_manager import ConfigManager

    data = ConfigManager(config).data
    schedules, epochs = all_schedules(data), data.train.epochs
    plot_schedules(schedules, epochs, output)
    if constant := constant_values(schedules, epochs):
        told = ", ".join(f"{name} {value:.4g}" for name, value in constant.items())
        say(f"Constant: {told}.", err=is_stream(output))
    say(f"Drew {output}.", err=is_stream(output))
