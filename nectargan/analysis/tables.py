"""The ledger of a run as Arrow tables, a block of lines at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nectargan.errors import RunError
from nectargan.record.ledger import LossRow, MetricRow, read_blocks
from nectargan.record.run_directory import LOSSES_FILE, METRICS_FILE, RunDirectory
from nectargan.wording import one_line

NUMBERS = ("raw", "weight", "weighted", "value")
NAMES = ("loss", "metric")

_ROWS: dict[str, type[LossRow] | type[MetricRow]] = {
    LOSSES_FILE: LossRow,
    METRICS_FILE: MetricRow,
}
# Small enough to keep the whole pipeline of an export well below 200 MB.
_BLOCK_BYTES = 4 << 20


def schema_of(file: str, as_text: bool = False) -> Any:
    """The columns of a ledger: int64; dictionaries of strings for names; float32 for values.

    Args:
        file: ``losses.csv`` or ``metrics.csv``.
        as_text: Strings for values, as the ledger spells them.

    Returns:
        A ``pyarrow.Schema``.
    """
    import pyarrow as pa

    number = pa.string() if as_text else pa.float32()
    types = dict.fromkeys(NUMBERS, number)
    types |= dict.fromkeys(NAMES, pa.dictionary(pa.int32(), pa.string()))
    return pa.schema([(name, types.get(name, pa.int64())) for name in _ROWS[file]._fields])


def read_ledger(
    directory: RunDirectory, file: str, as_text: bool = False, columns: Sequence[str] = ()
) -> Iterator[Any]:
    """Reads a ledger in parts; memory in use does not grow with it.

    A last line that is not finished, as of a run in progress, is left out.

    Args:
        directory: Run directory.
        file: ``losses.csv`` or ``metrics.csv``.
        as_text: Keep values as the ledger spells them, once they have proved to be numbers.
        columns: Only these; ``()`` for all.

    Yields:
        ``pyarrow.Table`` of `schema_of`; none for a ledger without rows.

    Raises:
        RunError: there is no such ledger, or it is damaged.
    """
    path = directory / file
    header = ",".join(_ROWS[file]._fields)
    try:
        for number, (lines, _) in enumerate(read_blocks(path, block_bytes=_BLOCK_BYTES)):
            if number == 0:
                found, _, lines = lines.partition(b"\n")
                if found != header.encode():
                    raise RunError(f"'{path}' does not begin with the columns {header}.")
            if lines:
                yield _parsed(lines, schema_of(file, as_text), columns)
        if path.stat().st_size <= len(header):
            raise RunError(f"'{path}' does not begin with the columns {header}.")
    except OSError as error:
        raise RunError(f"'{directory}' is not a run directory: {file}: {error.strerror}.") from None
    except RunError:
        raise
    except ValueError as error:
        raise RunError(f"'{path}' is damaged: {one_line(error)}.") from None


def _parsed(lines: bytes, schema: Any, columns: Sequence[str]) -> Any:
    import pyarrow as pa
    from pyarrow import compute, csv

    table = csv.read_csv(
        pa.py_buffer(lines),
        # A thread of Arrow's that drops these bytes while Python ends would abort the process, and
        # with a block as large as these threads gain nothing.
        csv.ReadOptions(column_names=schema.names, block_size=2 * _BLOCK_BYTES, use_threads=False),
        csv.ParseOptions(ignore_empty_lines=False),
        # Nothing stands for a missing value: a row that lacks one is damaged.
        csv.ConvertOptions(
            column_types={field.name: field.type for field in schema},
            null_values=[],
            strings_can_be_null=False,
            include_columns=list(columns),
        ),
    )
    for field in table.schema:
        if field.type == pa.string():
            compute.cast(table[field.name], pa.float32())
    return table


def codes_and_names(column: Any) -> tuple[Any, list[str]]:
    """A column of names as numbers, an array ``(rows,)``, and the names that they stand for."""
    array = column.combine_chunks()
    return array.indices.to_numpy(), array.dictionary.to_pylist()
