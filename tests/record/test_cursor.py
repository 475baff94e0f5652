"""Cursors, and the cutting of ledgers, against a plain reading of the file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.errors import RunError
from nectargan.record.cursor import Cursor
from nectargan.record.ledger import Ledger, LossRow, MetricRow
from nectargan.record.rollback import check_ledger, cut_ledger
from nectargan.record.run_directory import RunDirectory
from nectargan.record.seeking import first_step_from, offset_of_epoch, offset_of_step


def write_losses(directory: Path, steps: list[int]) -> Path:
    """A ledger with a row for each number; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(directory / "losses.csv", LossRow)
    ledger.append(LossRow(step, 1, step, "a" * (step % 90 + 1), 0.5, 1.0, 0.5) for step in steps)
    ledger.close()
    return directory / "losses.csv"


STEPS = st.lists(st.integers(1, 40), max_size=60).map(sorted)


@given(steps=STEPS, wanted=st.integers(0, 45))
def test_the_offset_of_a_step_is_found(
    steps: list[int], wanted: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_losses(tmp_path_factory.mktemp("l") / "r", steps)
    lines = path.read_bytes().splitlines(keepends=True)
    before = 1 + sum(step < wanted for step in steps)
    assert offset_of_step(path, wanted) == len(b"".join(lines[:before]))


@given(epochs=STEPS, row=st.integers(0, 59))
def test_the_start_of_an_epoch_is_found(
    epochs: list[int], row: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("l") / "losses.csv"
    rows = [f"{n},{epoch},1,{'a' * (n % 90 + 1)},1,1,1\n" for n, epoch in enumerate(epochs)]
    lines = ["step,epoch,time,loss,raw,weight,weighted\n", *rows]
    path.write_text("".join(lines))
    offset = len("".join(lines[: row + 1]))
    begin = epochs.index(epochs[row]) if row < len(epochs) else len(epochs)
    assert offset_of_epoch(path, offset) == len("".join(lines[: begin + 1]))


@given(steps=STEPS, rows=st.integers(0, 60), torn=st.booleans())
def test_the_next_step_is_found(
    steps: list[int], rows: int, torn: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_losses(tmp_path_factory.mktemp("l") / "r", steps)
    lines = path.read_bytes().splitlines(keepends=True)
    if torn:
        with path.open("ab") as file:
            file.write(b"99,1,1,unfin")
    offset = len(b"".join(lines[: min(rows, len(steps)) + 1]))
    rest = steps[rows:]
    expected = rest[0] if rest else steps[-1] + 1 if steps else 0
    assert first_step_from(path, offset) == expected


def test_ledgers_that_are_not_there(tmp_path: Path) -> None:
    assert first_step_from(tmp_path / "no.csv", 0) == 0
    assert offset_of_step(tmp_path / "no.csv", 3) == 0


@given(steps=STEPS, rows=st.integers(0, 60), torn=st.booleans())
def test_a_cut_ledger_and_its_orphans_are_the_whole(
    steps: list[int], rows: int, torn: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("l")
    path, orphans = write_losses(folder / "r", steps), folder / "orphaned" / "attempt-1.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    if torn:
        with path.open("ab") as file:
            file.write(b"99,1")
    kept = min(rows, len(steps))
    cut_ledger(path, len(b"".join(lines[: kept + 1])), orphans)
    assert pd.read_csv(path)["step"].tolist() == steps[:kept]
    assert path.read_bytes().splitlines(keepends=True) == lines[: kept + 1]
    if kept < len(steps):
        found = orphans.read_bytes().splitlines(keepends=True)
        assert found[: len(steps) - kept + 1] == [lines[0], *lines[kept + 1 :]]
    else:
        assert not orphans.exists()


@pytest.mark.parametrize("offset", [0, 5, 10**6])
def test_a_cut_in_the_wrong_place_is_refused(tmp_path: Path, offset: int) -> None:
    path = write_losses(tmp_path / "r", [1, 2])
    whole = path.read_bytes()
    with pytest.raises(RunError, match=f"no row ends at byte {offset}"):
        check_ledger(path, offset, 2, None)
    assert path.read_bytes() == whole


def test_a_ledger_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    path = write_losses(tmp_path / "r", [1, 2])
    with path.open("ab") as file:
        file.write(b"3,1,3,unfinished")
    ledger = Ledger(path, LossRow, resume=True)
    ledger.append([LossRow(3, 1, 3, "b", 0.25, 1.0, 0.25)])
    assert ledger.size == path.stat().st_size
    ledger.close()
    assert pd.read_csv(path)["loss"].tolist()[-1] == "b"
    with pytest.raises(RunError, match="cannot be written"):
        Ledger(tmp_path / "none.csv", LossRow, resume=True)


def test_a_cursor_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = write_losses(tmp_path, [1, 2])
    cursor = Cursor(RunDirectory(tmp_path), "MLflow")
    assert cursor.is_behind
    cursor.offsets["losses.csv"] = path.stat().st_size
    cursor.files = {"examples/a.png"}
    cursor.status = "FINISHED"
    cursor.save()
    again = Cursor(RunDirectory(tmp_path), "MLflow")
    assert (again.offsets, again.files, again.status) == (
        cursor.offsets,
        {"examples/a.png"},
        "FINISHED",
    )
    assert not again.is_behind
    assert RunDirectory(tmp_path).cursor_names() == ["MLflow"]
    write = path.open("ab")
    write.write(b"3,1,3,a,1,1,1\n")
    write.close()
    assert Cursor(RunDirectory(tmp_path), "MLflow").is_behind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"offsets": 3}',
        "null",
        "\x00",
        '{"offsets": {"losses.csv": Infinity, "metrics.csv": 0}}',
        '{"offsets": {"losses.csv": -5, "metrics.csv": 0}, "files": [], "status": null}',
    ],
)
def test_a_damaged_cursor_begins_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "sinks").mkdir()
    (tmp_path / "sinks" / "x.json").write_text(text)
    assert not any(Cursor(RunDirectory(tmp_path), "x").offsets.values())


