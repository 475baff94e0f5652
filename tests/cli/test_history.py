from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.analysis.conftest import make_run
from tests.gradient_rows import write_gradients

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


def test_tidy_rows_on_standard_output(run: Run, two_runs: list[Path]) -> None:
    result = run("export-csv", two_runs[0], "-o", "-", "--losses", "G_L1, D_real", "--every", 6)
    assert result.exit_code == 0
    assert result.stderr == ""
    table = pd.read_csv(io.StringIO(result.stdout))
    assert table[["step", "loss"]].to_numpy().tolist() == [
        [1, "D_real"],
        [1, "G_L1"],
        [6, "D_real"],
        [6, "G_L1"],
    ]
    assert list(Path().iterdir()) == []


def test_the_trainer_notes_the_tags_to_ask_for(run: Run, two_runs: list[Path]) -> None:
    options = ["--query", "pixel", "--query", "D", "--epoch-means", "--wide"]
    result = run("export-csv", two_runs[0], "-o", "out.parquet", *options)
    assert result.stdout == "Wrote 2 rows to out.parquet.\n"
    frame = pd.read_parquet("out.parquet")
    names = {name for name in frame if name.startswith("weight/")}
    assert names == {"weight/G_L1", "weight/D_real", "weight/D_fake"}
    ledger = pd.read_csv(two_runs[0] / "losses.csv")
    means = ledger[ledger["loss"] == "G_L1"].groupby("epoch")["raw"].mean()
    assert frame["loss/G_L1/raw"].tolist() == pytest.approx(means.tolist(), rel=1e-6)


def test_plot_draws_a_picture(run: Run, two_runs: list[Path]) -> None:
    assert run("plot", two_runs[0]).exit_code == 0
    with Image.open(two_runs[0] / "losses.png") as image:
        assert image.width > 600
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50
    assert run("plot", two_runs[0], "-o", "mine.png").stdout == "Drew mine.png.\n"
    result = run("plot", two_runs[0], "--format", "svg", "--split", "--log", "--size", "6,3")
    drawn = [two_runs[0] / f"losses_{network}.svg" for network in "DG"]
    assert result.stdout == "".join(f"Drew {path}.\n" for path in drawn)
    assert 'width="432pt"' in drawn[0].read_text()
    assert run("plot", two_runs[0], "-o", "mine", "--format", "pdf").stdout == "Drew mine.pdf.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export-csv", "nowhere", "-o", "x.csv"], "'nowhere' is not a run directory"),
        (["export-csv", "runs/*", "-o", "x.csv"], "'runs/*' matches no run directory"),
        (["plot", "nowhere", "-o", "x.png"], "'nowhere' is not a run directory"),
        (["export-csv", "."], "Missing option '-o'"),
        (["export-csv", ".", "-o", "x.csv", "--every", "0"], "'0' is not a whole number from 1"),
        (["export-csv", ".", "-o", "x.csv", "--smooth", "1"], "must be in [0, 1)"),
        (["export-csv", ".", "-o", "x", "--smooth", ".5", "--epoch-means"], "contradict"),
        (["export-csv", ".", "-o", "x", "--losses", "a", "--query", "b"], "contradict"),
        (["export-csv", "mlflow:abc", "-o", "x.csv"], "No MLflow server was given"),
        (["plot", ".", "--size", "big"], "'big' is not a size; write W,H"),
        (["plot", ".", "--size", "3"], "'3' is not a size"),
        (["plot", ".", "-o", "x.png", "--format", "svg"], "contradict each other"),
        (["plot", ".", "--format", "gif"], "'gif' is not one of"),
    ],
)
def test_bad_input(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert message in result.stderr
    assert list(Path().iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="devices of POSIX")
def test_what_goes_to_a_device_is_data_alone(two_runs: list[Path]) -> None:
    code = "from nectargan.cli.main import main; main()"
    command = ["export-csv", str(two_runs[0]), "-o", "/dev/stdout"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == (two_runs[0] / "losses.csv").read_text()
    assert done.stderr == "Wrote 24 rows to /dev/stdout.\n"


def test_gradients_are_exported_and_plotted(run: Run, tmp_path: Path) -> None:
    runs = [tmp_path / "runs" / name for name in ("r_v1", "r_v2")]
    for directory in runs:
        make_run(directory, losses=["G_GAN", "G_L1"])
        write_gradients(directory)
    result = run("export-csv", runs[0], "-o", "out.csv", "--gradients")
    assert result.stdout == "Wrote 40 rows to out.csv.\n"
    assert Path("out.csv").read_bytes() == (runs[0] / "gradients.csv").read_bytes()

    result = run("plot", *runs, "--gradients", "--smooth", 0.5)
    assert result.stdout.splitlines() == [f"Drew {each / 'gradients.png'}." for each in runs]
    result = run("plot", *runs, "--gradients", "-o", "both.png", "--x", "epoch")
    assert (result.exit_code, result.stdout) == (0, "Drew both.png.\n")
    with Image.open("both.png") as both, Image.open(runs[0] / "gradients.png") as one:
        assert both.height > 1.5 * one.height
    for option in ("--log", "--split"):
        result = run("plot", runs[0], "--gradients", option)
        assert result.exit_code == 2
        assert f"--gradients and {option} cannot be used together." in result.stderr
    (runs[1] / "gradients.csv").unlink()
    result = run("plot", runs[1], "--gradients")
    assert result.exit_code == 2
    assert "r_v2' has no gradients.csv: its gradients were not recorded." in result.stderr
