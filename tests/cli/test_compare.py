from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from .conftest import Run


@pytest.fixture
def two_runs(run: Run, config_file: Path, tmp_path: Path) -> list[Path]:
    for weight in ("100", "linear 100->0 @ 1-2"):
        options = ["--set", f"train.loss.G_L1={weight}"]
        assert run("train", "-c", config_file, *options).exit_code == 0
    return [tmp_path / "runs" / "tiny_v1", tmp_path / "runs" / "tiny_v2"]


def test_a_table_and_a_picture(run: Run, two_runs: list[Path]) -> None:
    result = run("compare", *two_runs)
    assert result.exit_code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines()]
    assert ["loss.G_L1", "100", "linear 100→0 @ 1–2"] in rows
    assert ["status", "FINISHED", "FINISHED"] in rows
    assert any(row and row[0] == "best/ssim" for row in rows)
    assert not any(row and row[0].startswith("common.") for row in rows), "what is the same"

    result = run("compare", *two_runs, "--format", "json", "--plot", "out.png", "--log")
    first, second = json.loads(result.stdout)
    assert (first["train.loss.G_L1"], second["run"]) == (100.0, "tiny_v2")
    assert result.stderr == "Drew out.png.\n"
    with Image.open("out.png") as image:
        assert image.width > 600


def test_a_pattern(run: Run, two_runs: list[Path]) -> None:
    result = run("compare", two_runs[0].parent / "*", "--format", "csv")
    assert [line.split(",")[0] for line in result.stdout.splitlines()] == [
        "run",
        "tiny_v1",
        "tiny_v2",
    ]


def test_bad_input(run: Run, two_runs: list[Path]) -> None:
    for arguments, message in (
        ([two_runs[0]], "is a single run; give two or more"),
        ([two_runs[0], "nowhere"], "'nowhere' is not a run directory"),
        ([*two_runs, "--smooth", "0.5"], "--smooth needs --plot"),
        ([*two_runs, "--x", "epoch"], "--x needs --plot"),
        ([*two_runs, "--sort", "nothing"], "--sort nothing is not a column"),
        ([two_runs[0].parent], "contains 2 runs, such as"),
        ([*two_runs, "--plot", "x.png", "--smooth", "2"], "must be in [0, 1)"),
        ([*two_runs, "--plot", "x.gif"], "is not a picture"),
        ([*two_runs, "--plot", "no/x.png"], "cannot be written"),
    ):
        result = run("compare", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
    assert list(Path().iterdir()) == []
