"""The losses of runs as a CSV or Parquet file, written while they are read."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from nectargan.analysis.frames import named, parts_of
from nectargan.analysis.reshaping import (
    Tables,
    every_nth_step,
    means_by_epoch,
    only,
    smoothed,
    widened,
)
from nectargan.analysis.smoothing import check_weight
from nectargan.analysis.sources import LedgerSource, RunLike, Source, open_sources, readable
from nectargan.analysis.tables import codes_and_names
from nectargan.errors import RunError, did_you_mean
from nectargan.files import is_stream, replacing
from nectargan.record.run_directory import LOSSES_FILE

# What separates columns, by the end of a file's name; each may be followed by .gz.
_SEPARATORS = {"": ",", ".csv": ",", ".txt": ",", ".tsv": "\t"}
_GZIP, _PARQUET = ".gz", ".parquet"


class Form(NamedTuple):
    """What the name of a file says that it is: text with a separator, or Parquet without one."""

    separator: str | None
    is_compressed: bool = False


def form_of(output: Path) -> Form:
    """The form of a table in a file; raises `RunError` for a name of anything else."""
    if is_stream(output):
        return Form(",")
    name = output.name.lower()
    compressed = name.endswith(_GZIP)
    suffix = Path(name.removesuffix(_GZIP)).suffix
    if suffix == _PARQUET and not compressed:
        return Form(None)
    if suffix not in _SEPARATORS or (compressed and not suffix):
        raise RunError(
            f"'{output}' cannot be written: a table ends in .csv, .tsv, .csv.gz, .tsv.gz or "
            ".parquet."
        )
    return Form(_SEPARATORS[suffix], compressed)


@dataclass(frozen=True)
class Selection:
    """Which losses are exported, and in what shape.

    Attributes:
        wide: A row per step, with the columns ``loss/<name>/raw``, ``weight/<name>`` and
            ``loss/<name>/weighted`` of every loss of any run; else a row per loss and step.
        every: Only the first step and the multiples of this one.
        smooth: Raw and weighted losses as a `MovingAverage` of this weight, in [0, 1), over all
            their steps, whatever ``every`` leaves of them; weights stay as they were applied.
        epoch_means: A row per loss and epoch, with the means of the finite values; its step and
            time are the last of the epoch.
        losses: Only these.
        query: Only losses with one of these tags.

    Raises:
        RunError: two of them contradict each other, or one has no sensible value.
    """

    wide: bool = False
    every: int = 1
    smooth: float | None = None
    epoch_means: bool = False
    losses: Sequence[str] = ()
    query: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.every < 1:
            raise RunError(f"every is {self.every}; it must be 1 or more.")
        if self.smooth is not None:
            check_weight(self.smooth)
        if self.epoch_means and (self.every > 1 or self.smooth is not None):
            other = "--every" if self.every > 1 else "--smooth"
            raise RunError(
                f"--epoch-means and {other} contradict each other: the mean is over all steps of "
                "an epoch as they were; give one of them."
            )
        if self.losses and self.query:
            raise RunError(
                "--losses and --query contradict each other: both say which losses; give one."
            )

    @property
    def keeps_numbers(self) -> bool:
        """Whether values stay as they are on record, so that their text can stay as well."""
        return self.smooth is None and not self.epoch_means


def export_losses(
    runs: RunLike | Sequence[RunLike],
    output: Path | BinaryIO,
    selection: Selection | None = None,
    mlflow_uri: str | None = None,
) -> int:
    """Writes losses of one or more runs to one file, in memory that does not grow with ledgers.

    CSV has the values as the ledger spells them. In a wide table an empty cell (in Parquet: null)
    stands for a loss that was not computed, and ``nan`` for one that was not a number.

    Args:
        runs: As for `load_losses`. Several get a first column ``run``.
        output: The file, replaced in one piece, in the form that `form_of` knows by its name. Or
            where to write CSV to.
        selection: Which losses, in what shape; by default all, as they are on record.
        mlflow_uri: As for `load_losses`.

    Returns:
        Number of rows written.

    Raises:
        RunError: a run cannot be read, no loss has such a name or tag, or the file cannot be
            written.
    """
    selection = selection or Selection()
    form = form_of(output) if isinstance(output, Path) else Form(",")
    sources = open_sources(runs, mlflow_uri)
    _check_is_no_ledger(output, sources)
    if len(sources) > 1:
        # Before the first row is written: a run is in the file as a whole, or not at all.
        sources = [source for source, _ in readable(sources, _read_through)]
    chosen = _chosen(sources, selection)
    as_text = selection.keeps_numbers and form.separator is not None

    def tables() -> Iterator[Any]:
        columns = _columns(sources, chosen) if selection.wide else []
        for source, losses in zip(sources, chosen, strict=True):
            parts = parts_of(source, LOSSES_FILE, as_text)
            for table in _reshaped(parts, selection, losses, columns):
                yield named(table, source.name) if len(sources) > 1 else table

    if not isinstance(output, Path):
        return _write_text(tables(), output, ",")
    try:
        with replacing(output, or_stream=True) as part, part.open("wb") as file:
            if form.separator is None:
                return _write_parquet(tables(), file)
            if not form.is_compressed:
                return _write_text(tables(), file, form.separator)
            with gzip.GzipFile(fileobj=file, mode="wb", filename="") as packed:
                return _write_text(tables(), packed, form.separator)
    except OSError as error:
        raise RunError(f"'{output}' cannot be written: {error.strerror}.") from None


def _read_through(source: Source) -> None:
    for _ in parts_of(source, LOSSES_FILE):
        pass


def _check_is_no_ledger(output: Path | BinaryIO, sources: Iterable[Source]) -> None:
    for source in sources:
        if isinstance(source, LedgerSource) and isinstance(output, Path):
            ledgers = [source.directory.losses, source.directory.metrics]
            if output.resolve() in [ledger.resolve() for ledger in ledgers]:
                raise RunError(f"'{output}' is the record of a run itself; name another file.")


def _reshaped(
    tables: Tables, selection: Selection, losses: Sequence[str] | None, columns: Sequence[str]
) -> Tables:
    if losses is not None:
        tables = only(tables, losses)
    if selection.smooth is not None:
        tables = smoothed(tables, selection.smooth)
    if selection.every > 1:
        tables = every_nth_step(tables, selection.every)
    if selection.epoch_means:
        tables = means_by_epoch(tables)
    return widened(tables, columns) if selection.wide else tables


# --- which losses --------------------------------------------------------------------------------


def _chosen(sources: Sequence[Source], selection: Selection) -> list[Sequence[str] | None]:
    """The losses to export of each run; ``None`` for all."""
    if selection.losses:
        known = {name for source in sources for name in source.tags() or _loss_names(source)}
        _check_known("loss", selection.losses, known)
        return [selection.losses] * len(sources)
    if selection.query:
        tags = [_tags_of(source) for source in sources]
        known = {tag for losses in tags for own in losses.values() for tag in own}
        _check_known("tag", selection.query, known)
        wanted = set(selection.query)
        return [[n for n, own in losses.items() if wanted.intersection(own)] for losses in tags]
    return [None] * len(sources)


def _check_known(kind: str, asked: Iterable[str], known: Iterable[str]) -> None:
    for name in asked:
        if name not in known:
            raise RunError(f"No run has a {kind} '{name}'." + did_you_mean(name, known))


def _tags_of(source: Source) -> dict[str, list[str]]:
    tags = source.tags()
    if tags is None:
        raise RunError(
            f"'{source.place}' has no losses.json, which would say the tags of its losses; "
            "name them with --losses."
        )
    return tags


def _columns(sources: Sequence[Source], chosen: Sequence[Sequence[str] | None]) -> list[str]:
    """The losses of all runs, in the order of their first appearance."""
    names: dict[str, None] = {}
    for source, losses in zip(sources, chosen, strict=True):
        names |= dict.fromkeys(_loss_names(source) if losses is None else losses)
    return list(names)


def _loss_names(source: Source) -> list[str]:
    names: dict[str, None] = {}
    for table in source.tables(LOSSES_FILE, columns=["loss"]):
        names |= dict.fromkeys(codes_and_names(table["loss"])[1])
    return list(names)


# --- files ---------------------------------------------------------------------------------------


def _write_text(tables: Tables, file: BinaryIO | gzip.GzipFile, separator: str) -> int:
    from pyarrow import ArrowInvalid, csv

    rows = 0
    # Nothing is quoted, as in the ledger; what would have to be is refused.
    options = csv.WriteOptions(include_header=False, quoting_style="none", delimiter=separator)
    for number, table in enumerate(tables):
        if number == 0:
            file.write((separator.join(table.column_names) + "\n").encode())
        try:
            csv.write_csv(table, file, options)
        except ArrowInvalid:
            raise RunError(
                "A name has a comma or a quotation mark in it, which the ledgers cannot have; "
                "rename that run's directory."
            ) from None
        rows += len(table)
    return rows


def _write_parquet(tables: Tables, file: BinaryIO) -> int:
    from pyarrow import parquet

    rows, writer = 0, None
    for table in tables:
        writer = writer or parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
        rows += len(table)
    if writer is not None:
        writer.close()
    return rows
