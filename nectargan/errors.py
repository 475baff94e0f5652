"""The exceptions of the package. No other module defines one.

Every error caused by bad input is a `NectarGANError` whose message names the value, where it came
from and what is allowed. The commands print the message and exit with code 2. Any other exception
that reaches a user is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


class NectarGANError(Exception):
    """Base class of all errors caused by bad input. The message is one sentence for the user.

    Attributes:
        exit_code: The exit code of a command that ends with this error.
    """

    exit_code = 2

    def __str__(self) -> str:
        # Two subclasses also derive from KeyError, whose __str__ returns the repr of the message.
        return str(self.args[0]) if self.args else ""


class ConfigError(NectarGANError, ValueError):
    """A config file, or an option that overrides one, cannot be used."""


class ScheduleError(NectarGANError, ValueError):
    """The fields of a `Schedule` are invalid or contradict each other."""


class UnknownScheduleError(NectarGANError, TypeError, KeyError):
    """A schedule function is neither callable nor the name of a built-in schedule."""


class LossError(NectarGANError, ValueError):
    """A loss cannot be registered or computed."""


class UnknownLossError(LossError, KeyError):
    """No loss is registered under the given name."""


class ModelError(NectarGANError, ValueError):
    """A network cannot be built with the given arguments, or cannot take the given image size."""


class DataError(NectarGANError, ValueError):
    """A data set cannot be used. The message lists every problem found, one per line."""


class CheckpointError(NectarGANError, ValueError):
    """A checkpoint or a file of weights cannot be read."""


class ExportError(NectarGANError, ValueError):
    """A model cannot be exported, or would not do what the trained network does."""


class RunError(NectarGANError, ValueError):
    """A run directory, or a ledger in it, cannot be created, read or used."""


PRUNED = "pruned by "
"""How the message of a `PrunedError` begins, which becomes the reason in the status of the run."""


class PrunedError(NectarGANError):
    """A run of a sweep is ended because its metric is worse than that of other runs."""


class PeerError(NectarGANError):
    """Another process that trains the same run ended. The message says why, if that is known."""


class OutputError(NectarGANError, OSError):
    """A command that only prints cannot write to standard output."""


class NonFiniteError(NectarGANError, ArithmeticError):
    """A loss became NaN or infinite, and the config says that the run stops in this case."""

    exit_code = 3


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Text to end a message about an unknown name: the closest match and all allowed names."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{hint} Allowed: {', '.join(allowed)}."


def check_choice(
    error: type[NectarGANError], owner: str, name: str, value: object, allowed: Collection[str]
) -> None:
    """Raises ``error`` unless ``value`` is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise error(f"{owner}: {name} is {value!r}.{did_you_mean(str(value), allowed)}")
