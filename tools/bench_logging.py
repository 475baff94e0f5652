"""Measures the cost of the record: losses in the manager, rows in the ledger, reading them.

python tools/bench_logging.py
python tools/bench_logging.py --json figures.json
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from benchmarking import Row, count_option, interleaved, json_option, report

from nectargan.losses.loss_manager import LossManager
from nectargan.record.ledger import Ledger, LossRow
from nectargan.record.recorder import LossRecorder
from nectargan.record.run_directory import LOSSES_FILE
from nectargan.record.seeking import first_step_from
from nectargan.scheduling.data import Schedule

NAMES = ("G_GAN", "G_L1", "D_real", "D_fake")
BATCH = 2000
STEPS_PER_EPOCH = 400
START = 1_700_000_000_000  # Unix time in milliseconds
# Longer than any run here, because a schedule is cheaper after its end.
RAMP = Schedule("linear", 1, 10_000, 100.0, 1.0)


# --- the manager -------------------------------------------------------------------------------


def manager_rows(directory: Path, rounds: int, steps: int) -> list[Row]:
    """Microseconds of a weighted loss in addition to its function and a multiplication."""
    value = torch.rand(())
    raw = {name: value.clone() for name in NAMES}

    def by_hand() -> None:
        for _ in range(steps):
            for name in NAMES:
                raw[name].abs() * 2.0

    ledgers = [Ledger(directory / f"manager_{n}.csv", LossRow) for n in range(2)]
    recorders = [LossRecorder(ledger.append) for ledger in ledgers]

    def managed(
        schedule: Schedule | None, recorder: LossRecorder | None = None
    ) -> Callable[[], None]:
        manager = LossManager()
        for name in NAMES:
            manager.register_loss_fn(name, torch.abs, loss_weight=2.0, schedule=schedule)
        if recorder is not None:
            manager.register_hook(recorder)
        step = 0

        def run() -> None:
            nonlocal step
            for _ in range(steps):
                step += 1
                manager.start_step(1 + step // STEPS_PER_EPOCH, step)
                for name in NAMES:
                    manager.compute_loss(name, raw[name])

        return run

    actions = {
        "by hand": by_hand,
        "a loss in the manager, no hooks": managed(None),
        "a loss in the manager, no hooks, scheduled": managed(RAMP),
        "a loss in the manager, recorder": managed(None, recorders[0]),
        "a loss in the manager, recorder, scheduled": managed(RAMP, recorders[1]),
    }
    for action in actions.values():
        action()
    seconds = interleaved(actions, rounds)
    for recorder, ledger in zip(recorders, ledgers, strict=True):
        recorder.flush()
        ledger.close()
    rows = []
    for name in list(actions)[1:]:
        pairs = zip(seconds[name], seconds["by hand"], strict=True)
        extra = [(ours - theirs) / (steps * len(NAMES)) * 1e6 for ours, theirs in pairs]
        rows.append(Row.of(name, "us more", extra, limit=5.0 if "no hooks" in name else 15.0))
    return rows


# --- the ledger --------------------------------------------------------------------------------


def write_ledger(path: Path, count: int) -> None:
    """Writes a ledger with ``count`` rows, as in a run with four losses."""
    block = 400_000
    with path.open("wb") as file:
        file.write((",".join(LossRow._fields) + "\n").encode())
        for first in range(0, count, block):
            steps = first // len(NAMES) + 1
            lines = [
                f"{steps + i // 4},{1 + (steps + i // 4) // STEPS_PER_EPOCH},{START + first + i},"
                f"{NAMES[i % 4]},{0.1 + i / 1e6:.8f},100,{10 + i / 1e4:.6f}\n"
                for i in range(min(block, count - first))
            ]
            file.write("".join(lines).encode())


def more_rows(path: Path, number: int) -> Iterator[list[LossRow]]:
    """Yields ``number`` batches of rows that continue a ledger, with float32 values."""
    begin = first_step_from(path, path.stat().st_size)
    raw = np.linspace(0.1, 1.0, BATCH, dtype=np.float32)
    for step in range(begin, begin + number * BATCH, BATCH):
        at = START + step * len(NAMES)
        yield [
            LossRow(step + i // 4, 1, at + i, NAMES[i % 4], value, 100.0, value * 100)
            for i, value in enumerate(raw)
        ]


def ledger_rows(large: Path, small: Path, rounds: int) -> list[Row]:
    """Microseconds for appending a row to a small and a large ledger; the rows are the same."""
    ledgers = {
        "appending a row to the small ledger": Ledger(small, LossRow, resume=True),
        "appending a row to the large ledger": Ledger(large, LossRow, resume=True),
    }
    batches = list(more_rows(large, rounds + 1))
    waiting = {name: iter(batches) for name in ledgers}

    def append(name: str) -> None:
        ledgers[name].append(next(waiting[name]))

    for name in ledgers:
        append(name)
    seconds = interleaved({name: partial(append, name) for name in ledgers}, rounds)
    for ledger in ledgers.values():
        ledger.close()
    each = {name: [s / BATCH * 1e6 for s in values] for name, values in seconds.items()}
    first, second = ledgers
    return [
        Row.of(first, "us", each[first]),
        Row.compared(second, "us", each, first, limit=1.05),
    ]


def memory_row(large: Path, count: int) -> Row:
    """Peak memory of appending ``count`` rows, without that of the imports.

    Measured in new processes, because this one could reuse memory.
    """
    imports = """
