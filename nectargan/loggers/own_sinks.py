"""Sinks of one's own: made from what a config, or a call of `track`, says of them."""

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
    """Makes a sink that is named by its import path; `attach` tells it its run.

    Args:
        place: Where it is described, for messages: ``logging.sinks.mine``.
        name: What messages call it.
        function: Import path of its class, or of a function that makes one.
        arguments: Keyword arguments for that.
        every_n_steps: Steps from one point of a loss to the next.

    Raises:
        ConfigError: it cannot be imported, refuses its arguments, or lacks a method.
    """
    found = import_path(f"{place}.function", function)
    sink = call_imported(f"{place}.arguments", function, found, arguments)
    return _checked(sink, f"{place}.function is '{function}', which makes", name, every_n_steps)


def make_sinks(described: Mapping[str, Sink | Mapping[str, Any]]) -> list[Sink]:
    """The sinks of a call of `track`: objects, or sections as in ``logging.sinks`` of a config.

    Raises:
        ConfigError: a name or a key cannot be used, or as from `make_sink`.
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
    """Tells a sink of one's own the directory of its run, as its attribute ``directory``."""
    sink.directory = directory.path  # type: ignore[attr-defined]
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
