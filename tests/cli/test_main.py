from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nectargan.cli.main import main
from nectargan.cli.train import train
from nectargan.version import __version__

from .conftest import Run


def test_the_group_lists_its_commands(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("train", "data", "export-csv", "plot", "schedule"):
        assert f"\n  {command} " in result.stdout


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command there is, groups as well, as one types it."""
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", commands(main), ids="-".join)
def test_help_has_a_short_option(run: Run, path: tuple[str, ...]) -> None:
    short, long = run(*path, "-h"), run(*path, "--help")
    assert (short.exit_code, short.stdout) == (0, long.stdout)
    assert short.stdout.startswith("Usage: ")


def test_so_has_the_training_command_of_its_own() -> None:
    result = CliRunner().invoke(train, ["-h"])
    assert (result.exit_code, result.stdout.split()[0]) == (0, "Usage:")


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"nectargan, version {__version__}\n"


@pytest.mark.parametrize("command", [[], ["train"], ["data", "synth"], ["export-csv"], ["plot"]])
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    """Help answers at once because it imports next to nothing; the clock is left to a benchmark."""
    code = (
        "import sys\n"
        "from nectargan.cli.main import main\n"
        f"main({command!r} + ['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'pandas', 'mlflow', 'matplotlib', 'PIL', 'rich'}\n"
        "sys.exit(str(sorted(heavy & sys.modules.keys())) if heavy & sys.modules.keys() else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a directory that is in use")
def test_a_working_directory_that_was_removed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    before = Path.cwd()
    os.chdir(tmp_path / "gone")
    try:
        (tmp_path / "gone").rmdir()
        result = run("train", "-c", "c.json")
    finally:
        os.chdir(before)
    assert result.exit_code == 2
    assert (
        result.stderr
        == "Error: The current directory was removed; change to an existing directory.\n"
    )
