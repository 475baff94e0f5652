from __future__ import annotations

import errno
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.errors import RunError
from nectargan.record.ledger import (
    Ledger,
    LossRow,
    MetricRow,
    read_blocks,
    read_rows,
    rows_in,
)
from nectargan.record.recorder import Clock
from nectargan.record.rollback import check_ledger
from nectargan.record.seeking import last_time, line_after, offset_of_step

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
    with pytest.raises(RunError, match=r"No space left on device\.$"):
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
def test_reading_continues_where_it_stopped(
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


def test_the_output_is_a_table(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.csv", LossRow)
    ledger.append([row(1), row(1, "b", 3.0), row(2, "late/loss", 4.0)])
    frame = pd.read_csv(io.BytesIO((tmp_path / "l.csv").read_bytes()))
    assert frame["loss"].tolist() == ["a", "b", "late/loss"]
    assert frame["weighted"].tolist() == [1.0, 6.0, 8.0]
    assert frame["time"].tolist() == [1001, 1001, 1002]


def changed(path: Path, how: str) -> None:
    """Does to a ledger what other programs do to files."""
    lines = path.read_text().splitlines(keepends=True)
    if how == "replaced":  # sed -i, most editors
        other = path.with_name("other")
        other.write_text("".join(lines))
        other.replace(path)
    elif how == "cut in place":
        path.write_text("".join(lines[:-1]))
    elif how == "longer":
        path.write_text("".join([*lines, "\n"]))
    elif how == "removed":
        path.unlink()
    else:
        text = path.read_bytes()
        path.write_bytes(text.replace(b"0.5", b"0,5"))


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files from being replaced")
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("replaced", "it was replaced by another file"),
        ("cut in place", r"it has \d+ bytes instead of \d+"),
        ("longer", r"it has \d+ bytes instead of \d+"),
        ("removed", "No such file or directory"),
    ],
)
def test_a_ledger_that_another_program_changed_gets_no_more_rows(
    tmp_path: Path, how: str, told: str
) -> None:
    path = tmp_path / "l.csv"
    ledger = Ledger(path, LossRow)
    ledger.append([row(1), row(2)])
    changed(path, how)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(RunError, match=f"was changed by another program .*{told}"):
        ledger.append([row(3)])
    with pytest.raises(RunError, match=told):
        ledger.check()
    ledger.close()
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_change_that_keeps_the_length_is_found_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    ledger = Ledger(path, LossRow)
    ledger.append([row(1), row(2)])
    ledger.check()
    changed(path, "digits")
    ledger.append([row(3)])
    with pytest.raises(RunError, match="its rows are not those that were written"):
        ledger.check()


def test_the_digest_is_that_of_the_bytes_so_far_wherever_it_went_on(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    ledger = Ledger(path, LossRow)
    for step in (1, 2):
        ledger.append([row(step)])
        assert ledger.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    size, digest = ledger.size, ledger.digest
    ledger.close()
    with path.open("a") as file:
        file.write("3,1,")  # torn
    ledger = Ledger(path, LossRow, resume=True)
    assert (ledger.size, ledger.digest) == (size, digest)
    ledger.append([row(3)])
    assert ledger.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    check_ledger(path, size, 2, digest)
    with pytest.raises(RunError, match="has step 2 at byte"):
        check_ledger(path, size, 1, digest)
    changed(path, "digits")
    check_ledger(path, size, 2, None)
    with pytest.raises(RunError, match=r"has changed the first \d+ bytes of"):
        check_ledger(path, size, 2, digest)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_ledger_that_is_none_takes_neither_memory_nor_time(tmp_path: Path) -> None:
    sparse, pipe = tmp_path / "sparse.csv", tmp_path / "pipe.csv"
    with sparse.open("wb") as file:
        file.truncate(10 << 30)
    os.mkfifo(pipe)
    for path, told in ((sparse, "is damaged: there are more than"), (pipe, "it is a pipe")):
        for read in (
            lambda path: list(read_blocks(path)),
            lambda path: offset_of_step(path, 3),
            lambda path: Ledger(path, LossRow, resume=True),
        ):
            with pytest.raises((RunError, OSError), match=told):
                read(path)


def test_times_on_record_never_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, steady = iter([10_000, 11_000, 4_000, 5_000, 30_000]), iter([0, 1, 2, 3, 4, 5])
    monkeypatch.setattr("time.time_ns", lambda: next(wall) * 1_000_000)
    monkeypatch.setattr("time.monotonic_ns", lambda: next(steady) * 1_000_000)
    clock = Clock()
    assert [clock() for _ in range(2)] == [10_000, 11_000]
    clock.go_on_from(20_000)
    assert [clock() for _ in range(3)] == [20_001, 20_002, 30_000]


def test_the_time_of_the_last_row(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    assert last_time(path) == 0
    ledger = Ledger(path, LossRow)
    assert last_time(path) == 0
    ledger.append([row(1), row(5)])
    assert last_time(path) == 1005


NAMES = st.text(st.characters(exclude_characters=",\r\n", codec="utf-8"), min_size=1).filter(
    # What splits the text of a line is no end of a line in the file.
    lambda name: name == name.strip()
)
COUNTS = st.integers(0, 2**53)


@given(step=COUNTS, epoch=COUNTS, time=COUNTS, name=NAMES, values=st.tuples(*3 * [st.floats()]))
def test_rows_read_back_from_their_line(
    step: int, epoch: int, time: int, name: str, values: tuple[float, float, float]
) -> None:
    loss = LossRow(step, epoch, time, name, *values)
    metric = MetricRow(step, epoch, time, name, values[0])
    # As text, in which NaN equals NaN.
    assert repr(LossRow.parse(loss.line)) == repr(loss)
    assert repr(MetricRow.parse(metric.line)) == repr(metric)
    lines = f"step,epoch,time,metric,value\n{metric.line}\n{metric.line}\n".encode()
    begin = len(b"step,epoch,time,metric,value\n") + 7
    assert repr(list(rows_in(MetricRow, lines, 7))) == repr(
        [(metric, begin), (metric, begin + len(metric.line.encode()) + 1)]
    )


@pytest.mark.parametrize(
    "line",
    [b"1,1,1,a", b"1,1,1,a,0,0,0,0", b"x,1,1,a,0,0,0", b"1,1,1,a,b,0,0", b"", b"1,1,1,\xff,0,0,0"],
)
def test_invalid_rows_are_an_error_or_skipped(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "l.csv"
    ledger = Ledger(path, LossRow)
    ledger.append([row(1), row(2)])
    ledger.close()
    path.write_bytes(path.read_bytes() + line + b"\n" + row(3).line.encode() + b"\n")
    assert list(read_rows(path, LossRow, skip_damaged=True)) == [row(1), row(2), row(3)]
    with pytest.raises(RunError, match=r"l\.csv' is damaged: "):
        list(read_rows(path, LossRow))


def test_reading_begins_at_a_line(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    ledger = Ledger(path, LossRow)
    ledger.append([row(step) for step in range(1, 12)])
    ledger.close()
    content = path.read_bytes()
    starts = [0, *(i + 1 for i, byte in enumerate(content) if byte == ord("\n"))]
    for offset in range(len(content) + 1):
        assert line_after(path, offset) == min(start for start in starts if start >= offset)
    (last,) = read_rows(path, LossRow, line_after(path, starts[-3] + 1))
    assert last == row(11)
