"""The model card: what a person has to know about a trained generator before using it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import takewhile

from nectargan.config.schema import Config
from nectargan.errors import RunError
from nectargan.metrics import METRICS
from nectargan.record.ledger import MetricRow, read_rows
from nectargan.record.run_directory import RunDirectory
from nectargan.record.test_record import TestRecord, read_tests
from nectargan.runs.describe import run_metadata
from nectargan.runs.params import run_params
from nectargan.wording import counted

_LOSS = "loss."


def describe_training(
    config: Config, run: RunDirectory | None, epoch: int | None, license_name: str | None = None
) -> str:
    """The sections of a card that any form of a model shares, in Markdown: its data, how it was
    trained, what it was worth, its licence.

    Args:
        config: The config that it was trained with.
        run: Its run directory, where it is known.
        epoch: The epoch that it is from.
        license_name: Its licence, such as "CC-BY-4.0".
    """
    params = run_params(config)
    losses = {key: value for key, value in params.items() if key.startswith(_LOSS)}
    others = {key: value for key, value in params.items() if key not in losses}
    metadata = run_metadata(config, run, live=False) if run else None
    sections = {
        "Data": _table(
            ("used for", "data set", "pairs", "digest (SHA-256, first 16 digits)"),
            [
                (each.context, each.name, each.profile.get("pairs", ""), each.digest)
                for each in (metadata.datasets if metadata else ())
            ],
        ),
        "Losses": _table(
            ("loss", "weight"),
            [(key.removeprefix(_LOSS), value) for key, value in losses.items()],
        ),
        "Training": _table(("parameter", "value"), list(others.items())),
        "Metrics": _metrics(run, epoch) if run else "",
        "Trained by": _code(metadata.tags.get("command")) if metadata else "",
        "Licence": license_name or "Not stated: ask whoever trained the model.",
    }
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)


def _metrics(run: RunDirectory, epoch: int | None) -> str:
    """What was measured of this epoch: by ``nectargan test``, else in training."""
    tests = [record for record in read_tests(run) if record.epoch == epoch]
    return "\n\n".join(map(_of_test, tests)) or _of_validation(run, epoch)


def _of_test(record: TestRecord) -> str:
    height, width = record.size
    rows = [
        (
            name,
            f"{found.value:.4g}",
            "" if found.low is None else f"{found.low:.4g} to {found.high:.4g}",
            "higher" if found.higher_is_better else "lower",
        )
        for name, found in record.metrics.items()
    ]
    table = _table(("metric", "value", "95 % interval", "better"), rows)
    return "\n\n".join(
        [
            f"Split {record.split} of {record.dataset} (digest {record.digest}), "
            f"{counted(record.n, 'image')} at {height} x {width}, "
            f"dropout {'on' if record.dropout else 'off'}:",
            table,
            *record.warnings,
        ]
    )


def _of_validation(run: RunDirectory, epoch: int | None) -> str:
    rows: list[MetricRow] = []
    with suppress(RunError, OSError):
        rows = [row for row in read_rows(run.metrics, MetricRow) if row.metric.startswith("val/")]
    newest = {row.metric: row for row in rows if row.epoch == epoch}
    if not newest:
        return ""
    table = _table(
        ("metric", "mean over the validation images", "better"),
        [_of_metric(row.metric, row.value) for row in newest.values()],
    )
    return f"Of epoch {epoch}, measured in training:\n\n{table}"


def _of_metric(series: str, value: float) -> tuple[str, str, str]:
    name = series.partition("/")[2]
    known = METRICS.get(name)
    unit = f" {known.unit}" if known and known.unit else ""
    better = ("higher" if known.higher_is_better else "lower") if known else ""
    return name, f"{value:.4g}{unit}", better


def code_block(text: str, language: str = "") -> str:
    """A block of code, however many backticks are in it."""
    longest = max((len(list(takewhile("`".__eq__, text[i:]))) for i in range(len(text))), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _code(command: str | None) -> str:
    return code_block(command, "sh") if command else ""


def facts_table(facts: Mapping[str, object]) -> str:
    """A table of two columns."""
    return _table(("", ""), list(facts.items()))


def _table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
