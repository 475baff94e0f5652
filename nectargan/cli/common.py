"""What all commands share: errors as one sentence, warnings as one line."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import click

from nectargan.errors import NectarGANError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
_WIDTH_OF_A_PIPE = 200


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
            click.ClickException(str(error)).show()
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


def make_console() -> Console:
    """Where tables are printed to."""
    from rich.console import Console

    # A pipe has no width of its own; a table that was cut to 80 columns would be of no use there.
    return Console(width=None if Console().is_terminal else _WIDTH_OF_A_PIPE, markup=False)