from pathlib import Path
from bench_logging import Ledger, LossRow, more_rows
"""
    append = f"""
path = Path({str(large)!r})
ledger = Ledger(path, LossRow, resume=True)
for rows in more_rows(path, {max(1, count // BATCH)}):
    ledger.append(rows)
"""
    (_, before), (_, after) = run_child(imports), run_child(imports + append)
    return Row.of("memory grown while appending", "MB", [(after - before) / 1e6], limit=20.0)


def reading_rows(run: Path, out: Path) -> list[Row]:
    """Seconds and peak memory of reading the large ledger, each in a new process."""
    load = f"""
from nectargan.analysis import load_losses
load_losses({str(run)!r})
"""
    export = f"""
from nectargan.cli.main import main
arguments = ["export-csv", {str(run)!r}, "-o", {str(out)!r}, "--every", "100"]
main(arguments, standalone_mode=False)
"""
    rows = []
    for name, code in (("load_losses", load), ("export-csv --every 100", export)):
        seconds, peak = run_child(code)
        rows.append(Row.of(f"{name} of the large ledger", "s", [seconds]))
        rows.append(Row.of(f"{name}, peak memory", "GB", [peak / 1e9], limit=1.5))
    return rows


def run_child(code: str) -> tuple[float, float]:
    """Runs code in a new process; returns seconds and peak memory in bytes."""
    code += "\nfrom benchmarking import peak_memory\nprint(peak_memory())"
    command = [sys.executable, "-c", code]
    here = str(Path(__file__).parent)
    began = time.perf_counter()
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)  # noqa: S603
    return time.perf_counter() - began, float(done.stdout.split()[-1])


@click.command()
@json_option
@count_option("--rows", 10_000_000, "Rows of the large ledger.")
@count_option("--rounds", 21, "Number of rounds.")
@count_option("--steps", 2000, "Steps of the manager per round.")
@click.option("--quick", is_flag=True, help="Few rows, rounds and steps, to test the tool.")
def main(json_path: Path | None, rows: int, rounds: int, steps: int, quick: bool) -> None:
    """Benchmark of the record."""
    if quick:
        rows, rounds, steps = min(rows, 40_000), min(rounds, 3), min(steps, 20)
    with tempfile.TemporaryDirectory(prefix="bench_logging_") as scratch:
        root = Path(scratch)
        found = manager_rows(root, rounds, steps)
        run = root / "run"
        run.mkdir()
        write_ledger(run / LOSSES_FILE, rows)
        write_ledger(root / "small.csv", min(rows, 10_000))
        found += ledger_rows(run / LOSSES_FILE, root / "small.csv", rounds)
        found += reading_rows(run, root / "every_100th.csv")
        found.append(memory_row(run / LOSSES_FILE, rows // 10))
    report(found, [], json_path)


if __name__ == "__main__":
    main()
