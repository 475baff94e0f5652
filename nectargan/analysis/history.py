"""The ledger of a run as pandas frames, and its export."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from nectargan.errors import RunError
from nectargan.files import replacing
from nectargan.loggers.ledger import LOSSES_FILE, METRICS_FILE, LossRow, MetricRow, read_blocks

if TYPE_CHECKING:
    import pandas as pd

_BLOCK_BYTES = 16 << 20
Run = str | PathLike[str]


def load_losses(run: Run) -> pd.DataFrame:
    """All losses of a run: the columns of `LossRow`, a row per loss and step.

    Raises:
        RunError: ``run`` is no run directory, or its record is damaged.
    """
    import pandas as pd

    return pd.concat(stream_losses(run), ignore_index=True)


def load_metrics(run: Run) -> pd.DataFrame:
    """All measurements of a run: the columns of `MetricRow`. Raises as `load_losses`."""
    import pandas as pd

    return pd.concat(_stream(run, METRICS_FILE, MetricRow), ignore_index=True)


def stream_losses(run: Run, every: int = 1) -> Iterator[pd.DataFrame]:
    """The losses of a run in parts, each of whole steps; memory does not grow with the run.

    Args:
        run: Run directory.
        every: Only the first step and the multiples of this one.

    Yields:
        Frames as from `load_losses`; at least one, empty for a run without steps.

    Raises:
        RunError: as `load_losses`, or ``every`` is below 1.
    """
    import pandas as pd

    if every < 1:
        raise RunError(f"every is {every}; it must be 1 or more.")
    held: pd.DataFrame | None = None
    for part in _stream(run, LOSSES_FILE, LossRow):
        # An empty frame has no types that would be worth keeping.
        frame = part if held is None or held.empty else pd.concat([held, part], ignore_index=True)
        # The last step may go on in the next part.
        last = frame["step"] == (frame["step"].iloc[-1] if len(frame) else 0)
        held = frame[last]
        if not last.all():
            yield _thinned(frame[~last], every)
    if held is not None:
        yield _thinned(held, every)


def _thinned(frame: pd.DataFrame, every: int) -> pd.DataFrame:
    if every == 1:
        return frame
    return frame[(frame["step"] == 1) | (frame["step"] % every == 0)]


def _stream(
    run: Run, file: str, row_type: type[LossRow] | type[MetricRow]
) -> Iterator[pd.DataFrame]:
    import pandas as pd

    path = Path(run) / file
    columns = ",".join(row_type._fields)
    header = columns.encode() + b"\n"

    def parsed(lines: bytes) -> pd.DataFrame:
        # Told the types, and what alone stands for NaN, pandas refuses a row that lacks a field.
        return pd.read_csv(
            io.BytesIO(lines),
            dtype=get_type_hints(row_type),
            keep_default_na=False,
            na_values=["nan"],
        )

    try:
        blocks = read_blocks(path, block_bytes=_BLOCK_BYTES)
        first, _ = next(blocks, (b"", 0))
        if not first.startswith(header):
            raise RunError(f"'{path}' does not begin with the columns {columns}.")
        yield parsed(first)
        for lines, _ in blocks:
            yield parsed(header + lines)
    except OSError as error:
        raise RunError(f"'{run}' is no run directory: {file}: {error.strerror}.") from None
    except RunError:
        raise
    except (ValueError, OverflowError) as error:
        raise RunError(f"'{path}' is damaged: {' '.join(str(error).split())}.") from None


def export_csv(runs: Sequence[Run], output: Path, wide: bool = False, every: int = 1) -> int:
    """Writes the loss history of one or more runs to one CSV file.

    Args:
        runs: Run directories. Several get a first column ``run`` with the directory's name.
        output: The file; replaced in one piece.
        wide: A row per step, with the columns ``loss/<name>/raw``, ``loss/<name>/weighted`` and
            ``weight/<name>`` of every loss of any run; else the rows of the ledger.
        every: Only the first step and the multiples of this one.

    Returns:
        Number of rows written.

    Raises:
        RunError: a run cannot be read, or the file cannot be written.
    """
    names = [Path(run).resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    losses = _loss_names(runs) if wide else []
    rows = 0
    try:
        with replacing(output) as part, part.open("w", encoding="utf-8", newline="") as file:
            for name, run in zip(names, runs, strict=True):
                for frame in stream_losses(run, every):
                    table = _widened(frame, losses) if wide else frame
                    if len(runs) > 1:
                        table = table.assign(run=name)[["run", *table.columns]]
                    table.to_csv(file, index=False, header=file.tell() == 0, lineterminator="\n")
                    rows += len(table)
    except OSError as error:
        raise RunError(f"'{output}' cannot be written: {error.strerror}.") from None
    return rows


def _loss_names(runs: Sequence[Run]) -> list[str]:
    """Names of all losses, in the order of their first appearance."""
    names: dict[str, None] = {}
    for run in runs:
        for frame in stream_losses(run):
            names.update(dict.fromkeys(frame["loss"].unique()))
    return list(names)


def _widened(frame: pd.DataFrame, losses: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    at = frame.groupby("step", sort=False).agg(epoch=("epoch", "first"), time=("time", "first"))
    if frame.duplicated(["step", "loss"]).any():
        raise RunError("A loss is on record twice for one step, which --wide has no place for.")
    by_loss = frame.pivot(index="step", columns="loss", values=["raw", "weight", "weighted"])
    columns = {}
    for loss in losses:
        for value, series in (
            ("raw", f"loss/{loss}/raw"),
            ("weight", f"weight/{loss}"),
            ("weighted", f"loss/{loss}/weighted"),
        ):
            columns[series] = by_loss.get((value, loss))
    return pd.DataFrame({**at, **columns}, index=at.index).reset_index()
