from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.test_benchmarks import TOOLS, rows, run


def test_the_loader_is_compared_with_a_plain_one(tmp_path: Path) -> None:
    small = ("--size", "32", "--pairs", "4", "--batch", "2", "--shards", "2", "--rounds", "1")
    run("bench_data.py", *small, "--json", str(tmp_path / "figures.json"))
    found = rows(tmp_path / "figures.json")
    assert {name: row["baseline"] for name, row in found.items()} == {
        "a plain DataLoader with Pillow": "a plain DataLoader with Pillow",
        "files": "a plain DataLoader with Pillow",
        "shards": "files",
    }
    assert all(row["median"] > 0 for row in found.values())


@pytest.mark.parametrize("option", ["--rounds", "--pairs", "--size", "--batch", "--shards"])
def test_what_is_counted_is_at_least_one(option: str) -> None:
    command = [sys.executable, str(TOOLS / "bench_data.py"), option, "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"Invalid value for '{option}': 0 is not in the range x>=1." in done.stderr
