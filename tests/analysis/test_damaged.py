"""One damaged run does not hide the others, and NaN is not hidden."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nectargan.analysis.compare import compare_runs, render_comparison
from nectargan.analysis.export import Selection, export_losses
from nectargan.analysis.frames import load_losses, load_metrics, load_runs
from nectargan.analysis.plots import plot_comparison
from nectargan.errors import RunError
from nectargan.record.ledger import Ledger, LossRow
from tests.analysis.conftest import make_whole_run

MEND = {
    "empty": lambda text: b"",
    "no header": lambda text: text.partition(b"\n")[2],
    "a hole": lambda text: text[:300] + bytes(64) + b"\n" + text[300:],
}


@pytest.mark.parametrize("kind", MEND)
@pytest.mark.parametrize("named", [True, False])
def test_a_damaged_run_is_left_out(
    tmp_path: Path, kind: str, named: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abc":
        make_whole_run(tmp_path / name, ssim=[0.1, 0.2])
    ledger = tmp_path / "b" / "losses.csv"
    ledger.write_bytes(MEND[kind](ledger.read_bytes()))
    runs = [str(tmp_path / name) for name in "abc"] if named else str(tmp_path / "*")
    assert set(load_losses(runs)["run"]) == {"a", "c"}
    assert f"'{ledger}' " in caplog.text
    assert "It is left out." in caplog.text
    for selection in (Selection(), Selection(wide=True), Selection(epoch_means=True)):
        export_losses(runs, tmp_path / "out.csv", selection)
        assert set(pd.read_csv(tmp_path / "out.csv")["run"]) == {"a", "c"}
    plot_comparison(runs, tmp_path / "out.png")
    assert set(load_runs(runs).index) >= {"a", "c"}
    with pytest.raises(RunError, match=r"losses\.csv"):
        load_losses(tmp_path / "b")
    for name in "ac":
        (tmp_path / name / "losses.csv").write_bytes(b"")
    with pytest.raises(RunError, match=r"losses\.csv"):
        load_losses(runs)


def test_a_damaged_config_or_record_of_metrics_hides_no_other_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abcd":
        make_whole_run(tmp_path / name, ssim=[0.1, 0.2])
    (tmp_path / "b" / "config.json").write_text("{")
    (tmp_path / "c" / "metrics.csv").write_bytes(b"nothing\n")
    runs = str(tmp_path / "*")
    assert load_runs(runs).index.tolist() == ["a", "d"]
    assert compare_runs(runs).index.tolist() == ["a", "d"]
    assert caplog.text.count("It is left out.") == 4
    assert set(load_metrics(runs)["run"]) == {"a", "b", "d"}


def test_a_last_loss_that_is_nan_is_shown(tmp_path: Path) -> None:
    """And one that a run does not have is not."""
    for name, losses in (("good", {"G_L1": 0.5}), ("bad", {"G_L1": math.nan, "G_X": math.nan})):
        make_whole_run(tmp_path / name, status="FINISHED")
        (tmp_path / name / "losses.csv").unlink()
        ledger = Ledger(tmp_path / name / "losses.csv", LossRow)
        ledger.append(
            LossRow(1, 1, 1, loss, np.float32(raw), 1.0, raw) for loss, raw in losses.items()
        )
        ledger.close()
    frame = compare_runs([tmp_path / "good", tmp_path / "bad"], sort="status")
    lines = {
        cells[1].strip(): [cell.strip() for cell in cells[2:4]]
        for line in render_comparison(frame, "md").splitlines()
        if len(cells := line.split("|")) > 3
    }
    assert lines["loss/G_L1/raw"] == ["0.5", "nan"]
    assert lines["loss/G_X/raw"] == ["", "nan"]
    (tmp_path / "out.csv").write_text(render_comparison(frame, "csv"))
    table = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
    assert table["loss/G_L1/raw"].tolist() == ["0.5", "nan"]
    assert table["loss/G_X/raw"].tolist() == ["", "nan"]
