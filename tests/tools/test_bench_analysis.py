"""The benchmark of the analysis at its smallest: what it reports makes sense, and it tidies up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "bench_analysis.py"


def test_figures_make_sense_and_nothing_is_left_behind(tmp_path: Path) -> None:
    scratch, figures = tmp_path / "scratch", tmp_path / "figures.json"
    scratch.mkdir()
    command = [
        sys.executable,
        str(TOOL),
        "--quick",
        "--rows",
        "8000",
        "--rounds",
        "1",
        "--json",
        str(figures),
    ]
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **places})
    assert done.returncode == 0, done.stderr
    assert not list(scratch.glob("bench_analysis_*")), "the runs are removed"
    found = {row["name"]: row for row in json.loads(figures.read_text())["rows"]}
    assert found["load_losses, a tenth of the rows"]["limit"] == 1.5
    assert found["load_losses, a tenth of the rows, peak memory"]["limit"] == 300
    assert found["export-csv"]["limit"] == 20
    assert found["export-csv, peak memory"]["limit"] == 300
    assert found["compare, 20 runs"]["limit"] == found["compare --plot, 20 runs"]["limit"] == 5
    export = found["export-csv"]
    assert export["details"]["rows per second"] == 8000 / export["median"]
    for name, row in found.items():
        assert name in done.stdout
        assert 0 < row["low"] <= row["median"] <= row["high"]
