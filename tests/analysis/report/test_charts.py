from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.analysis.report.charts import Arrays, curves_of_page, groups_in_order, most_points
from nectargan.analysis.sources import open_sources
from nectargan.record.ledger import GradientRow, Ledger, LossRow

from ..conftest import make_whole_run, write_losses


def read(arrays: Arrays, place: int) -> Any:
    text = arrays.texts[place]
    kind = {"f": "<f4", "d": "<f8", "i": "<i4"}[text[0]]
    return np.frombuffer(base64.b64decode(text[1:]), kind)


def test_curves_have_the_values_of_the_ledgers(tmp_path: Path) -> None:
    make_whole_run(tmp_path / "run", ssim=[0.25, 0.5])
    arrays = Arrays()
    curves = curves_of_page(open_sources(tmp_path / "run")[0], 2000, arrays)
    found = {(curve["group"], curve["series"]): curve for curve in curves}
    losses = pd.read_csv(tmp_path / "run" / "losses.csv", dtype={"raw": "float32"})
    for column, group in (
        ("raw", "Losses, raw"),
        ("weight", "Weights"),
        ("weighted", "Losses, weighted"),
    ):
        for name, rows in losses.groupby("loss"):
            curve = found[group, name]
            assert (curve["every"], curve["nonfinite"]) == (1, 0)
            assert "low" not in curve
            assert list(read(arrays, curve["step"])) == list(rows["step"])
            assert (read(arrays, curve["value"]) == rows[column].astype("float32")).all()
            # Ten steps an epoch: the last one of an epoch is at its number.
            assert np.allclose(read(arrays, curve["epoch"]), rows["step"] / 10)
    ssim = found["Validation", "ssim"]
    assert list(read(arrays, ssim["value"])) == [0.25, 0.5]
    assert list(read(arrays, ssim["epoch"])) == [1, 2]
    assert groups_in_order(curves) == [
        *("Validation", "Losses, raw", "Losses, weighted", "Weights"),
    ]


def test_a_thinned_curve_has_points_of_the_record_and_extremes_between_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=101).astype(np.float32)
    raw[50], raw[77], raw[30] = 99, np.nan, np.inf
    rows = [LossRow(i + 1, 1 + i // 10, i, "a", v, 1.0, v) for i, v in enumerate(raw)]
    write_losses(tmp_path / "run", rows)
    arrays = Arrays()
    curve, *_ = curves_of_page(open_sources(tmp_path / "run")[0], 20, arrays)
    assert (curve["every"], curve["nonfinite"]) == (6, 2)
    steps = read(arrays, curve["step"])
    assert list(steps) == [*range(1, 102, 6), 101] == sorted(set(steps))
    assert np.array_equal(read(arrays, curve["value"]), raw[steps - 1], equal_nan=True)
    low, high = read(arrays, curve["low"]), read(arrays, curve["high"])
    for part, (begin, end) in enumerate(zip(steps - 1, [*(steps[1:] - 1), 101], strict=True)):
        values = raw[begin:end][~np.isnan(raw[begin:end])]
        assert (low[part], high[part]) == (values.min(), values.max())
    assert 99 in high


def test_gradients_are_shown_where_they_were_recorded(tmp_path: Path) -> None:
    make_whole_run(tmp_path / "run")
    ledger = Ledger(tmp_path / "run" / "gradients.csv", GradientRow)
    ledger.append(
        [
            GradientRow(step, 1 + step // 11, step, name, 0.5 * step, share, -0.25)
            for step in (10, 20)
            for name, share in (("G_L1", 0.75), ("G_GAN", 0.25))
        ]
    )
    ledger.close()
    arrays = Arrays()
    curves = curves_of_page(open_sources(tmp_path / "run")[0], 200, arrays)
    found = {
        (c["group"], c["series"]): list(read(arrays, c["value"]))
        for c in curves
        if c["group"].startswith("Gradients")
    }
    assert found == {
        (f"Gradients, {group}", name): values
        for name, share in (("G_L1", 0.75), ("G_GAN", 0.25))
        for group, values in (
            ("share", [share, share]),
            ("cosine to the others", [-0.25, -0.25]),
            ("norm", [5, 10]),
        )
    }
    assert [group for group in groups_in_order(curves) if group.startswith("Gradients")] == [
        *("Gradients, share", "Gradients, cosine to the others", "Gradients, norm"),
    ]


@given(st.integers(1, 500))
def test_points_are_bounded(runs: int) -> None:
    assert 200 <= most_points(runs) <= 2000
    assert runs * most_points(runs) <= max(12_000, 200 * runs)


def test_an_array_is_kept_once_with_its_type() -> None:
    arrays = Arrays()
    values = np.array([1, 2, 3])
    assert arrays.add(values) == arrays.add(values.copy()) == 0
    assert arrays.add(values.astype(np.float32)) == 1
    exact = np.array([0.1, 1 / 3])
    assert arrays.add(exact) == 2
    assert (read(arrays, 2) == exact).all()
    assert read(arrays, 1).dtype == np.float32


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_that_ended_before_its_first_step_has_no_curves(tmp_path: Path, begun: bool) -> None:
    make_whole_run(tmp_path / "run")
    (tmp_path / "run" / "losses.csv").unlink()
    (tmp_path / "run" / "metrics.csv").unlink()
    if begun:
        write_losses(tmp_path / "run", [])
    assert curves_of_page(open_sources(tmp_path / "run")[0], 200, Arrays()) == []
