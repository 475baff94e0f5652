"""Measures `nectargan data check`: its CPU time and rate against plain decoding, and its memory.

python tools/bench_check.py --pairs 2000
python tools/bench_check.py --pairs 20000 --side 64
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import numpy as np
from benchmarking import Row, json_option, peak_memory, report
from PIL import Image

from nectargan.dataset.data_check import check_data
from nectargan.dataset.examination import Examination
from nectargan.dataset.suspicions import suspicions
from nectargan.dataset.synthetic import draw_pair


def make_pairs(folder: Path, count: int, side: int) -> None:
    """Draws different pairs: parts of drawn facades, in changing colors, with new noise."""
    rng = np.random.default_rng(0)
    drawn = [draw_pair(2 * side, np.random.default_rng(seed)) for seed in range(16)]
    for name in "AB":
        (folder / f"train{name}").mkdir(parents=True)
    for number in range(count):
        top, left = rng.integers(0, side, 2)
        gain = rng.uniform(0.6, 1.0, 3)
        for name, values in zip("AB", drawn[number % 16], strict=True):
            part = values[top : top + side, left : left + side]
            if name == "B":
                part = (part * gain + rng.integers(0, 6, part.shape)).astype(np.uint8)
            path = folder / f"train{name}" / f"{number:07}.png"
            Image.fromarray(part).save(path, compress_level=1)


def decode_all(files: list[Path]) -> float:
    """Decodes files with Pillow; returns the CPU seconds."""
    before = time.process_time()
    for file in files:
        with Image.open(file) as image:
            image.load()
    return time.process_time() - before


def check_all(folder: Path, kept: Path | None) -> dict[str, float]:
    """Runs the whole check in this process; returns seconds, CPU seconds and bytes."""
    before, cpu, began = peak_memory(), time.process_time(), time.perf_counter()
    examination = Examination(kept=kept)
    summaries = check_data(folder, examine=examination)
    found = suspicions({"train": summaries["train"].pairs}, examination.found)
    return {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "memory": peak_memory(),
        "grown": peak_memory() - before,
        "findings": sum(1 for _ in found),
        "reused": examination.reused,
    }


def in_a_process(folder: Path, kept: Path) -> dict[str, float]:
    """`check_all` in a new process, so that its memory is its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--kept", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    found: dict[str, float] = json.loads(done.stdout)
    return found


@click.command()
@click.option("--pairs", type=click.IntRange(2), default=1000, show_default=True)
@click.option("--side", type=click.IntRange(32, 512), default=256, show_default=True)
@json_option
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--kept", type=click.Path(path_type=Path), hidden=True)
def main(
    pairs: int, side: int, json_path: Path | None, folder: Path | None, kept: Path | None
) -> None:
    """Measure the check of PNG pairs with two threads, and plain decoding in two processes."""
    if folder is not None:
        click.echo(json.dumps(check_all(folder, kept)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as work:
        data = Path(work, "data")
        make_pairs(data, pairs, side)
        files = sorted(data.rglob("*.png"))
        began = time.perf_counter()
        with ProcessPoolExecutor(2) as pool:
            plain = sum(pool.map(decode_all, (files[::2], files[1::2])))
        wall = time.perf_counter() - began
        first = in_a_process(data, Path(work, "kept.jsonl"))
        second = in_a_process(data, Path(work, "kept.jsonl"))
    for name, cpu, seconds in (
        ("plain decoding, two processes", plain, wall),
        ("check", first["cpu"], first["seconds"]),
        ("check with kept results", second["cpu"], second["seconds"]),
    ):
        row = Row.of(
            f"{pairs} pairs of {side} x {side}: {name}", "CPU ms per pair", [1e3 * cpu / pairs]
        )
        row.details = {"pairs_per_second": pairs / seconds, "ratio_to_decoding": cpu / plain}
        rows.append(row)
    for name, found in (("check", first), ("check with kept results", second)):
        row = Row.of(f"{name}: peak memory", "MiB", [found["memory"] / 2**20])
        row.details = {
            "bytes_per_pair": found["grown"] / pairs,
            "findings": found["findings"],
            "reused": found["reused"],
        }
        rows.append(row)
    click.echo(f"load average: {os.getloadavg()[0]:.1f}")
    report(rows, [], json_path)


if __name__ == "__main__":
    main()
