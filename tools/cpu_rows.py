"""Rows of `bench_train` on a CPU: the step beside that of v0.2.3, and on cores that are busy.

Every kind of step runs in a process of its own, because threads and memory are set up once for a
process. The processes take turns; one that waits for its turn takes no time.
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
    """A process of `step_process`, which makes a step when it is asked to.

    Args:
        kind: See `step_process`; threads of "original" wait as those of "ours" do.
        config: A file with the config.
        variables: Environment variables besides the user's.
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
        """Makes a step and waits for it."""
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        print(file=self._process.stdin, flush=True)
        if not self._process.stdout.readline():
            raise RuntimeError("a process of step_process.py ended early")


def original_rows(setting: Setting, rounds: int, seconds: float) -> list[Row]:
    """Our step and that of v0.2.3, with networks of the same size and the same waiting of threads.

    The original has the memory settings that it had, those of the C library.
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
    """Operations of a step, and how near it comes to the machine's rate of a matrix product."""
    return {
        "gflop_per_step": flops / 1e9,
        "sgemm_gflops": rate / 1e9,
        "share_of_sgemm_%": 100 * flops / rate / (milliseconds / 1000),
    }


def contended_rows(setting: Setting, rounds: int, seconds: float) -> list[Row]:
    """The demo's step on the cores as they are, and with a busy loop on each of them."""
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
    """Keeps cores busy for the time of a ``with`` block, each by a process of its own."""
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
    """Milliseconds of a step of each process in each round."""
    for process in processes.values():
        process.step()
    seconds = interleaved({name: p.step for name, p in processes.items()}, rounds, until)
    return {name: [1000 * s for s in each] for name, each in seconds.items()}
