from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nectargan import cpu

ALL = (*cpu.WAITING, *cpu.THREADS, *cpu.ALLOCATOR)
GLIBC = sys.platform == "linux" and (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")


def run(code: str, **variables: str) -> str:
    """What ``code`` prints in a process without the user's variables but these."""
    environment = {name: value for name, value in os.environ.items() if name not in ALL}
    done = subprocess.run(
        [sys.executable, "-c", "import os\nfrom nectargan import cpu\n" + code],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.strip()


def test_settings_before_torch_is_imported() -> None:
    said = run("cpu.prepare()\nprint(os.environ['OMP_WAIT_POLICY'], cpu.describe(2), sep='|')")
    policy, line = said.split("|")
    assert policy == "PASSIVE"
    assert line.startswith("2 threads on ")
    assert "passive waiting" in line
    assert line.endswith("freed memory kept") == GLIBC


def test_the_commands_do_not_import_torch_before_it_is_prepared() -> None:
    code = "import sys, nectargan.cli.main, nectargan.cli.train\n"
    assert run(code + "print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("variable", cpu.WAITING)
def test_how_the_user_lets_threads_wait(variable: str) -> None:
    code = "before = dict(os.environ)\ncpu.prepare()\n"
    code += "print(dict(os.environ) == before, cpu.describe(2))"
    said = run(code, **{variable: "1"})
    assert said.startswith("True 2 threads on ")
    assert f"waiting as {variable} says" in said


def test_more_cores_than_the_quota_allows() -> None:
    quota = "cpu.cpu_quota, cpu._affinity = lambda: 1.5, lambda: 8\ncpu.prepare()\n"
    code = quota + "print(os.environ['OMP_NUM_THREADS'], cpu.describe(2))"
    assert run(code).startswith("2 2 threads on 2 usable cores, passive")
    said = run(code, OMP_NUM_THREADS="5")
    assert said.startswith("5 2 threads on 2 usable cores (OMP_NUM_THREADS is set), passive")
    assert run(quota + "print(os.environ.get('OMP_NUM_THREADS'))", MKL_NUM_THREADS="4") == "None"


def test_with_all_cores_torch_counts_them_itself() -> None:
    code = "cpu.cpu_quota, cpu._affinity = lambda: float('inf'), lambda: 8\ncpu.prepare()\n"
    assert run(code + "print(os.environ.get('OMP_NUM_THREADS'))") == "None"


def test_a_user_who_imports_torch_first_is_told() -> None:
    code = "import torch\nbefore = dict(os.environ)\ncpu.prepare()\n"
    said = run(code + "print(dict(os.environ) == before, cpu.describe(2))")
    assert said.startswith("True ")
    assert "active waiting, slow on busy cores (set OMP_WAIT_POLICY=PASSIVE)" in said
    # Memory can be kept at any time.
    assert said.endswith("freed memory kept") == GLIBC


def test_a_single_thread_does_not_wait() -> None:
    assert "waiting" not in cpu.describe(1)


@pytest.mark.parametrize("variable", cpu.ALLOCATOR)
def test_the_allocator_that_the_user_has_chosen(variable: str) -> None:
    value = "glibc.malloc.arena_max=4" if variable == "GLIBC_TUNABLES" else ""
    assert "memory" not in run("cpu.prepare()\nprint(cpu.describe(1))", **{variable: value})


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="other C libraries are left alone")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    """New pages that ten tensors of 40 MB need, each freed before the next is made."""
    code = """
import resource, threading, torch
def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
# Tensors larger than what a thread's own heap can hold, as a worker thread may need them.
thread = threading.Thread(target=lambda: torch.ones(50_000_000))
thread.start(); thread.join()
faults(30)  # until small objects have found places between them
print(faults(10))
"""
    kept, given_back = int(run("cpu.prepare()\n" + code)), int(run(code))
    assert kept < 1000 < 10_000 < given_back


@pytest.mark.parametrize(
    ("gflops", "cores", "threads"), [(0, 8, 1), (7.9, 8, 1), (80, 8, 8), (80, 64, 20), (80, 1, 1)]
)
def test_threads_for_the_size_of_the_work(
    monkeypatch: pytest.MonkeyPatch, gflops: float, cores: int, threads: int
) -> None:
    monkeypatch.setattr(cpu, "usable_cores", lambda: cores)
    assert cpu.worthwhile_threads(gflops * 1e9) == threads
    assert cpu.worthwhile_threads(float("inf")) == cores
