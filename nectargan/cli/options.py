"""Options with a heading in the help, and options that set a key of the config."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

OTHERS = "Options"


class Option(click.Option):
    """An option that is listed under a heading in the help.

    Args:
        *args: As for `click.Option`.
        group: The heading. Options with the same heading need not be adjacent.
        **options: As for `click.Option`.
    """

    def __init__(self, *args: Any, group: str = OTHERS, **options: Any) -> None:
        super().__init__(*args, **options)
        self.group = group

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The name and the help text; text in brackets that Click adds is merged with ours."""
        record = super().get_help_record(ctx)
        return record and (record[0], record[1].replace("]  [", "; "))


class Setting(Option):
    """An option that sets a key of the config. The help shows the key.

    Args:
        *args: As for `click.Option`.
        key: The dotted key.
        default_text: The default in the schema, for the help; importing the schema for a help
            text would take long.
        sets: The value that a flag sets; ``None`` for an option with a value.
        **options: As for `Option`.
    """

    def __init__(
        self, *args: Any, key: str, default_text: str = "", sets: bool | None = None, **options: Any
    ) -> None:
        super().__init__(*args, is_flag=sets is not None, **options)
        self.key = key
        self.default_text = default_text
        self.sets = sets

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The name and the help text, with the key and its default at the end."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        name, text = record
        key = f"{self.key}={str(self.sets).lower()}" if self.sets is not None else self.key
        extra = f"{key}; default: {self.default_text}" if self.default_text else key
        return name, f"{text}  [{extra}]".replace("]  [", "; ")


def option(*names: str, **options: Any) -> Callable[[_Command], _Command]:
    """Adds an `Option` to a command, as `click.option` does."""
    return click.option(*names, cls=Option, **options)


def setting(*names: str, key: str, **options: Any) -> Callable[[_Command], _Command]:
    """Adds a `Setting` to a command."""
    return click.option(*names, cls=Setting, key=key, **options)


def with_options(command: _Command, options: Sequence[Callable[[_Command], _Command]]) -> _Command:
    """Adds options to a command, which help lists in this order."""
    for add in reversed(options):
        command = add(command)
    return command


def settings_of(command: click.Command, given: dict[str, Any]) -> list[tuple[Setting, Any]]:
    """The settings that the user gave, with their values.

    Args:
        command: The command.
        given: The values of its parameters by name.
    """
    found = []
    for each in command.params:
        value = given.get(each.name or "")
        if isinstance(each, Setting) and value is not None and value is not False:
            found.append((each, value if each.sets is None else each.sets))
    return found


def write_groups(
    formatter: click.HelpFormatter, records: Iterable[tuple[str, tuple[str, str]]]
) -> None:
    """Writes the options of a help text under their headings; options without a heading come last.

    Args:
        formatter: The formatter.
        records: For each option, its heading and the result of `click.Option.get_help_record`.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for heading, record in records:
        groups.setdefault(heading, []).append(record)
    others = groups.pop(OTHERS, [])
    if others:
        groups["Other options" if groups else OTHERS] = others
    for heading, rows in groups.items():
        with formatter.section(heading):
            formatter.write_dl(rows)
