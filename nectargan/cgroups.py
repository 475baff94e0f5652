"""What Linux's control groups, version 1 and 2, allow a process: those of a container or a job."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def memory_limit(root: Path = ROOT, own: Path = OWN) -> float:
    """The least limit, in bytes, of this process's group and those above it; infinity for none."""
    limits = [math.inf]
    for group in _groups(own):
        for file in (
            root / group / "memory.max",
            root / "memory" / group / "memory.limit_in_bytes",
        ):
            with suppress(OSError, ValueError):  # there is none, or it says "max"
                limits.append(int(file.read_text()))
    return min(limits)


def cpu_quota(root: Path = ROOT, own: Path = OWN) -> float:
    """The least quota of processor time, in cores, of this process's group and those above it;
    infinity for none."""
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
    return min(quota for quota in quotas if quota > 0)  # -1 is none


def _groups(own: Path) -> Iterator[Path]:
    """The groups of this process and all above them, as paths below the root."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        path = Path(line.rpartition(":")[2].lstrip("/"))
        yield from (path, *path.parents)
