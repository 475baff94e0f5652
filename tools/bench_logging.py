"""Measures what the record costs: losses in the manager, rows in the ledger, reading them again.

python tools/bench_logging.py
python tools/bench_logging.py --json figures.json
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import psutil
import torch
from benchmarking import Row, interleaved, report

from nectargan.loggers.ledger import LOSSES_FILE, Ledger, LossRow
from nectargan.loggers.recorder import LossRecorder
from nectargan.losses.loss_manager import LossManager
from nectargan.scheduling.data import Schedule

NAMES = ("G_GAN", "G_L1", "D_real", "D_fake")
RAMP = Schedule("linear", 1, 200, 100.0, 1.0)
MIB = 2**20


# --- the manager -------------------------------------------------------------------------------


def manager_rows(directory: Path, rounds: int, steps: int) -> list[Row]:
    """Microseconds that a weighted loss takes beyond its function and a multiplication."""
    value = torch.rand(())
    raw = {name: value.clone() for name in NAMES}

    def by_hand() -> None:
        for _ in range(steps):
            for name in NAMES:
                raw[name].abs() * 2.0

    def managed(schedule: Schedule | None, recorded: bool) -> Callable[[], None]:
        manager = LossManager()
        for name in NAMES:
            manager.register_loss_fn(name, torch.abs, loss_weight=2.0, schedule=schedule)
        if recorded:
            ledger = Ledger(directory / f"manager_{schedule is None}.csv", LossRow)
            manager.register_hook(LossRecorder(ledger.append))
        made = 0

        def run() -> None:
            nonlocal made
            for _ in range(steps):
                made += 1
                manager.start_step(1 + made // 100, made)
                for name in NAMES:
                    manager.compute_loss(name, raw[name])

        return run

    actions = {
        "by hand": by_hand,
        "a loss in the manager, no hooks": managed(None, False),
        "a loss in the manager, no hooks, scheduled": managed(RAMP, False),
        "a loss in the manager, recorder": managed(None, True),
        "a loss in the manager, recorder, scheduled": managed(RAMP, True),
    }
    for action in actions.values():
        action()
    seconds = interleaved(actions, rounds)
    rows = []
    for name in list(actions)[1:]:
        pairs = zip(seconds[name], seconds["by hand"], strict=True)
        extra = [(ours - theirs) / (steps * len(NAMES)) * 1e6 for ours, theirs in pairs]
        rows.append(Row.of(name, "us more", extra, limit=5.0 if "no hooks" in name else 15.0))
    return rows


# --- the ledger --------------------------------------------------------------------------------


def write_ledger(path: Path, count: int) -> None:
    """A ledger of ``count`` rows, as a run with four losses writes it."""
    block = 400_000
    with path.open("wb") as file:
        file.write((",".join(LossRow._fields) + "\n").encode())
        for first in range(0, count, block):
            steps = first // len(NAMES) + 1
            lines = [
                f"{steps + i // 4},{1 + (steps + i // 4) // 400},{1_700_000_000_000 + i},"
                f"{NAMES[i % 4]},{0.1 + i / 1e6:.8f},100,{10 + i / 1e4:.6f}\n"
                for i in range(min(block, count - first))
            ]
            file.write("".join(lines).encode())


def ledger_rows(large: Path, small: Path, rounds: int, batch: int) -> list[Row]:
    """Microseconds for appending a row to each ledger, and the memory that it takes."""
    ledgers = {
        "appending a row to the small ledger": Ledger(small, LossRow, go_on=True),
        "appending a row to the large ledger": Ledger(large, LossRow, go_on=True),
    }
    rows = [
        LossRow(i, 1, 1_700_000_000_000 + i, NAMES[i % 4], 0.125, 100.0, 12.5) for i in range(batch)
    ]
    for ledger in ledgers.values():
        ledger.append(rows)
    before = psutil.Process().memory_info().rss
    seconds = interleaved(
        {name: partial(ledger.append, rows) for name, ledger in ledgers.items()},
        rounds,
    )
    grown = psutil.Process().memory_info().rss - before
    for ledger in ledgers.values():
        ledger.close()
    each = {name: [s / batch * 1e6 for s in values] for name, values in seconds.items()}
    first, second = ledgers
    return [
        Row.of(first, "us", each[first]),
        Row.compared(second, "us", each, first, limit=1.05),
        Row.of("memory grown while appending", "MiB", [grown / MIB], limit=20.0),
    ]


def reading_rows(run: Path, out: Path) -> list[Row]:
    """Seconds and peak memory of reading the large ledger, each in a process of its own."""
    load = f"""
from nectargan.analysis.history import load_losses
load_losses({str(run)!r})
"""
    export = f"""
from nectargan.analysis.history import export_csv
from pathlib import Path
export_csv([{str(run)!r}], Path({str(out)!r}), every=100)
"""
    rows = []
    for name, code in (("load_losses", load), ("export-csv --every 100", export)):
        seconds, peak = _child(code)
        rows.append(Row.of(f"{name} of the large ledger", "s", [seconds]))
        rows.append(Row.of(f"{name}, peak memory", "GiB", [peak / 2**30], limit=1.5))
    return rows


def _child(code: str) -> tuple[float, float]:
    """Seconds and peak resident bytes of a Python process."""
    code += "\nfrom benchmarking import peak_memory\nprint(peak_memory())"
    command = [sys.executable, "-c", code]
    here = str(Path(__file__).parent)
    began = time.perf_counter()
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)  # noqa: S603
    return time.perf_counter() - began, float(done.stdout.split()[-1])


@click.command()
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
@click.option("--rows", default=10_000_000, show_default=True, help="Of the large ledger.")
@click.option("--rounds", default=21, show_default=True, help="Rounds of all actions in turn.")
@click.option("--steps", default=2000, show_default=True, help="Steps of the manager in a round.")
def main(json_path: Path | None, rows: int, rounds: int, steps: int) -> None:
    """Benchmark of the record."""
    with tempfile.TemporaryDirectory(prefix="bench_logging_") as scratch:
        root = Path(scratch)
        found = manager_rows(root, rounds, steps)
        run = root / "run"
        run.mkdir()
        write_ledger(run / LOSSES_FILE, rows)
        write_ledger(root / "small.csv", min(rows, 10_000))
        found += ledger_rows(run / LOSSES_FILE, root / "small.csv", rounds, batch=2000)
        found += reading_rows(run, root / "every_100th.csv")
    report(found, [], json_path)


if __name__ == "__main__":
    main()
