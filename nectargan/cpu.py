"""How torch uses a CPU: how its threads wait, how many there are, and what becomes of memory.

OpenMP reads its settings when it is loaded, with torch. `prepare` therefore has to be called before
torch is imported, as ``nectargan-train`` does. Nothing here goes against a variable that the user
has set.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Sequence

from nectargan.cgroups import cpu_quota

WAITING = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "MKL_DYNAMIC")
ALLOCATOR = (
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_ARENA_MAX",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",  # by which another allocator takes the place of glibc's
)

# A thread of its own is worth while for so many floating-point operations of a step: with fewer,
# the some thousand times that threads wait for each other take as long as the work.
FLOPS_PER_THREAD = 4e9

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

_done: set[str] = set()  # what `prepare` has set, so that it is not taken for the user's


def prepare(memory: bool = True) -> None:
    """Lets threads sleep while they wait, and the process keep the memory that it frees.

    - Threads without work sleep. By default they spin for a while: if other programs are running,
      the one thread that all wait for may find no free core meanwhile.
    - There are no more threads than cores that may be used.
    - Freed memory is kept for the next step (with glibc only). Otherwise each step gets its
      gradients as new pages, which the kernel first fills with zeros. The process never shrinks.

    The first two have no effect once torch is imported, and are left out then.

    Args:
        memory: Keep freed memory.
    """
    if "torch" not in sys.modules:
        if chosen_by_user(WAITING) is None:
            _set("OMP_WAIT_POLICY", "PASSIVE")
        if chosen_by_user(THREADS) is None and usable_cores() < _affinity():
            _set("OMP_NUM_THREADS", str(usable_cores()))
    if memory and chosen_by_user(ALLOCATOR) is None and _keep_freed_memory():
        _done.add("memory")


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, or fewer by the quota of its group."""
    return max(1, math.ceil(min(_affinity(), cpu_quota())))


def worthwhile_threads(flops: float) -> int:
    """Threads for a step of so many floating-point operations, on the cores there are."""
    return max(1, int(min(usable_cores(), flops / FLOPS_PER_THREAD)))


def chosen_by_user(names: Sequence[str]) -> str | None:
    """The first of these environment variables that the user has set."""
    return next((name for name in names if name in os.environ and name not in _done), None)


def user_environment() -> dict[str, str]:
    """The environment without what `prepare` has set."""
    return {name: value for name, value in os.environ.items() if name not in _done}


def describe(threads: int) -> str:
    """What is in force, for the first line of a run.

    Args:
        threads: Threads that torch uses.
    """
    by_user = {kind: chosen_by_user(kind) for kind in (THREADS, WAITING, ALLOCATOR)}
    parts = [f"{threads} thread{'s' * (threads > 1)} on {usable_cores()} usable cores"]
    if by_user[THREADS]:
        parts[0] += f" ({by_user[THREADS]} is set)"
    if threads == 1:
        pass  # nobody waits
    elif by_user[WAITING]:
        parts.append(f"waiting as {by_user[WAITING]} says")
    elif "OMP_WAIT_POLICY" in _done:
        parts.append("passive waiting")
    else:
        parts.append("active waiting, slow on busy cores (set OMP_WAIT_POLICY=PASSIVE)")
    if "memory" in _done:
        parts.append("freed memory kept")
    return ", ".join(parts)


def _set(name: str, value: str) -> None:
    os.environ[name] = value
    _done.add(name)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _keep_freed_memory() -> bool:
    """Tells glibc never to give memory back; whether there is a glibc that agrees."""
    try:
        has_glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows, macOS, musl
        return False
    if not has_glibc:
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))
