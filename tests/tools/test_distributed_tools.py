"""``tools/growth.py`` and ``tools/bench_distributed.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


def test_neither_the_bytes_of_a_window_nor_its_rows_grow_with_the_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    from growth import measure

    alone, two, eight = (measure(count, 3, 10, True, rounds=2) for count in (1, 2, 8))
    assert alone.exchanged == 0
    # Raw and weighted value of four losses; three sums of two losses and two of their four pairs.
    assert eight.exchanged == two.exchanged == 8 * 10 * (2 * 4 + 3 * 2 + 2 * 4)
    assert alone.count == eight.count == 4 + 2
    assert alone.rows == pytest.approx(eight.rows, rel=0.02)


@pytest.mark.slow
def test_two_processes_are_compared_with_plain_ddp(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    command = [sys.executable, str(TOOLS / "bench_distributed.py"), "--output", str(output)]
    command += ["--features", "4", "--steps", "2", "--rounds", "2", "--size", "256"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    names = [row["name"] for row in json.loads(output.read_text())["rows"]]
    assert names == [
        f"{count} x {4 // count} pairs: {what}"
        for count in (1, 2)
        for what in ("plain DDP", "our step, no hooks", "our step, with recorder")
    ]
