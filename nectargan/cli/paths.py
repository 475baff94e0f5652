"""Click parameter types for paths, which expand ``~`` and ``$NAME`` as a shell does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from nectargan.shell import expanded, is_pattern, matches, stands_for_nothing

_MOST_NAMED = 5


# Click declares the class as generic, but older versions cannot subscript it.
class UserPath(click.ParamType):  # type: ignore[type-arg]
    """A path given by the user.

    Args:
        is_pattern_too: Whether a pattern such as ``runs/a*`` is accepted if it matches exactly one
            path.
        as_text: Whether to return a string, for arguments that need not be paths.
    """

    name = "path"

    def __init__(self, is_pattern_too: bool = False, as_text: bool = False) -> None:
        self._is_pattern_too = is_pattern_too
        self._as_text = as_text

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | str:
        """Returns the expanded path; fails if ``~`` or ``$NAME`` is not defined."""
        path = expanded(str(value))
        if nothing := stands_for_nothing(path):
            self.fail(f"'{value}': {nothing}.", param, ctx)
        if self._is_pattern_too and is_pattern(path):
            found = [str(match) for match in matches(path)]
            if len(found) != 1:
                self.fail(f"'{value}' {_matches_text(found)}", param, ctx)
            path = found[0]
        return path if self._as_text else Path(path)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Leaves the completion of paths to the shell."""
        return [CompletionItem(incomplete, type="file")]


class DataPath(UserPath):
    """A data set: a folder, or patterns of the names of shards; converted to text."""

    name = "data"

    def __init__(self) -> None:
        super().__init__(is_pattern_too=True, as_text=True)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | str:
        """Returns the text as it is if it names shards, else the expanded path."""
        from nectargan.dataset.shard_names import names_shards

        return str(value) if names_shards(str(value)) else super().convert(value, param, ctx)


class ConfigPath(UserPath):
    """A config: a file, or the name of a config that comes with NectarGAN."""

    name = "config"

    def __init__(self) -> None:
        super().__init__(is_pattern_too=True, as_text=True)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Completes names of shipped configs, or files if no name begins with ``incomplete``."""
        from nectargan.config.shipped import shipped_configs

        names = [CompletionItem(n) for n in shipped_configs() if n.startswith(incomplete)]
        return names or super().shell_complete(ctx, param, incomplete)


def _matches_text(found: list[str]) -> str:
    if not found:
        return "matches nothing."
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return f"matches {len(found)}: {', '.join(found[:_MOST_NAMED])}{more}; give one of them."


OUTPUT = UserPath()
INPUT = UserPath(is_pattern_too=True)
DATA = DataPath()
# A run directory, a pattern that matches run directories, or an address such as mlflow:RUN_ID.
RUN = UserPath(as_text=True)
