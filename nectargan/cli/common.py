"""What all commands share: errors as one sentence, warnings as one line."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import click

from nectargan.credentials import without_credentials
from nectargan.errors import NectarGANError

INTERRUPTED = 130


class Command(click.Command):
    """A command that answers our errors with their sentence, Ctrl-C with exit code 130."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        warnings.showwarning = _show_warning
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        # A tracker that is away is reported by us, once; not at every attempt.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        try:
            return super().invoke(ctx)
        except NectarGANError as error:
            click.ClickException(without_credentials(str(error))).show()
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {message}", err=True)
