"""Memory and CPU limits of Linux control groups (versions 1 and 2), as set for containers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def memory_limit(root: Path = ROOT, own: Path = OWN) -> float:
    """The memory limit of this process in bytes; infinity if there is none.

    It is the smallest limit of the control group of the process and of all its parent groups.
    """
    limits = [math.inf]
    for group in _groups(own):
        for file in (
            root / group / "memory.max",
            root / "memory" / group / "memory.limit_in_bytes",
        ):
            with suppress(OSError, ValueError):  # the file is missing, or contains "max"
                limits.append(int(file.read_text()))
    return min(limits)


def cpu_quota(root: Path = ROOT, own: Path = OWN) -> float:
    """The CPU quota of this process in cores; infinity if there is none.

    It is the smallest quota of the control group of the process and of all its parent groups.
    """
    quotas = [math.inf]
    for group in _groups(own):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (root / group / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        with suppress(OSError, ValueError, ZeroDivisionError):
            folder = root / "cpu" / group
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
            quotas.append(int(quota) / int(period))
    return min(quota for quota in quotas if quota > 0)  # -1 means no quota


def _groups(own: Path) -> Iterator[Path]:
    """The control groups of this process and all their parents, as paths relative to the root."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        path = Path(line.rpartition(":")[2].lstrip("/"))
        yield from (path, *path.parents)
