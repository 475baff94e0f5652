"""Tables of losses narrowed, smoothed, averaged or widened while they stream by.

Every function takes tables with the columns of ``losses.csv``, in the order of their steps, and
gives tables; it keeps of what went by only what it needs for what comes next. The first table may
be empty, and gives the columns of a result that has no rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from nectargan.analysis.smoothing import MovingAverage
from nectargan.analysis.tables import codes_and_names, schema_of
from nectargan.errors import RunError
from nectargan.record.run_directory import LOSSES_FILE

Tables = Iterable[Any]

_VALUES = ("raw", "weight", "weighted")


def only(tables: Tables, losses: Sequence[str]) -> Iterator[Any]:
    """The rows of some losses."""
    import pyarrow as pa
    from pyarrow import compute

    names = pa.array(losses, pa.string())
    for table in tables:
        yield table.filter(compute.is_in(table["loss"], names))


def every_nth_step(tables: Tables, every: int) -> Iterator[Any]:
    """The first step and the multiples of ``every``."""
    import pyarrow as pa

    for table in tables:
        steps = table["step"].to_numpy()
        yield table.filter(pa.array((steps == 1) | (steps % every == 0)))


def smoothed(tables: Tables, weight: float) -> Iterator[Any]:
    """Raw and weighted losses as moving averages, each loss for itself."""
    import pyarrow as pa

    averages: dict[tuple[str, str], MovingAverage] = {}
    for table in tables:
        codes, names = codes_and_names(table["loss"])
        for column in ("raw", "weighted"):
            values = np.array(table[column].to_numpy())
            for code, name in enumerate(names):
                average = averages.setdefault((name, column), MovingAverage(weight))
                values[codes == code] = average(values[codes == code])
            position = table.column_names.index(column)
            table = table.set_column(position, column, pa.array(values))
        yield table


class _Epoch:
    """The sums of an epoch so far, and its last step."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.step = self.time = 0
        self._sums: dict[str, Any] = {}  # (2, 3) by loss: sums and counts of the three values

    def add(self, table: Any) -> None:
        """Adds rows of this epoch, at least one."""
        self.step, self.time = table["step"][-1].as_py(), table["time"][-1].as_py()
        codes, names = codes_and_names(table["loss"])
        values = np.stack([table[value].to_numpy() for value in _VALUES]).astype(np.float64)
        is_finite = np.isfinite(values)
        values[~is_finite] = 0.0
        # In the order of the rows, and only what is among them.
        for code in dict.fromkeys(codes.tolist()):
            mine = codes == code
            sums = np.stack([values[:, mine].sum(axis=1), is_finite[:, mine].sum(axis=1)])
            self._sums[names[code]] = self._sums.get(names[code], 0.0) + sums

    def table(self) -> Any:
        """A row for each loss."""
        import pyarrow as pa

        count = len(self._sums)
        with np.errstate(invalid="ignore"):
            means = np.array([sums[0] / sums[1] for sums in self._sums.values()], np.float32)
        at = [np.full(count, value, np.int64) for value in (self.step, self.epoch, self.time)]
        names = pa.array(list(self._sums), pa.string()).dictionary_encode()
        columns = [*map(pa.array, at), names, *map(pa.array, means.T)]
        return pa.table(columns, schema=schema_of(LOSSES_FILE))


def means_by_epoch(tables: Tables) -> Iterator[Any]:
    """The means of the finite values of each epoch; NaN where there are none."""
    yield schema_of(LOSSES_FILE).empty_table()
    epoch: _Epoch | None = None
    for table in tables:
        epochs = table["epoch"].to_numpy()
        ends = [*(np.flatnonzero(np.diff(epochs)) + 1), len(epochs)]
        begin = 0
        for end in ends if len(epochs) else ():
            if epoch is None or epoch.epoch != epochs[begin]:
                if epoch is not None:
                    yield epoch.table()
                epoch = _Epoch(int(epochs[begin]))
            epoch.add(table.slice(begin, end - begin))
            begin = end
    if epoch is not None:
        yield epoch.table()


def widened(tables: Tables, losses: Sequence[str]) -> Iterator[Any]:
    """A row for each step, with ``loss/<name>/raw``, ``weight/<name>`` and ``loss/<name>/weighted``
    of each of ``losses``, null where it was not computed.

    Raises:
        RunError: a loss is on record twice for a step.
    """
    for table in _whole_steps(tables):
        yield _widened(table, losses)


def _widened(table: Any, losses: Sequence[str]) -> Any:
    import pyarrow as pa

    steps = table["step"].to_numpy()
    is_first = np.append(True, steps[1:] != steps[:-1])[: len(steps)]
    codes, names = codes_and_names(table["loss"])
    # A dictionary may have names that are not among the rows any more.
    places = {name: place for place, name in enumerate(losses)}
    column_of = np.array([places.get(name, -1) for name in names], np.int64)
    # For each step and loss, the row that it is in.
    cells = (np.cumsum(is_first) - 1) * len(losses) + column_of[codes]
    if len(np.unique(cells)) < len(cells):
        raise RunError("A loss is on record twice for one step, which --wide has no place for.")
    rows = np.full((int(is_first.sum()), len(losses)), -1, np.int64)
    rows.flat[cells] = np.arange(len(cells))
    firsts = table.filter(pa.array(is_first))
    columns = {name: firsts[name] for name in ("step", "epoch", "time")}
    for loss, own in zip(losses, rows.T, strict=True):
        own = pa.array(np.ascontiguousarray(own), mask=own < 0)
        columns[f"loss/{loss}/raw"] = table["raw"].take(own)
        columns[f"weight/{loss}"] = table["weight"].take(own)
        columns[f"loss/{loss}/weighted"] = table["weighted"].take(own)
    return pa.table(columns)


def _whole_steps(tables: Tables) -> Iterator[Any]:
    """The same rows in parts that end where a step ends."""
    import pyarrow as pa

    held: Any = None
    for part in tables:
        table = part if held is None else pa.concat_tables([held, part])
        steps: Any = table["step"].to_numpy()
        others = np.flatnonzero(steps != steps[-1]) if len(steps) else steps
        end = int(others[-1]) + 1 if len(others) else 0
        held = table.slice(end)
        if end:
            yield table.slice(0, end)
    if held is not None:
        yield held
