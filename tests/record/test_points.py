"""Means of windows, against a plain computation with pandas."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.record.ledger import GradientRow, Ledger, LossRow, rows_in
from nectargan.record.points import (
    EpochMeans,
    Point,
    SingleSteps,
    WindowMeans,
    count_nonfinite,
)


def rows_of(steps: int, steps_per_epoch: int, lazy: int = 1, seed: int = 0) -> list[LossRow]:
    """Two losses, the second in every ``lazy``-th step alone."""
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(1, steps + 1):
        epoch = 1 + (step - 1) // steps_per_epoch
        for loss in ("a", "b") if step % lazy == 0 else ("a",):
            raw, weight = np.float32(rng.normal()), 100.0 / epoch
            rows.append(LossRow(step, epoch, 1000 + step, loss, raw, weight, raw * weight))
    return rows


def plain_means(rows: list[LossRow], every: int, last: int | None = None) -> dict[str, object]:
    """The points at the ends of windows, by series and step."""
    frame = pd.DataFrame(rows)
    frame = frame[frame["step"] <= (last or len(rows))]
    frame["window"] = (frame["step"] - 1) // every
    found = {}
    for _, window in frame.groupby(["epoch", "window"]):
        end, time = window["step"].max(), window["time"].max()
        for loss, own in window.groupby("loss"):
            for value in ("raw", "weight", "weighted"):
                mean = own[value].astype(float).mean()
                found[f"loss/{loss}/{value}", end] = (pytest.approx(mean, rel=1e-12), time)
    return found


def by_place(points: list[Point]) -> dict[object, object]:
    found = {(point.series, point.step): (point.value, point.time) for point in points}
    assert len(found) == len(points), "one point a series and step"
    return found


@given(
    steps=st.integers(1, 60),
    steps_per_epoch=st.integers(1, 25),
    every=st.integers(1, 20),
    lazy=st.integers(1, 7),
)
def test_a_point_is_the_mean_of_its_window(
    steps: int, steps_per_epoch: int, every: int, lazy: int
) -> None:
    rows = rows_of(steps, steps_per_epoch, lazy)
    windows = WindowMeans(every)
    points = [point for row in rows for point in windows.take(row)] + windows.close()
    assert by_place(points) == plain_means(rows, every)


@given(every=st.integers(1, 20), cut=st.integers(0, 40), also=st.sets(st.integers(1, 40)))
def test_where_reading_began_makes_no_difference(every: int, cut: int, also: set[int]) -> None:
    """Read up to anywhere, closed, and read again from where the window began."""
    rows = rows_of(40, 11)
    whole = WindowMeans(every)
    expected = [point for row in rows for point in whole.take(row)] + whole.close()
    first = WindowMeans(every)
    points = []
    for index, row in enumerate(rows[: 2 * cut]):
        points += first.take(row, index)
    begin = first.begin(2 * cut)
    points += first.close()
    # Whoever goes on has points at other steps as well; each is what its step says.
    again = WindowMeans(every, also=also)
    points += [p for row in rows[begin:] for p in again.take(row)] + again.close()
    places = {point.step: point for point in points}
    assert set(expected) <= set(points)
    for step in places:
        cut_off = WindowMeans(every)
        mine = [p for row in rows if row.step <= step for p in cut_off.take(row)]
        mine += cut_off.close()
        at_step = {point for point in points if point.step == step}
        assert at_step == {point for point in mine if point.step == step}


def test_equal_values_are_their_own_mean() -> None:
    windows = WindowMeans(50)
    for step in range(1, 50):
        windows.take(LossRow(step, 1, step, "a", 0.1, 0.7, 0.07))
    assert [point.value for point in windows.close()] == [0.1, 0.7, 0.07]


def test_non_finite_values_are_counted_and_make_the_mean_nan(tmp_path: Path) -> None:
    values = [1.0, math.inf, 2.0, 3.0, math.nan, -math.inf, 4.0, 5.0, 6.0]
    ledger = Ledger(tmp_path / "losses.csv", LossRow)
    ledger.append(LossRow(i, 1, i, "a", v, 1.0, v) for i, v in enumerate(values, start=1))
    ledger.close()
    text = (tmp_path / "losses.csv").read_bytes()
    rows = list(rows_in(LossRow, text))

    def points(first: int) -> list[tuple[str, float, int]]:
        windows = WindowMeans(3, count_nonfinite(tmp_path / "losses.csv", rows[first][1]))
        taken = [p for row, at in rows[first:] for p in windows.take(row, at)] + windows.close()
        wanted = ("loss/a/raw", "nonfinite/a")
        return [(p.series, p.value, p.step) for p in taken if p.series in wanted]

    assert repr(points(0)) == repr(
        [
            ("loss/a/raw", math.inf, 3),
            ("nonfinite/a", 1.0, 3),
            ("loss/a/raw", math.nan, 6),
            ("nonfinite/a", 3.0, 6),
            ("loss/a/raw", 5.0, 9),
        ]
    )
    assert repr(points(3)) == repr(points(0)[2:]), "the count goes on"


def test_single_steps_are_multiples_and_non_finite_ones() -> None:
    single = SingleSteps(5)
    rows = [LossRow(i, 1, i, "a", math.nan if i == 7 else 0.5, 2.0, 1.0) for i in range(1, 11)]
    points = [point for row in rows for point in single.take(row)] + single.close()
    assert [point.step for point in points if point.series == "loss/a/raw"] == [1, 5, 7, 10]
    assert points[:3] == [
        Point("loss/a/raw", 0.5, 1, 1),
        Point("loss/a/weight", 2.0, 1, 1),
        Point("loss/a/weighted", 1.0, 1, 1),
    ]


@given(steps=st.integers(1, 60), epoch_steps=st.integers(1, 25), lazy=st.integers(1, 7))
def test_gradients_have_the_means_of_epochs(steps: int, epoch_steps: int, lazy: int) -> None:
    rows = [
        GradientRow(*row[:4], abs(row.raw), share, np.float32(math.nan) if row.step % 3 else share)
        for row in rows_of(steps, epoch_steps, lazy)
        for share in [np.float32(row.step / 64)]
    ]
    epochs = EpochMeans()
    points = [point for row in rows for point in epochs.take(row)] + epochs.close()
    frame = pd.DataFrame(rows)
    expected = {}
    for _, epoch in frame.groupby("epoch"):
        end, time = epoch["step"].max(), epoch["time"].max()
        means = epoch.groupby("loss")[["norm", "share", "cosine"]].mean()  # of what is not NaN
        for (loss, name), mean in means.stack().dropna().items():
            place = f"gradient/{loss}/{name}", end
            expected[place] = (pytest.approx(float(mean), rel=1e-6), time)
    assert by_place(points) == expected


def test_single_steps_of_gradients_are_those_of_losses() -> None:
    single = SingleSteps[GradientRow](5)
    rows = [GradientRow(i, 1, i, "a", 0.5, 1.0, math.nan) for i in range(1, 11)]
    points = [point for row in rows for point in single.take(row)]
    assert [point.step for point in points if point.series == "gradient/a/share"] == [1, 5, 10]
    assert [point.series for point in points[:3]] == [
        "gradient/a/norm",
        "gradient/a/share",
        "gradient/a/cosine",
    ]
