from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.errors import RunError
from nectargan.loggers.ledger import Ledger, LossRow, MetricRow, read_blocks

floats32 = st.floats(width=32, allow_nan=True, allow_infinity=True)


def row(step: int, name: str = "a", raw: float = 0.5) -> LossRow:
    return LossRow(step, 1, 1000 + step, name, raw, 2.0, 2 * raw)


def test_the_headers(tmp_path: Path) -> None:
    Ledger(tmp_path / "l.csv", LossRow).close()
    Ledger(tmp_path / "m.csv", MetricRow).close()
    assert (tmp_path / "l.csv").read_text() == "step,epoch,time,loss,raw,weight,weighted\n"
    assert (tmp_path / "m.csv").read_text() == "step,epoch,time,metric,value\n"


@given(values=st.lists(floats32, min_size=1, max_size=20), weight=st.floats(allow_nan=False))
def test_floats_come_back_from_pandas(
    values: list[float], weight: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "l.csv"
    ledger = Ledger(path, LossRow)
    ledger.append([LossRow(1, 1, 1, "a", np.float32(v), weight, 0.0) for v in values])
    ledger.close()
    frame = pd.read_csv(path)
    np.testing.assert_array_equal(frame["raw"].astype(np.float32), np.float32(values))
    assert frame["weight"].tolist() == [weight] * len(values)


def test_a_float32_is_written_as_short_as_it_can_be(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.csv", LossRow)
    ledger.append([LossRow(1, 1, 7, "a", np.float32(0.1), 0.1, np.float32(1e-10))])
    assert (tmp_path / "l.csv").read_text().splitlines()[1] == "1,1,7,a,0.1,0.1,1e-10"


def test_it_only_grows(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    ledger = Ledger(path, LossRow)
    before = path.read_bytes()
    for step in range(1, 6):
        ledger.append([row(step), row(step, "b")])
        assert path.read_bytes().startswith(before)
        assert len(path.read_bytes()) > len(before)
        before = path.read_bytes()
    ledger.append([])
    assert path.read_bytes() == before


class FullDisk(io.FileIO):
    """Takes ``room`` bytes, as a disk that is nearly full does: a part, then an error."""

    room = 0

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = super().write(data[: self.room])
        self.room -= taken
        return taken


@pytest.mark.parametrize("room", [0, 1, 17, 40])
def test_a_full_disk_tears_no_row(tmp_path: Path, room: int) -> None:
    path = tmp_path / "l.csv"
    ledger = Ledger(path, LossRow)
    ledger.append([row(1)])
    before = path.read_bytes()
    disk = FullDisk(path, "ab")
    ledger._file.close()
    ledger._file = disk
    disk.room = room
    with pytest.raises(RunError, match="No space left on device; make room"):
        ledger.append([row(2), row(3)])
    assert path.read_bytes() == before
    disk.room = 1000  # somebody has made room, and the rows are given again
    ledger.append([row(2), row(3)])
    assert pd.read_csv(path)["step"].tolist() == [1, 2, 3]


def test_a_record_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    Ledger(path, LossRow).close()
    with pytest.raises(RunError, match="exists already"):
        Ledger(path, LossRow)
    with pytest.raises(RunError, match="cannot be written"):
        Ledger(tmp_path / "no" / "l.csv", LossRow)


@given(
    lines=st.lists(st.text("abc,1", max_size=12), max_size=15),
    torn=st.text("abc,1", max_size=12),
    size=st.integers(1, 40),
)
def test_blocks_are_the_whole_lines_of_the_file(
    lines: list[str], torn: str, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "l.csv"
    whole = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(whole + torn.encode())
    blocks = list(read_blocks(path, block_bytes=size))
    assert b"".join(block for block, _ in blocks) == whole
    offset = 0
    for block, end in blocks:
        assert block.endswith(b"\n")
        assert end == offset + len(block)
        offset = end


@given(cut=st.integers(0, 200), size=st.integers(1, 50))
def test_reading_goes_on_where_it_stopped(
    cut: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A file that grows between two readings, torn anywhere, is read once and whole."""
    path = tmp_path_factory.mktemp("grow") / "l.csv"
    whole = "".join(f"{i},{'x' * (i % 7)}\n" for i in range(20)).encode()
    path.write_bytes(whole[:cut])
    first = list(read_blocks(path, block_bytes=size))
    path.write_bytes(whole)
    offset = first[-1][1] if first else 0
    second = list(read_blocks(path, offset, block_bytes=size))
    assert b"".join(block for block, _ in first + second) == whole


def test_what_is_written_is_a_table(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.csv", LossRow)
    ledger.append([row(1), row(1, "b", 3.0), row(2, "late/loss", 4.0)])
    frame = pd.read_csv(io.BytesIO((tmp_path / "l.csv").read_bytes()))
    assert frame["loss"].tolist() == ["a", "b", "late/loss"]
    assert frame["weighted"].tolist() == [1.0, 6.0, 8.0]
    assert frame["time"].tolist() == [1001, 1001, 1002]
