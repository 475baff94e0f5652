"""Reads the ledger of a run as Arrow tables, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nectargan.errors import RunError
from nectargan.record.ledger import GradientRow, LossRow, MetricRow, read_blocks
from nectargan.record.lineage import ledgers_of
from nectargan.record.run_directory import (
    GRADIENTS_FILE,
    LOSSES_FILE,
    METRICS_FILE,
    RunDirectory,
)
from nectargan.wording import one_line

NUMBERS = ("raw", "weight", "weighted", "norm", "share", "cosine", "value")
NAMES = ("loss", "metric")

_ROWS: dict[str, type[LossRow] | type[MetricRow] | type[GradientRow]] = {
    LOSSES_FILE: LossRow,
    METRICS_FILE: MetricRow,
    GRADIENTS_FILE: GradientRow,
}
# Small enough that an export needs well below 200 MB.
_BLOCK_BYTES = 4 << 20


def schema_of(file: str, as_text: bool = False) -> Any:
    """The columns of a ledger: int64; dictionaries of strings for names; float32 for values.

    Args:
        file: The name of the ledger, such as ``losses.csv``.
        as_text: Whether values are strings, as they are written in the ledger.

    Returns:
        A ``pyarrow.Schema``.
    """
    import pyarrow as pa

    number = pa.string() if as_text else pa.float32()
    types = dict.fromkeys(NUMBERS, number)
    types |= dict.fromkeys(NAMES, pa.dictionary(pa.int32(), pa.string()))
    return pa.schema([(name, types.get(name, pa.int64())) for name in _ROWS[file]._fields])


def read_ledger(
    directory: RunDirectory,
    file: str,
    as_text: bool = False,
    columns: Sequence[str] = (),
    lineage: bool = False,
) -> Iterator[Any]:
    """Reads a ledger in parts, so that memory use does not grow with its size.

    An incomplete last line, which a run in progress may have, is left out.

    Args:
        directory: The run directory.
        file: The name of the ledger, such as ``losses.csv``.
        as_text: Whether values stay strings, as they are written in the ledger, after they were
            checked to be numbers.
        columns: The columns to read; ``()`` for all.
        lineage: Whether the rows from before the run was forked come first.

    Yields:
        ``pyarrow.Table`` of `schema_of`; none for a ledger without rows.

    Raises:
        RunError: there is no such ledger, or it is damaged.
    """
    for path in ledgers_of(directory, file) if lineage else [directory / file]:
        yield from _read_file(directory, path, file, as_text, columns)


def _read_file(
    directory: RunDirectory, path: Path, file: str, as_text: bool, columns: Sequence[str]
) -> Iterator[Any]:
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
        if file == GRADIENTS_FILE and isinstance(error, FileNotFoundError):
            raise RunError(
                f"'{directory}' has no {file}: its gradients were not recorded."
            ) from None
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
        # A thread of Arrow that frees these bytes while Python exits would abort the process. With
        # blocks of this size threads are not faster anyway.
        csv.ReadOptions(column_names=schema.names, block_size=2 * _BLOCK_BYTES, use_threads=False),
        csv.ParseOptions(ignore_empty_lines=False),
        # A row with a missing value is damaged, so no text is read as one.
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
    """The codes of a dictionary column, an array ``(rows,)``, and the name for each code."""
    array = column.combine_chunks()
    return array.indices.to_numpy(), array.dictionary.to_pylist()