def test_rewinding_forgets_whole_steps_of_both_ledgers(tmp_path: Path) -> None:
    """Losses were taken up to the middle of step 3, metrics up to step 1: step 2 is next."""
    losses = write_losses(tmp_path, [1, 1, 2, 2, 3, 3])
    metrics = Ledger(tmp_path / "metrics.csv", MetricRow)
    metrics.append([MetricRow(1, 1, 0, "lr/g", 0.1), MetricRow(2, 1, 0, "val/l1", 0.2)])
    cursor = Cursor(RunDirectory(tmp_path), "x")
    lines = losses.read_bytes().splitlines(keepends=True)
    cursor.offsets["losses.csv"] = len(b"".join(lines[:6]))
    cursor.offsets["metrics.csv"] = offset_of_step(tmp_path / "metrics.csv", 2)
    cursor.files = {f"examples/epoch_0001_step_{step:08d}.png" for step in (1, 2, 3)}
    assert cursor.rewind() == 2
    assert cursor.offsets["losses.csv"] == len(b"".join(lines[:3]))
    assert cursor.offsets["metrics.csv"] == offset_of_step(tmp_path / "metrics.csv", 2)
    assert cursor.files == {"examples/epoch_0001_step_00000001.png"}


def test_a_cursor_is_never_past_a_ledger_that_was_cut(tmp_path: Path) -> None:
    path = write_losses(tmp_path, [1, 2, 3])
    cursor = Cursor(RunDirectory(tmp_path), "x")
    cursor.offsets["losses.csv"] = path.stat().st_size
    cursor.save()
    cut_ledger(path, offset_of_step(path, 2), tmp_path / "o.csv")
    assert Cursor(RunDirectory(tmp_path), "x").offsets["losses.csv"] == path.stat().st_size
