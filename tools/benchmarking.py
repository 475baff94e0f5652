"""Helpers for benchmarks: options, alternating rounds, rows with limits, a table, a JSON file."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import psutil

from nectargan.cli.options import with_options

Command = TypeVar("Command", bound=Callable[..., Any])

COUNT = click.IntRange(min=1)

json_option = click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="File for the results."
)


def count_option(name: str, default: int, text: str) -> Callable[[Command], Command]:
    """An option that is a number from 1, such as ``--rounds``."""
    return click.option(name, type=COUNT, default=default, show_default=True, help=text)


def pair_options(rounds: int, pairs: int, batch: int) -> Callable[[Command], Command]:
    """The options of a benchmark that reads drawn pairs, with these defaults."""
    options = [
        json_option,
        count_option("--rounds", rounds, "Number of rounds."),
        count_option("--pairs", pairs, "Number of pairs."),
        count_option("--size", 256, "Side of the images in pixels."),
        count_option("--batch", batch, "Pairs per batch."),
    ]
    return lambda command: with_options(command, options)


class LeftOut(NamedTuple):
    """A row that could not be measured on this machine, and why."""

    name: str
    reason: str


@dataclass
class Row:
    """One measured quantity.

    Attributes:
        name: What was measured.
        unit: Unit of median, low and high.
        median: Median of all rounds.
        low: Minimum of all rounds.
        high: Maximum of all rounds.
        limit: Upper limit for the ratio if there is one, else for the median.
        ratio: Median over the rounds of the ratio to the baseline in the same round.
        baseline: Name of the row that is the baseline.
        details: Further values by name.
    """

    name: str
    unit: str
    median: float
    low: float
    high: float
    limit: float | None = None
    ratio: float | None = None
    baseline: str | None = None
    details: dict[str, float | str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, unit: str, values: Sequence[float], limit: float | None = None) -> Row:
        """Builds a row from the values of all rounds."""
        return cls(name, unit, statistics.median(values), min(values), max(values), limit)

    @classmethod
    def compared(
        cls,
        name: str,
        unit: str,
        values: Mapping[str, Sequence[float]],
        baseline: str,
        limit: float | None = None,
    ) -> Row:
        """Builds a row from ``values[name]``, with its ratio to ``values[baseline]``."""
        row = cls.of(name, unit, values[name], limit)
        pairs = zip(values[name], values[baseline], strict=True)
        row.ratio, row.baseline = statistics.median(a / b for a, b in pairs), baseline
        return row

    @property
    def met(self) -> bool | None:
        """Whether the limit is met; ``None`` if there is no limit."""
        if self.limit is None:
            return None
        return (self.median if self.ratio is None else self.ratio) <= self.limit


def interleaved(
    actions: Mapping[str, Callable[[], object]], rounds: int, until: float = math.inf
) -> dict[str, list[float]]:
    """Measures actions in rounds; a change of the machine's speed then affects all of them.

    A round runs each action once; every second round runs them in reverse order.

    Args:
        actions: The actions by name.
        rounds: Number of rounds.
        until: Time of `time.perf_counter` after which no round starts, except the first.

    Returns:
        Seconds of each action in each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds):
        if number and time.perf_counter() > until:
            break
        order = list(actions) if number % 2 == 0 else list(actions)[::-1]
        for name in order:
            began = time.perf_counter()
            actions[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def machine() -> dict[str, object]:
    """Describes the machine and the versions."""
    import torch

    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "ram_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "date": date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_memory() -> int:
    """Peak resident memory of this process so far, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        # Not used on Linux, where a child process inherits the peak of its parent.
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def report(rows: Sequence[Row], left_out: Sequence[LeftOut], path: Path | None) -> None:
    """Prints all rows and what was left out, and writes them to ``path`` if it is given."""
    click.echo("\n".join(f"{key}: {value}" for key, value in machine().items()))
    show(rows)
    for name, reason in left_out:
        click.echo(f"left out: {name} ({reason})")
    if path is not None:
        write(rows, left_out, path)


def show(rows: Sequence[Row]) -> None:
    """Prints rows as a table."""
    width = max(len(row.name) for row in rows)
    click.echo(
        f"\n{'':{width}}  {'median':>9}  {'low':>9}  {'high':>9}  {'ratio':>6}  {'limit':>6}"
    )
    for row in rows:
        numbers = "  ".join(f"{value:9.4g}" for value in (row.median, row.low, row.high))
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        limit = "" if row.limit is None else f"{row.limit:.4g}"
        verdict = {True: "met", False: "MISSED", None: ""}[row.met]
        click.echo(f"{row.name:{width}}  {numbers}  {ratio:>6}  {limit:>6}  {row.unit}  {verdict}")
        for key, value in row.details.items():
            shown = value if isinstance(value, str) else f"{value:.4g}"
            click.echo(f"{'':{width}}    {key.replace('_', ' ')}: {shown}")


def write(rows: Sequence[Row], left_out: Sequence[LeftOut], path: Path) -> None:
    """Writes rows and what was left out for `performance_page`. The file is replaced as a whole, so
    it stays valid if the benchmark is interrupted."""
    document: dict[str, Any] = {
        "machine": machine(),
        "rows": [{**asdict(row), "met": row.met} for row in rows],
        "left_out": [each._asdict() for each in left_out],
    }
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
