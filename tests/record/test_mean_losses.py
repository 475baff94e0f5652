from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nectargan.record.ledger import Ledger, LossRow, mean_losses


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=60),
    first=st.integers(1, 20),
)
def test_they_are_those_of_pandas(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], first: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "losses.csv"
    ledger = Ledger(path, LossRow)
    ledger.append(
        LossRow(1 + i // 2, 1, 0, "ab"[i % 2], value, 1.0, value) for i, value in enumerate(values)
    )
    ledger.close()
    frame = pd.read_csv(path).query("step >= @first")
    expected = frame.groupby("loss")["raw"].mean().to_dict()
    assert mean_losses([path], first) == pytest.approx(expected, rel=1e-12, abs=1e-9)


def test_non_finite_values_are_left_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "losses.csv", LossRow)
    for step, a in enumerate((1.0, math.nan, math.inf, 3.0), start=1):
        ledger.append(
            [LossRow(step, 1, 0, "a", a, 1.0, a), LossRow(step, 1, 0, "b", math.nan, 1, 0)]
        )
    ledger.close()
    means = mean_losses([tmp_path / "losses.csv"], 1)
    assert means["a"] == 2.0
    assert math.isnan(means["b"])
