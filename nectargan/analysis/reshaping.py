"""Selects, smooths, averages and widens tables of losses or gradients, a part at a time.

Every function takes an iterable of tables with the columns of ``losses.csv`` or ``gradients.csv``,
in the order of their steps, and yields tables. It keeps only those rows that later ones depend on.
The first table may be empty; it says which columns a result without rows has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from nectargan.analysis.smoothing import MovingAverage
from nectargan.analysis.tables import codes_and_names
from nectargan.errors import RunError

Tables = Iterable[Any]

_WEIGHT = "weight"


def values_of(table: Any) -> list[str]:
    """The columns of a table that hold values; they follow step, epoch, time and loss."""
    names: list[str] = table.schema.names[4:]
    return names


def only(tables: Tables, losses: Sequence[str]) -> Iterator[Any]:
    """The rows of these losses."""
    import pyarrow as pa
    from pyarrow import compute

    names = pa.array(losses, pa.string())
    for table in tables:
        yield table.filter(compute.is_in(table["loss"], names))


def every_nth_step(tables: Tables, every: int) -> Iterator[Any]:
    """The rows of the first step and of every step that is a multiple of ``every``."""
    import pyarrow as pa

    for table in tables:
        steps = table["step"].to_numpy()
        yield table.filter(pa.array((steps == 1) | (steps % every == 0)))


def smoothed(tables: Tables, weight: float) -> Iterator[Any]:
    """Replaces all values except weights by their moving average, for each loss separately."""
    import pyarrow as pa

    averages: dict[tuple[str, str], MovingAverage] = {}
    for table in tables:
        codes, names = codes_and_names(table["loss"])
        for column in values_of(table):
            if column == _WEIGHT:
                continue
            values = np.array(table[column].to_numpy())
            for code, name in enumerate(names):
                average = averages.setdefault((name, column), MovingAverage(weight))
                values[codes == code] = average(values[codes == code])
            position = table.column_names.index(column)
            table = table.set_column(position, column, pa.array(values))
        yield table


class _Epoch:
    """The sums of an epoch so far, and its last step.

    Args:
        epoch: The epoch.
        schema: The columns of its table.
    """

    def __init__(self, epoch: int, schema: Any) -> None:
        self.epoch = epoch
        self.step = self.time = 0
        self._schema = schema
        self._sums: dict[str, Any] = {}  # (2, 3) by loss: sums and counts of the three values

    def add(self, table: Any) -> None:
        """Adds rows of this epoch, at least one."""
        self.step, self.time = table["step"][-1].as_py(), table["time"][-1].as_py()
        codes, names = codes_and_names(table["loss"])
        columns = [table[value].to_numpy() for value in values_of(table)]
        values = np.stack(columns).astype(np.float64)
        is_finite = np.isfinite(values)
        values[~is_finite] = 0.0
        # In the order of the rows. A dictionary may have names without rows.
        for code in dict.fromkeys(codes.tolist()):
            mine = codes == code
            sums = np.stack([values[:, mine].sum(axis=1), is_finite[:, mine].sum(axis=1)])
            self._sums[names[code]] = self._sums.get(names[code], 0.0) + sums

    def table(self) -> Any:
        """A table with one row per loss."""
        import pyarrow as pa

        count = len(self._sums)
        with np.errstate(invalid="ignore"):
            means = np.array([sums[0] / sums[1] for sums in self._sums.values()], np.float32)
        at = [np.full(count, value, np.int64) for value in (self.step, self.epoch, self.time)]
        names = pa.array(list(self._sums), pa.string()).dictionary_encode()
        columns = [*map(pa.array, at), names, *map(pa.array, means.T)]
        return pa.table(columns, schema=self._schema)


def means_by_epoch(tables: Tables) -> Iterator[Any]:
    """The mean of the finite values of each loss and epoch; NaN if no value is finite."""
    tables = iter(tables)
    first = next(tables)
    yield first.schema.empty_table()
    epoch: _Epoch | None = None
    for table in chain([first], tables):
        epochs = table["epoch"].to_numpy()
        ends = [*(np.flatnonzero(np.diff(epochs)) + 1), len(epochs)]
        begin = 0
        for end in ends if len(epochs) else ():
            if epoch is None or epoch.epoch != epochs[begin]:
                if epoch is not None:
                    yield epoch.table()
                epoch = _Epoch(int(epochs[begin]), table.schema)
            epoch.add(table.slice(begin, end - begin))
            begin = end
    if epoch is not None:
        yield epoch.table()


def widened(tables: Tables, losses: Sequence[str]) -> Iterator[Any]:
    """One row per step with the values of each of ``losses``, null where it was not computed.

    The columns are ``loss/<name>/raw``, ``weight/<name>`` and ``loss/<name>/weighted``, or
    ``gradient/<name>/norm``, ``gradient/<name>/share`` and ``gradient/<name>/cosine``.

    Raises:
        RunError: a loss was recorded twice in a step.
    """
    for table in _whole_steps(tables):
        yield _widened(table, losses)


def _widened(table: Any, losses: Sequence[str]) -> Any:
    import pyarrow as pa

    steps = table["step"].to_numpy()
    is_first = np.append(True, steps[1:] != steps[:-1])[: len(steps)]
    codes, names = codes_and_names(table["loss"])
    # A dictionary may have names without rows.
    places = {name: place for place, name in enumerate(losses)}
    column_of = np.array([places.get(name, -1) for name in names], np.int64)
    # The row of each step and loss.
    cells = (np.cumsum(is_first) - 1) * len(losses) + column_of[codes]
    if len(np.unique(cells)) < len(cells):
        raise RunError("A loss is on record twice for one step, so the table cannot be --wide.")
    rows = np.full((int(is_first.sum()), len(losses)), -1, np.int64)
    rows.flat[cells] = np.arange(len(cells))
    firsts = table.filter(pa.array(is_first))
    columns = {name: firsts[name] for name in ("step", "epoch", "time")}
    for loss, own in zip(losses, rows.T, strict=True):
        own = pa.array(np.ascontiguousarray(own), mask=own < 0)
        for value in values_of(table):
            columns[_wide_name(loss, value)] = table[value].take(own)
    return pa.table(columns)


def _wide_name(loss: str, value: str) -> str:
    if value == _WEIGHT:
        return f"weight/{loss}"
    return f"{'loss' if value in ('raw', 'weighted') else 'gradient'}/{loss}/{value}"


def _whole_steps(tables: Tables) -> Iterator[Any]:
    """The same rows in parts that contain only whole steps."""
    import pyarrow as pa

    rest: Any = None
    for part in tables:
        table = part if rest is None else pa.concat_tables([rest, part])
        steps: Any = table["step"].to_numpy()
        others = np.flatnonzero(steps != steps[-1]) if len(steps) else steps
        end = int(others[-1]) + 1 if len(others) else 0
        rest = table.slice(end)
        if end:
            yield table.slice(0, end)
    if rest is not None:
        yield rest
