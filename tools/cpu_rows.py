"""Rows of `bench_train` for a CPU: the step compared with that of v0.2.3, and on busy cores.

Each kind of step runs in a separate process, because threads and memory are set up once per
process. The processes run in turn; a waiting process uses no CPU time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from benchmarking import Row, interleaved
from step_floor import matmul_rate
from step_variants import Setting, Variant

from nectargan import cpu
from nectargan.trainers.memory import needed_memory

ORIGINAL_LIMIT = 0.55
TOOL = Path(__file__).with_name("step_process.py")


class StepProcess:
    """A process of `step_process`, which runs a step on request.

    Args:
        kind: See `step_process`.
        config: A file with the config.
        variables: Additional environment variables.
    """

    def __init__(self, kind: str, config: Path, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, str(TOOL), kind, str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**cpu.user_environment(), **variables},
        )

    def __enter__(self) -> StepProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def step(self) -> None:
        """Runs a step and waits until it is done."""
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        print(file=self._process.stdin, flush=True)
        if not self._process.stdout.readline():
            raise RuntimeError("a process of step_process.py ended early")


def original_rows(setting: Setting, rounds: int, seconds: float) -> list[Row]:
    """Compares our step with that of v0.2.3, with networks of the same size.

    Both use our settings for waiting threads. The original uses the memory settings of the C
    library, as it did.
    """
    config = setting.config(
        Variant("none", "eager", "fp32", 1), [("train.discriminator.n_layers", 2)]
    )
    path = setting.runs / "original.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    original, ours = (
        f"batch 1, fp32, D of two strides: {name}" for name in ("the step of v0.2.3", "our step")
    )
    with (
        StepProcess("original", path, {}) as first,
        StepProcess("ours", path, {}) as second,
    ):
        found = _in_turn({original: first, ours: second}, rounds, time.perf_counter() + seconds)
    rows = [
        Row.of(original, "ms a step", found[original]),
        Row.compared(ours, "ms a step", found, original, ORIGINAL_LIMIT),
    ]
    flops, rate = needed_memory(config, "fp32").flops, matmul_rate(torch.device("cpu"), "fp32")
    for row in rows:
        row.details = work(flops, row.median, rate)
    return rows


def work(flops: float, milliseconds: float, rate: float) -> dict[str, float | str]:
    """The operations of a step, and its share of the speed of a matrix product."""
    return {
        "gflop_per_step": flops / 1e9,
        "sgemm_gflops": rate / 1e9,
        "share_of_sgemm_%": 100 * flops / rate / (milliseconds / 1000),
    }


def contended_rows(setting: Setting, rounds: int, seconds: float) -> list[Row]:
    """Measures the step of the demo on idle cores, and with a busy loop on each core."""
    demo: list[tuple[str, Any]] = [
        ("dataloader.load", {"load_size": 136, "crop_size": 128}),
        ("train.generator", {"features": 24, "n_downs": 5}),
        ("train.discriminator", {"base_channels": 24, "n_layers": 2}),
    ]
    variant = Variant("none", "eager", "fp32", 4)
    path = setting.runs / "contended.json"
    config = setting.config(variant, [] if setting.small else demo)
    path.write_text(config.model_dump_json(), encoding="utf-8")
    kinds: dict[str, tuple[str, dict[str, str]]] = {
        "torch's defaults": ("defaults", {}),
        "as nectargan-train sets them": ("ours", {}),
        "one thread": ("ours", {"OMP_NUM_THREADS": "1"}),
    }
    rows = []
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(StepProcess(kind, path, variables))
            for name, (kind, variables) in kinds.items()
        }
        for loops in (0, cpu.usable_cores()):
            where = f"the demo's step, {loops or 'no'} busy loops: "
            with busy(loops):
                found = _in_turn(processes, rounds, time.perf_counter() + seconds / 2)
            named = {where + name: milliseconds for name, milliseconds in found.items()}
            first, *others = named
            rows.append(Row.of(first, "ms a step", named[first]))
            rows += [Row.compared(name, "ms a step", named, first) for name in others]
    return rows


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """A context manager that keeps cores busy with one process for each."""
    code = "while True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(loops)]  # noqa: S603
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _in_turn(
    processes: Mapping[str, StepProcess], rounds: int, until: float
) -> dict[str, list[float]]:
    """Milliseconds per step of each process in each round."""
    for process in processes.values():
        process.step()
    seconds = interleaved({name: p.step for name, p in processes.items()}, rounds, until)
    return {name: [1000 * s for s in each] for name, each in seconds.items()}
