"""Settings for torch on the CPU: the number of threads, how they wait, and memory allocation.

OpenMP reads its settings when it is loaded, which happens when torch is imported. `prepare` must
therefore be called before torch is imported, as ``nectargan-train`` does. Environment variables
that the user has set are never changed.
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
    "LD_PRELOAD",  # may replace glibc's allocator
)

# The floating-point operations per step that make one more thread worthwhile. With fewer, the
# threads spend as long waiting for each other, some thousand times a step, as on the work.
FLOPS_PER_THREAD = 4e9

# How often an idle thread of GNU OpenMP looks for work before it sleeps, which takes about 0.1 ms.
# Most gaps between two kernels are shorter, so that idle cores lose little; a busy core is given up
# a hundred times earlier than by default. `tools/bench_train.py --contended` measures both.
SPINS = 3000

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

# The variables that `prepare` has set, to tell them from those that the user has set.
_done: set[str] = set()


def prepare(memory: bool = True) -> None:
    """Sets the environment and the allocator of this process for training on the CPU.

    - Idle threads sleep after a short while. By default they spin much longer; on a busy machine
      they then occupy the cores that the working thread needs.
    - OpenMP starts no more threads than there are usable cores.
    - Freed memory is kept for the next step (glibc only). Otherwise each step allocates its
      gradients in new pages, which the kernel must first fill with zeros. The memory of the
      process never shrinks.

    The first two are skipped if torch is already imported, because they would have no effect.

    Args:
        memory: Whether to keep freed memory.
    """
    if "torch" not in sys.modules:
        if chosen_by_user(WAITING) is None:
            _set("OMP_WAIT_POLICY", "PASSIVE")
            _set("GOMP_SPINCOUNT", str(SPINS))
        if chosen_by_user(THREADS) is None and usable_cores() < _affinity():
            _set("OMP_NUM_THREADS", str(usable_cores()))
    if memory and chosen_by_user(ALLOCATOR) is None and _keep_freed_memory():
        _done.add("memory")


def usable_cores() -> int:
    """The number of cores that this process may use, by CPU affinity and control group quota."""
    return max(1, math.ceil(min(_affinity(), cpu_quota())))


def worthwhile_threads(flops: float) -> int:
    """The number of threads to use for a step of ``flops`` floating-point operations.

    It is at least 1 and at most `usable_cores`.
    """
    return max(1, int(min(usable_cores(), flops / FLOPS_PER_THREAD)))


def chosen_by_user(names: Sequence[str]) -> str | None:
    """The first of these environment variables that the user has set; ``None`` if there is none."""
    return next((name for name in names if name in os.environ and name not in _done), None)


def user_environment() -> dict[str, str]:
    """The environment variables without those that `prepare` has set."""
    return {name: value for name, value in os.environ.items() if name not in _done}


def describe(threads: int) -> str:
    """Describes the settings in force in a few words, for the start of a run.

    Args:
        threads: Number of threads that torch uses.
    """
    by_user = {kind: chosen_by_user(kind) for kind in (THREADS, WAITING, ALLOCATOR)}
    parts = [f"{threads} thread{'s' * (threads > 1)} on {usable_cores()} usable cores"]
    if by_user[THREADS]:
        parts[0] += f" ({by_user[THREADS]} is set)"
    if threads == 1:
        pass  # a single thread never waits
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
    """Makes glibc keep freed memory; returns whether it succeeded."""
    try:
        has_glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows, macOS, musl
        return False
    if not has_glibc:
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))
