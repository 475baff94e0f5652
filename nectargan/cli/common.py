"""What all commands share: errors as one sentence, warnings as one line."""

from __future__ import annotations

import errno
import logging
import threading
import warnings
from typing import TYPE_CHECKING, Any

import click

from nectargan.credentials import without_credentials
from nectargan.errors import NectarGANError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
HELP = {"help_option_names": ["-h", "--help"]}  # also of every command below a group
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_WIDTH_OF_A_PIPE = 200


class Command(click.Command):
    """A command that answers our errors with their sentence, Ctrl-C with exit code 130."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        warnings.showwarning = _show_warning
        threading.excepthook = _show_thread_error
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        # A tracker that is away is reported by us, once; not at every attempt.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        try:
            return super().invoke(ctx)
        except NectarGANError as error:
            click.ClickException(without_credentials(str(error))).show()
            ctx.exit(error.exit_code)
        except OSError as error:
            # Whatever could not be written, a full disk is no bug.
            if error.errno not in _NO_ROOM:
                raise
            place = f"'{error.filename}' cannot be written: " if error.filename else ""
            click.ClickException(f"{place}{error.strerror}.").show()
            ctx.exit(NectarGANError.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


def _show_thread_error(args: threading.ExceptHookArgs) -> None:
    if isinstance(args.exc_value, OSError):
        # TensorBoard's own thread ends so when the disk is full; its sink is behind then.
        click.echo(f"Warning: {args.exc_value}", err=True)
    else:
        threading.__excepthook__(args)


def make_console() -> Console:
    """Where tables are printed to."""
    from rich.console import Console

    # A pipe has no width of its own; a table that was cut to 80 columns would be of no use there.
    return Console(width=None if Console().is_terminal else _WIDTH_OF_A_PIPE, markup=False)
