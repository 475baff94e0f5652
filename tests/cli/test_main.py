from __future__ import annotations

import subprocess
import sys

import pytest

from nectargan.version import __version__

from .conftest import Run


def test_the_group_lists_its_commands(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("train", "data", "export-csv", "plot", "schedule"):
        assert f"\n  {command} " in result.stdout


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
