"""Writes the losses or gradients of runs to a CSV or Parquet file."""

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
from nectargan.analysis.sources import LedgerSource, RunLike, Source, open_with_lineage, readable
from nectargan.analysis.tables import codes_and_names
from nectargan.errors import RunError, did_you_mean
from nectargan.files import is_stream, replacing
from nectargan.record.run_directory import GRADIENTS_FILE, LOSSES_FILE

# The separator of the columns, by the suffix of the file; .gz may follow each of them.
_SEPARATORS = {"": ",", ".csv": ",", ".txt": ",", ".tsv": "\t"}
_GZIP, _PARQUET = ".gz", ".parquet"


class Form(NamedTuple):
    """The format of a file: text with a separator, or Parquet if there is no separator."""

    separator: str | None
    is_compressed: bool = False


def form_of(output: Path) -> Form:
    """The format that the name of a file stands for; raises `RunError` for an unknown one."""
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
    """What is exported, and in what shape.

    Attributes:
        gradients: Export the gradients of the losses (``gradients.csv``) instead of their values.
        wide: One row per step, with the columns of `widened` for every loss of any run; otherwise
            one row per loss and step.
        every: Export only the first step and the steps that are multiples of this number.
        smooth: Replace values by a `MovingAverage` with this weight, in [0, 1), over all steps,
            including those that ``every`` leaves out. The weights of losses are not smoothed.
        epoch_means: One row per loss and epoch with the means of the finite values. Step and time
            are the last of the epoch.
        losses: Export only these losses.
        query: Export only losses with one of these tags.

    Raises:
        RunError: two options contradict each other, or the value of one is not allowed.
    """

    gradients: bool = False
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
                f"--epoch-means and {other} contradict each other: the mean is over all recorded "
                "steps of an epoch; give one of them."
            )
        if self.losses and self.query:
            raise RunError(
                "--losses and --query contradict each other: both say which losses; give one."
            )

    @property
    def keeps_numbers(self) -> bool:
        """Whether values stay as they are on record, so that their text can be copied."""
        return self.smooth is None and not self.epoch_means

    @property
    def file(self) -> str:
        """The name of the ledger that is exported."""
        return GRADIENTS_FILE if self.gradients else LOSSES_FILE


def export_losses(
    runs: RunLike | Sequence[RunLike],
    output: Path | BinaryIO,
    selection: Selection | None = None,
    mlflow_uri: str | None = None,
    lineage: bool = False,
) -> int:
    """Writes losses or gradients of one or more runs to one file.

    Memory use does not grow with the ledgers. A CSV file has the values as they are written in the
    ledger. In a wide table an empty cell (in Parquet: null) stands for a loss that was not
    computed, and ``nan`` for a value that is not a number.

    Args:
        runs: As for `load_losses`. With several runs, the first column is ``run``.
        output: The file, whose suffix is the format (see `form_of`), or a stream for CSV. An
            existing file is replaced only when the new one is complete.
        selection: What is exported; by default all losses, as they are on record.
        mlflow_uri: As for `load_losses`.
        lineage: As for `load_losses`.

    Returns:
        Number of rows written.

    Raises:
        RunError: a run cannot be read, no loss has such a name or tag, or the file cannot be
            written.
    """
    selection = selection or Selection()
    form = form_of(output) if isinstance(output, Path) else Form(",")
    sources = open_with_lineage(runs, mlflow_uri, lineage)
    _check_is_no_ledger(output, sources)
    if len(sources) > 1:
        # Runs that cannot be read are left out before the first row is written.
        read = readable(sources, lambda source: _read_through(source, selection.file))
        sources = [source for source, _ in read]
    chosen = _chosen(sources, selection)
    as_text = selection.keeps_numbers and form.separator is not None

    def tables() -> Iterator[Any]:
        columns = _columns(sources, chosen, selection.file) if selection.wide else []
        for source, losses in zip(sources, chosen, strict=True):
            parts = parts_of(source, selection.file, as_text)
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


def _read_through(source: Source, file: str) -> None:
    for _ in parts_of(source, file):
        pass


def _check_is_no_ledger(output: Path | BinaryIO, sources: Iterable[Source]) -> None:
    for source in sources:
        if isinstance(source, LedgerSource) and isinstance(output, Path):
            run = source.directory
            ledgers = [run.losses, run.metrics, run.gradients]
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
    if losses := selection.losses:
        known = {name for source in sources for name in _known_losses(source, selection)}
        _check_known("gradients of a loss" if selection.gradients else "a loss", losses, known)
        return [losses] * len(sources)
    if selection.query:
        tags = [_tags_of(source) for source in sources]
        known = {tag for losses in tags for own in losses.values() for tag in own}
        _check_known("a tag", selection.query, known)
        wanted = set(selection.query)
        return [[n for n, own in losses.items() if wanted.intersection(own)] for losses in tags]
    return [None] * len(sources)


def _check_known(kind: str, asked: Iterable[str], known: Iterable[str]) -> None:
    for name in asked:
        if name not in known:
            raise RunError(f"No run has {kind} '{name}'." + did_you_mean(name, known))


def _known_losses(source: Source, selection: Selection) -> Iterable[str]:
    tags = None if selection.gradients else source.tags()  # which are faster to read
    return tags or _loss_names(source, selection.file)


def _tags_of(source: Source) -> dict[str, list[str]]:
    tags = source.tags()
    if tags is None:
        raise RunError(
            f"'{source.place}' has no losses.json, so the tags of its losses are not known; name "
            "losses with --losses."
        )
    return tags


def _columns(
    sources: Sequence[Source], chosen: Sequence[Sequence[str] | None], file: str
) -> list[str]:
    """The losses of all runs, in the order of their first appearance."""
    names: dict[str, None] = {}
    for source, losses in zip(sources, chosen, strict=True):
        names |= dict.fromkeys(_loss_names(source, file) if losses is None else losses)
    return list(names)


def _loss_names(source: Source, file: str) -> list[str]:
    names: dict[str, None] = {}
    for table in source.tables(file, columns=["loss"]):
        names |= dict.fromkeys(codes_and_names(table["loss"])[1])
    return list(names)


# --- files ---------------------------------------------------------------------------------------


def _write_text(tables: Tables, file: BinaryIO | gzip.GzipFile, separator: str) -> int:
    from pyarrow import ArrowInvalid, csv

    rows = 0
    # As in the ledger nothing is quoted; a value that needs quotes is refused below.
    options = csv.WriteOptions(include_header=False, quoting_style="none", delimiter=separator)
    for number, table in enumerate(tables):
        if number == 0:
            file.write((separator.join(table.column_names) + "\n").encode())
        try:
            csv.write_csv(table, file, options)
        except ArrowInvalid:
            raise RunError(
                "The name of a run directory contains a comma or a quotation mark, which the file "
                "cannot have; rename the directory."
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
