"""The run directories in an output directory: creates a new one, finds the existing ones."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from nectargan.errors import RunError
from nectargan.record.run_directory import STATUS_FILE, RunDirectory
from nectargan.wording import counted


def create_run_directory(
    output: Path, experiment: str, first: int = 1, auto_increment: bool = True
) -> RunDirectory:
    """Creates the directory of a new run, ``<output>/<experiment>_v<number>``.

    Args:
        output: Directory of the runs; created if it does not exist.
        experiment: First part of the name.
        first: Lowest version number to use.
        auto_increment: Use the number after the highest existing one; otherwise exactly ``first``.

    Returns:
        The new, empty directory. Two processes never get the same one.

    Raises:
        RunError: the directory cannot be created, or it exists and ``auto_increment`` is off.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        version = first
        if auto_increment:
            highest = max((version for version, _ in _versions(output, experiment)), default=0)
            version = max(first, highest + 1)
        while True:
            directory = output / f"{experiment}_v{version}"
            try:
                directory.mkdir()
            except FileExistsError:
                if not auto_increment:
                    raise RunError(
                        f"Run directory '{directory}' exists already; set "
                        "save.auto_increment_version or another common.experiment_version."
                    ) from None
                version += 1
            else:
                return RunDirectory(directory)
    except OSError as error:
        raise RunError(f"No run can be created in '{output}': {error.strerror}.") from None


def list_runs(output: Path, experiment: str) -> list[RunDirectory]:
    """The run directories of an experiment, sorted by version number."""
    return [RunDirectory(path) for _, path in _versions(output, experiment)]


def runs_in(folder: Path) -> list[RunDirectory]:
    """The run directories in a folder, sorted by name."""
    if not folder.is_dir():
        return []
    return [run for path in sorted(folder.iterdir()) if (run := RunDirectory(path)).status]


def _versions(output: Path, experiment: str) -> list[tuple[int, Path]]:
    if not output.is_dir():
        return []
    pattern = re.compile(re.escape(experiment) + r"_v(\d+)")
    matches = ((pattern.fullmatch(entry.name), entry) for entry in output.iterdir())
    # Sorted as numbers, because as text version 10 would come before version 9.
    return sorted((int(match[1]), entry) for match, entry in matches if match)


def require_status(directory: RunDirectory) -> None:
    """Raises `RunError` unless the directory has a status, which every run directory has."""
    if not directory.status:
        raise not_a_run(directory, STATUS_FILE)


def not_a_run(directory: RunDirectory, lacks: str) -> RunError:
    """The error for a path that is not a run directory, with a suggestion if one is likely.

    Args:
        directory: The path.
        lacks: The name of the file that is missing.
    """
    path = directory.path
    if path.is_file():
        parent = RunDirectory(path.parent)
        hint = f"; '{parent}' is one" if parent.status else ""
        return RunError(f"'{path}' is a file, not a run directory{hint}.")
    if not path.exists():
        near = [each for folder in (path.parent, Path("runs")) for each in runs_in(folder)]
        names = difflib.get_close_matches(path.name, [each.name for each in near], n=1)
        meant = next((f" Did you mean '{each}'?" for each in near if each.name in names), "")
        return RunError(f"'{path}' is not a run directory: it does not exist.{meant}")
    runs = runs_in(path)
    if runs:
        return RunError(
            f"'{path}' is not a run directory, but contains {counted(len(runs), 'run')}, such "
            f"as '{runs[0]}'."
        )
    return RunError(f"'{path}' is not a run directory: it has no {lacks}.")
