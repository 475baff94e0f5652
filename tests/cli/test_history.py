from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from .conftest import Run


@pytest.fixture
def two_runs(run: Run, config_file: Path, tmp_path: Path) -> list[Path]:
    for _ in range(2):
        assert run("train", "-c", config_file).exit_code == 0
    return [tmp_path / "runs" / "tiny_v1", tmp_path / "runs" / "tiny_v2"]


def test_export_of_one_run_is_its_ledger(run: Run, two_runs: list[Path]) -> None:
    result = run("export-csv", two_runs[0], "-o", "out.csv")
    assert (result.exit_code, result.stdout) == (0, "Wrote 24 rows to out.csv.\n")
    assert Path("out.csv").read_bytes() == (two_runs[0] / "losses.csv").read_bytes()


def test_wide_export_of_several_runs(run: Run, two_runs: list[Path]) -> None:
    result = run("export-csv", *two_runs, "-o", "out.csv", "--wide", "--every", 3)
    assert result.exit_code == 0
    table = pd.read_csv("out.csv")
    assert table["run"].tolist() == ["tiny_v1"] * 3 + ["tiny_v2"] * 3
    assert table["step"].tolist() == [1, 3, 6] * 2
    ledger = pd.read_csv(two_runs[1] / "losses.csv")
    raw = ledger[(ledger["loss"] == "G_L1") & ledger["step"].isin([1, 3, 6])]["raw"]
    assert table["loss/G_L1/raw"][3:].tolist() == raw.tolist()


def test_plot_draws_a_picture(run: Run, two_runs: list[Path]) -> None:
    assert run("plot", two_runs[0]).exit_code == 0
    with Image.open(two_runs[0] / "losses.png") as image:
        assert image.width > 600
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50
    assert run("plot", two_runs[0], "-o", "mine.png").stdout == "Drew mine.png.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["export-csv", "nowhere", "-o", "x.csv"],
        ["plot", "nowhere", "-o", "x.png"],
        ["export-csv", "."],
        ["export-csv", ".", "-o", "x.csv", "--every", "0"],
    ],
)
def test_bad_input(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert list(Path().iterdir()) == []
