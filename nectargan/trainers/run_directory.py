"""Run directories: ``<output>/<experiment>_v<N>``."""

from __future__ import annotations

import re
from pathlib import Path

from nectargan.errors import RunError


def create_run_directory(
    output: Path, experiment: str, first: int = 1, auto_increment: bool = True
) -> Path:
    """Makes the directory of a new run.

    Args:
        output: Where runs are kept; made if need be.
        experiment: First part of the name.
        first: Lowest version number to give.
        auto_increment: Take the number after the highest one there is; else exactly ``first``.

    Returns:
        The new, empty directory. Two processes never get the same one.

    Raises:
        RunError: it cannot be made, or exists and ``auto_increment`` is off.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        version = max(first, _highest_version(output, experiment) + 1) if auto_increment else first
        while True:
            directory = output / f"{experiment}_v{version}"
            try:
                directory.mkdir()
            except FileExistsError:
                if not auto_increment:
                    raise RunError(
                        f"Run directory '{directory}' exists; set save.auto_increment_version, or "
                        "another common.experiment_version."
                    ) from None
                version += 1
            else:
                return directory
    except OSError as error:
        raise RunError(f"No run can be made in '{output}': {error.strerror}.") from None


def _highest_version(output: Path, experiment: str) -> int:
    pattern = re.compile(re.escape(experiment) + r"_v(\d+)")
    matches = (pattern.fullmatch(entry.name) for entry in output.iterdir())
    # As numbers: as text, version 10 would come before version 9.
    return max((int(match[1]) for match in matches if match), default=0)
