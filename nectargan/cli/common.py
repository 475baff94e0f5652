"""Base classes of all commands. They print an error as one sentence and a warning as one line."""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from nectargan.cli.options import OTHERS, write_groups
from nectargan.credentials import without_credentials
from nectargan.distributed import World
from nectargan.errors import NectarGANError, RunError
from nectargan.output import go_on_without_output, guard_streams, say, speak_as
from nectargan.shortage import shortage_of

INTERRUPTED = 130
_ARGUMENTS = "nectargan.arguments"
# A group passes these on to its commands.
HELP = {"help_option_names": ["-h", "--help"], "show_default": True}
# Errors that an unusable path of the user causes; they are reported without a traceback.
_NO_PATH = (
    *(errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENXIO, errno.EIO),
)


class WholeNumber(click.IntRange):
    """A parameter type for whole numbers, with clearer errors than those of `click.IntRange`."""

    name = "whole number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns the number; fails for a value that is not a whole number within the limits."""
        try:
            number = int(value)
        except ValueError:
            number = None
        low, high = self.min, self.max
        if number is None or (low is not None and number < low) or (high and number > high):
            limits = f" from {low} to {high}" if high is not None else f" of {low} or more"
            self.fail(f"{value!r} is not a whole number{limits}.", param, ctx)
        return number


# Click declares the class as generic, but older versions cannot subscript it.
class ChannelList(click.ParamType):  # type: ignore[type-arg]
    """Channels of an image by name or by number, as R,G,B or 4,3,2."""

    name = "channels"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str | int]:
        """Returns names and numbers."""
        if isinstance(value, list):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(parts):
            self.fail(f"{value!r} is not a list of channels such as R,G,B or 4,3,2.", param, ctx)
        return [int(part) if part.isdecimal() else part for part in parts]


class Command(click.Command):
    """A command that prints a `NectarGANError` as one sentence and exits with its exit code.

    The exit code after Ctrl-C is 130.

    Args:
        *args: As for `click.Command`.
        examples: Command lines to show at the end of the help.
        **options: As for `click.Command`.
    """

    # Whether to end the command when its output can no longer be written, as in a closed pipe.
    only_prints = True

    def __init__(self, *args: Any, examples: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options in groups with headings, then the examples."""
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        records = [(getattr(o, "group", OTHERS), o.get_help_record(ctx)) for o in options]
        write_groups(formatter, [(group, shown) for group, shown in records if shown])
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    # Not wrapped, so that they can be copied.
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the command as a program."""
        return run_program(super().main, *args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments, and keeps them as they were typed for `typed_arguments`."""
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        if not self.only_prints:
            go_on_without_output()
        try:
            _require_working_directory()
            with _warnings_as_lines():
                result = super().invoke(ctx)
                if sys.stdout is not None:
                    sys.stdout.flush()
                return result
        except NectarGANError as error:
            _say_error(without_credentials(str(error)))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            say("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            # A full disk or too little memory is not a bug, so no traceback is printed.
            sentence = _sentence_about(error)
            if sentence is None:
                raise
            _say_error(sentence)
            ctx.exit(NectarGANError.exit_code)


def speak_for(world: World) -> None:
    """Of several processes, only the main one reports what all of them would."""
    if not world.is_main:
        speak_as(world.rank)
        logging.getLogger("nectargan").setLevel(logging.ERROR)
        warnings.simplefilter("ignore")


def typed_arguments() -> tuple[str, ...]:
    """The arguments of the current command as they were typed, without the program."""
    found: tuple[str, ...] = click.get_current_context().meta[_ARGUMENTS]
    return found


def dropout_seed(seed: int | None, has_dropout: bool) -> int:
    """The value of ``--seed``, by default 0; warns if it was given and nothing uses it."""
    if seed is not None and not has_dropout:
        say("--seed is not used: dropout is off; --dropout keeps it on.", err=True)
    return seed or 0


def _require_working_directory() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        # Libraries that torch loads would abort the process.
        raise RunError(
            "The current directory was removed; change to an existing directory."
        ) from None


def _sentence_about(error: Exception) -> str | None:
    """A sentence about an error that the user can solve; ``None`` for any other error."""
    if isinstance(error, (click.ClickException, click.exceptions.Exit)):
        return None
    found = shortage_of(error)
    if found is not None:
        return f"{found.text}."
    if isinstance(error, OSError) and error.errno in _NO_PATH:
        place = f"'{error.filename}' cannot be used: " if error.filename else ""
        return f"{place}{error.strerror}."
    return None


class LongCommand(Command):
    """A command that continues without output when its output can no longer be written."""

    only_prints = False


class Group(click.Group):
    """A group of commands."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs one of the commands as a program."""
        return run_program(super().main, *args, **kwargs)


def run_program(main: Any, *args: Any, **kwargs: Any) -> Any:
    """Runs a Click command in this process, with the output settings of `nectargan.output`."""
    if sys.stdout is sys.__stdout__:
        # Also applies when the interpreter closes the remaining files at exit.
        sys.unraisablehook = _log_unraisable
        # Without a handler, logging prints to standard error.
        logging.getLogger().addHandler(logging.NullHandler())
        # It prints a traceback if an optional library is missing.
        logging.getLogger("torch.autograd.profiler").setLevel(logging.CRITICAL)
    guard_streams()
    try:
        return main(*args, **kwargs)
    except NectarGANError as error:
        # Raised while Click itself printed, for example the help.
        _say_error(str(error))
        sys.exit(error.exit_code)


def _say_error(sentence: str) -> None:
    say(f"Error: {sentence}", err=True)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Prints Python's warnings and the log messages of NectarGAN as one line each.

    Log messages of other libraries are not printed; see `nectargan.loggers.sinks_log`.
    """
    warnings.showwarning = _show_warning
    threading.excepthook = _show_thread_error
    # MLflow's own log handlers print to standard error.
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    # The follower warns once if a server cannot be reached; urllib3 warns at every attempt.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    handler = _ToStandardError(logging.WARNING)
    handler.addFilter(logging.Filter("nectargan"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class _ToStandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), err=True)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        say(f"Warning: {message}", err=True)
    else:
        # Other threads run the sinks, so the warning is one of a library.
        logging.getLogger("py.warnings").warning("%s: %s", category.__name__, message)


def _show_thread_error(args: threading.ExceptHookArgs) -> None:
    name = "" if args.thread is None else args.thread.name
    if name.startswith("nectargan-"):
        threading.__excepthook__(args)
    elif args.exc_value is not None:
        # A thread of TensorBoard ends with an error when the disk is full. Its sink reports that.
        logging.getLogger("threading").error("Thread %s", name, exc_info=args.exc_value)


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    logging.getLogger("unraisable").error("%r", args.object, exc_info=args.exc_value)
