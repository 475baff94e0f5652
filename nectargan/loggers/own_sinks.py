"""Creates the custom sinks that a config or a call of `track` describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nectargan.errors import ConfigError, did_you_mean
from nectargan.imports import call_imported, import_path
from nectargan.names import SINK_NAMES, is_sink_name
from nectargan.record.follower import Sink
from nectargan.record.run_directory import RunDirectory

_METHODS = ("open", "write", "add_file", "close")
_KEYS = ("function", "every_n_steps", "arguments")


def make_sink(
    place: str, name: str, function: str, arguments: Mapping[str, Any], every_n_steps: int
) -> Sink:
    """Creates a sink from the import path of its class; see `attach` for its run directory.

    Args:
        place: Where the sink is described, for messages, such as ``logging.sinks.mine``.
        name: Name of the sink in messages.
        function: Import path of a class, or of a function that returns a sink.
        arguments: Keyword arguments of the class or function.
        every_n_steps: Steps between two points of a loss.

    Raises:
        ConfigError: the class cannot be imported, rejects its arguments, or lacks a method.
    """
    found = import_path(f"{place}.function", function)
    sink = call_imported(f"{place}.arguments", function, found, arguments)
    return _checked(sink, f"{place}.function is '{function}', which makes", name, every_n_steps)


def make_sinks(described: Mapping[str, Sink | Mapping[str, Any]]) -> list[Sink]:
    """Creates the sinks of a call of `track`.

    Args:
        described: By name: a sink, or a section as in ``logging.sinks`` of a config.

    Raises:
        ConfigError: a name or a key is invalid, or `make_sink` raises it.
    """
    sinks = []
    for name, each in described.items():
        place = f"sinks[{name!r}]"
        if not is_sink_name(name):
            raise ConfigError(f"{place} cannot be used: {SINK_NAMES}.")
        if not isinstance(each, Mapping):
            every = getattr(each, "every_n_steps", 1)
            sinks.append(_checked(each, f"{place} is", name, every))
            continue
        for key in each:
            if key not in _KEYS:
                raise ConfigError(f"{place} has the key '{key}'.{did_you_mean(str(key), _KEYS)}")
        if not isinstance(each.get("function"), str):
            raise ConfigError(f"{place} needs a 'function', an import path.")
        arguments, every = each.get("arguments", {}), each.get("every_n_steps", 1)
        if not isinstance(arguments, Mapping):
            raise ConfigError(f"The arguments of {place} are {arguments!r}; give a dictionary.")
        sinks.append(make_sink(place, name, each["function"], arguments, every))
    return sinks


def attach(sink: Sink, directory: RunDirectory) -> Sink:
    """Sets the attribute ``directory`` of a custom sink to the path of the run directory."""
    sink.directory = directory.path  # type: ignore[attr-defined]  # not in `Sink`
    return sink


def _checked(sink: Any, what: str, name: str, every_n_steps: object) -> Sink:
    kind = type(sink).__name__
    missing = [method for method in _METHODS if not callable(getattr(sink, method, None))]
    if missing:
        raise ConfigError(f"{what} a {kind} without the methods of a sink: {', '.join(missing)}.")
    if type(every_n_steps) is not int or every_n_steps < 1:
        raise ConfigError(
            f"every_n_steps of the sink '{name}' is {every_n_steps!r}; it must be a whole number, "
            "1 or more."
        )
    try:
        sink.name, sink.every_n_steps = name, every_n_steps
    except AttributeError:
        raise ConfigError(
            f"{what} a {kind} whose attributes name and every_n_steps cannot be set."
        ) from None
    checked: Sink = sink
    return checked
