"""The benchmark of the record at its smallest: what it reports makes sense, and it tidies up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "bench_logging.py"


def test_figures_make_sense_and_nothing_is_left_behind(tmp_path: Path) -> None:
    scratch, figures = tmp_path / "scratch", tmp_path / "figures.json"
    scratch.mkdir()
    command = [sys.executable, str(TOOL), "--quick", "--rows", "8000", "--json", str(figures)]
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **places})
    assert done.returncode == 0, done.stderr
    assert not list(scratch.glob("bench_logging_*")), "the ledgers are removed"

    document = json.loads(figures.read_text())
    assert {"cpu", "cores", "ram_gib", "python", "torch", "gpu", "date"} <= set(document["machine"])
    assert "--quick --rows 8000" in document["machine"]["command"]
    assert document["left_out"] == []

    found = {row["name"]: row for row in document["rows"]}
    limits = {name: row["limit"] for name, row in found.items() if row["limit"] is not None}
    assert limits == {
        "a loss in the manager, no hooks": 5.0,
        "a loss in the manager, no hooks, scheduled": 5.0,
        "a loss in the manager, recorder": 15.0,
        "a loss in the manager, recorder, scheduled": 15.0,
        "appending a row to the large ledger": 1.05,
        "memory grown while appending": 20.0,
        "load_losses, peak memory": 1.5,
        "export-csv --every 100, peak memory": 1.5,
    }
    for name, row in found.items():
        assert name in done.stdout
        assert row["low"] <= row["median"] <= row["high"]
        # What was subtracted from, or did not grow, may be 0 or less on a busy machine.
        if row["unit"] in {"us", "s", "GB"}:
            assert row["low"] > 0

    small, large = (found[f"appending a row to the {size} ledger"] for size in ("small", "large"))
    assert large["baseline"] == small["name"]
    assert large["low"] / small["high"] <= large["ratio"] <= large["high"] / small["low"]
