"""Kills by SIGKILL, wherever they hit: see ``tools/crash_test.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "crash_test.py"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize(
    ("kills", "processes"),
    [
        (4, 1),
        pytest.param(10, 1, marks=pytest.mark.slow),
        pytest.param(5, 2, marks=pytest.mark.slow),
    ],
)
def test_kills(kills: int, processes: int) -> None:
    command = [sys.executable, str(TOOL), "--kills", str(kills), "--seed", "1"]
    command += ["--nproc", str(processes)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{kills} kills" in done.stdout
    assert "equal to the bit" in done.stdout
