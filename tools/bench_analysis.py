"""Measures loading, exporting and comparing of runs. Each case runs in a new process, whose start
is included.

python tools/bench_analysis.py
python tools/bench_analysis.py --json figures.json
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import click
from bench_logging import NAMES, run_child, write_ledger
from benchmarking import Row, count_option, json_option, report

from nectargan.config.config_manager import ConfigManager
from nectargan.record.ledger import MetricRow
from nectargan.record.loss_tags import write_loss_tags
from nectargan.record.run_directory import LOSSES_FILE, METRICS_FILE, RunDirectory

EPOCHS = 10
TAGS = {name: (name[0], "adversarial") for name in NAMES}

_COMMAND = """
from nectargan.cli.main import main
main({arguments!r}, standalone_mode=False)
"""
_LOAD = """
from nectargan.analysis import load_losses
assert len(load_losses({run!r})) == {rows}
"""


class Case(NamedTuple):
    """A case to measure.

    Attributes:
        name: Name of the rows.
        code: Python code.
        seconds: Limit for the time; ``None`` for none.
        megabytes: Limit for the peak memory; ``None`` for none.
        rows: Number of rows that are read, to compute a rate; 0 for no rate.
    """

    name: str
    code: str
    seconds: float | None
    megabytes: float | None
    rows: int = 0


def command(*arguments: object) -> str:
    """Python code that runs ``nectargan ARGUMENTS``."""
    return _COMMAND.format(arguments=[str(argument) for argument in arguments])


def make_run(directory: Path, rows: int, seed: int = 0) -> Path:
    """Creates a run directory with ``rows`` losses, a config and a validation in each epoch."""
    directory.mkdir()
    write_ledger(directory / LOSSES_FILE, rows)
    write_loss_tags(RunDirectory(directory).loss_tags, TAGS)
    weight = f"linear 100->{seed} @ 1-{EPOCHS}"
    overrides = [("common.seed", seed), ("train.loss.G_L1", weight)]
    ConfigManager(None, overrides).save(directory / "config.json")
    metrics = [
        MetricRow(epoch * rows // 4 // EPOCHS, epoch, epoch, "val/ssim", epoch / 20 + seed / 100)
        for epoch in range(1, EPOCHS + 1)
    ]
    lines = [",".join(MetricRow._fields), *(",".join(map(str, row)) for row in metrics)]
    (directory / METRICS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def cases(root: Path, rows: int) -> list[Case]:
    """Creates the runs; returns the cases with limits and one case for each option of an export."""
    large = make_run(root / "large", rows)
    small = make_run(root / "small", rows // 10)
    (root / "runs").mkdir()
    for seed in range(20):
        make_run(root / "runs" / f"v{seed}", rows // 100, seed)
    runs, out = root / "runs" / "*", root / "out.csv"
    load = _LOAD.format(run=str(small), rows=rows // 10)
    found = [
        Case("load_losses, a tenth of the rows", load, 1.5, 300),
        Case("load_losses", _LOAD.format(run=str(large), rows=rows), None, 1500),
        Case("compare, 20 runs", command("compare", runs), 5, None),
        Case(
            "compare --plot, 20 runs", command("compare", runs, "--plot", root / "p.png"), 5, None
        ),
        Case("export-csv", command("export-csv", large, "-o", out), 20, 300, rows),
    ]
    shapes = (
        ["--every", "100"],
        ["--query", "G"],
        ["--smooth", "0.99"],
        ["--epoch-means"],
        ["--wide"],
    )
    for options in shapes:
        code = command("export-csv", large, "-o", out, *options)
        found.append(Case(f"export-csv {' '.join(options)}", code, None, 300, rows))
    parquet = command("export-csv", large, "-o", root / "out.parquet")
    return [*found, Case("export-csv to Parquet", parquet, None, 300, rows)]


def measured(case: Case, rounds: int) -> list[Row]:
    """Measures the time and peak memory of a case."""
    seconds, peaks = zip(*(run_child(case.code) for _ in range(rounds)), strict=True)
    row = Row.of(case.name, "s", seconds, case.seconds)
    if case.rows:
        row.details["rows per second"] = case.rows / row.median
    peak = [peak / 1e6 for peak in peaks]
    return [row, Row.of(f"{case.name}, peak memory", "MB", peak, case.megabytes)]


@click.command()
@json_option
@count_option("--rows", 10_000_000, "Rows of the largest ledger.")
@count_option("--rounds", 3, "Number of rounds.")
@click.option("--quick", is_flag=True, help="Few rows: to try the tool itself.")
def main(json_path: Path | None, rows: int, rounds: int, quick: bool) -> None:
    """Benchmark of reading the record of runs."""
    rows = min(rows, 40_000) if quick else rows
    root = Path(tempfile.mkdtemp(prefix="bench_analysis_"))
    try:
        found = [row for case in cases(root, rows) for row in measured(case, rounds)]
    finally:
        shutil.rmtree(root)
    report(found, [], json_path)


if __name__ == "__main__":
    main()
