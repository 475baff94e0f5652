"""Starts the processes of a scenario, as torchrun does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.processes import PATIENCE

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def environment() -> dict[str, str]:
    """For a process whose imports and sums are those of this one."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run_in_two(folder: Path, *names: str) -> tuple[list[int], list[str]]:
    """Runs scenarios, one after the other, in two processes.

    Args:
        folder: Where the scenarios write.
        *names: Functions in `tests.distributed.scenarios`.

    Returns:
        The exit code of each process, and what it printed.
    """
    ports = ",".join(str(free_port()) for _ in names)
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.scenarios", str(folder), ports, *names],
            env={**environment(), **group, "RANK": rank, "LOCAL_RANK": rank},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    told = [process.communicate(timeout=PATIENCE)[0] for process in started]
    return [process.returncode for process in started], told
