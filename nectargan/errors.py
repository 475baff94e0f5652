"""The exceptions a user can meet. No other module of the package defines one.

Every error that bad input can cause is a `NectarGANError`: one sentence that names the value, the
place it came from and what is allowed. The commands print it and exit with code 2; any other
exception that reaches a user is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NectarGANError(Exception):
    """Bad input, found before anything was made. Its text is one sentence for the user.

    Attributes:
        exit_code: What a command ends with.
    """

    exit_code = 2

    def __str__(self) -> str:
        # KeyError, a base of two errors below, would show the repr of its message.
        return str(self.args[0]) if self.args else ""


class ConfigError(NectarGANError, ValueError):
    """A config file, or an option that overrides one, cannot be used."""


class ScheduleError(NectarGANError, ValueError):
    """The numbers of a `Schedule` contradict each other."""


class UnknownScheduleError(NectarGANError, TypeError, KeyError):
    """A schedule is neither callable nor the name of a built-in one."""


class LossError(NectarGANError, ValueError):
    """A loss cannot be registered or computed as asked."""


class UnknownLossError(LossError, KeyError):
    """No loss is registered under this name."""


class ModelError(NectarGANError, ValueError):
    """A network cannot be built with these numbers, or cannot take this image size."""


class DataError(NectarGANError, ValueError):
    """A data set cannot be used. Its text lists every problem found, one a line."""


class CheckpointError(NectarGANError, ValueError):
    """A checkpoint or a file of weights cannot be read."""


class RunError(NectarGANError, ValueError):
    """A run directory, or a ledger in it, cannot be made, read or used."""


class OutputError(NectarGANError, OSError):
    """Standard output cannot be written, and a command has nothing to do but to print."""


class NonFiniteError(NectarGANError, ArithmeticError):
    """A loss became NaN or infinite, and the run was to stop then."""

    exit_code = 3


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: a near match, and all that is allowed."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{hint} Allowed: {', '.join(allowed)}."
