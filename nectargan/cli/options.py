"""Options that know their heading in the help, and the key of the config that they set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

OTHERS = "Options"


class Option(click.Option):
    """An option below a heading of its own in the help.

    Args:
        *args: As for `click.Option`.
        group: The heading; options of one heading may be anywhere in the command.
        **options: As for `click.Option`.
    """

    def __init__(self, *args: Any, group: str = OTHERS, **options: Any) -> None:
        super().__init__(*args, **options)
        self.group = group

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The name and the help text; what click adds in brackets joins those that are there."""
        record = super().get_help_record(ctx)
        return record and (record[0], record[1].replace("]  [", "; "))


class Setting(Option):
    """An option that sets one key of the config, which the help names.

    Args:
        *args: As for `click.Option`.
        key: The dotted key.
        default_text: The schema's default, as the help shows it; the schema itself is not loaded
            for a help text.
        sets: What a flag sets the key to.
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


def settings_of(command: click.Command, given: dict[str, Any]) -> list[tuple[Setting, Any]]:
    """The settings that were given, by the names of a command's parameters, with their values."""
    found = []
    for each in command.params:
        value = given.get(each.name or "")
        if isinstance(each, Setting) and value is not None and value is not False:
            found.append((each, value if each.sets is None else each.sets))
    return found


def write_groups(
    formatter: click.HelpFormatter, records: Iterable[tuple[str, tuple[str, str]]]
) -> None:
    """Writes the options of a help text, each heading once, those without one last.

    Args:
        formatter: Where to.
        records: A heading and what `click.Option.get_help_record` returned, for each option.
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
