"""``nectargan``: the group of all commands."""

from __future__ import annotations

import click

from nectargan.cli.apply import apply
from nectargan.cli.common import HELP, Group
from nectargan.cli.compare import compare
from nectargan.cli.config import config
from nectargan.cli.data import data
from nectargan.cli.explain import explain
from nectargan.cli.export import export
from nectargan.cli.history import export_csv, plot
from nectargan.cli.report import report
from nectargan.cli.runs import mv, rm, runs, sync
from nectargan.cli.schedule import schedule
from nectargan.cli.test import test
from nectargan.cli.train import train
from nectargan.cli.ui import ui
from nectargan.cli.watch import watch
from nectargan.version import __version__


@click.group(cls=Group, context_settings=HELP)
@click.version_option(__version__, prog_name="nectargan")
def main() -> None:
    """Train paired image-to-image GANs, with a record of every weighted loss."""


_COMMANDS = (
    train,
    apply,
    test,
    export,
    config,
    data,
    runs,
    watch,
    ui,
    compare,
    explain,
    plot,
    report,
    export_csv,
    schedule,
    sync,
    mv,
    rm,
)
for command in _COMMANDS:
    main.add_command(command)
