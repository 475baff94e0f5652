"""What `nectargan test` measured of runs, as a page shows it."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nectargan.analysis.report.charts import Arrays
from nectargan.analysis.report.pictures import (
    BYTES_PER_PIXEL,
    SIDES,
    PictureStore,
    Size,
    read_grid,
    rows_of,
)
from nectargan.analysis.sources import LedgerSource, Source
from nectargan.metrics import METRICS, label_of
from nectargan.record.run_directory import RunDirectory
from nectargan.record.test_record import TestRecord, read_tests
from nectargan.wording import counted

log = logging.getLogger("nectargan")


def tests_of_page(
    sources: Sequence[Source], arrays: Arrays, store: PictureStore, most_bytes: int
) -> dict[str, Any]:
    """The tests of runs.

    Args:
        sources: The runs.
        arrays: Receives the values of the images.
        store: Receives the pictures of the best and the worst images.
        most_bytes: About how large these may be in all.

    Returns:
        ``metrics``, ``{name: {label, unit, higher}}``; ``images``, lists of names of images; and
        ``records``, for each run and split: ``run``, ``split``, ``how`` it was measured,
        ``warnings``, ``cells`` and ``best`` by metric, ``images`` (which list), ``values``,
        places of arrays by metric, and ``pictures``, places of input, generated and target by row.
    """
    found = [
        (run, source.directory, record)
        for run, source in enumerate(sources)
        if isinstance(source, LedgerSource)
        for record in read_tests(source.directory)
    ]
    best = _best([record for _, _, record in found])
    files = [_pictures_of(directory, record) for _, directory, record in found]
    side = _side([record.size for _, _, record in found], list(map(len, files)), most_bytes)
    lists: dict[tuple[str, ...], int] = {}
    records = []
    for index, (run, directory, record) in enumerate(found):
        names, values = read_test_values(directory, record)
        records.append(
            {
                "run": run,
                "split": record.split,
                "how": _how(record),
                "warnings": record.warnings,
                "cells": {
                    name: [f"{m.value:.4g}", _interval(m.low, m.high)]
                    for name, m in record.metrics.items()
                },
                "best": [name for name in record.metrics if index in best.get(name, ())],
                "images": lists.setdefault(tuple(names), len(lists)),
                "values": {name: arrays.add(each) for name, each in values.items()},
                "pictures": {
                    row: [store.add(image, side) for image in images]
                    for row, path in files[index].items()
                    if row < len(names) and (images := _images_in(path, record)) is not None
                },
            }
        )
    order = dict.fromkeys(name for _, _, record in found for name in record.metrics)
    metrics = {
        name: {
            "label": label_of(f"test/{name}"),
            "unit": METRICS[name].unit if name in METRICS else "",
            "higher": next(
                record.metrics[name].higher_is_better
                for _, _, record in found
                if name in record.metrics
            ),
        }
        for name in order
    }
    return {"metrics": metrics, "images": [list(names) for names in lists], "records": records}


def read_test_values(
    directory: RunDirectory, record: TestRecord
) -> tuple[list[str], dict[str, Any]]:
    """Names of the images of a split, and an array of float64 ``(n,)`` of each metric of single
    images; nothing, with a warning, if the file cannot be read."""
    path = directory.test_values(record.split)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        columns = list(zip(*rows, strict=True)) or [()] * len(header)
        values = [np.array(column, dtype=np.float64) for column in columns[1:]]
        return list(columns[0]), dict(zip(header[1:], values, strict=True))
    except (OSError, ValueError) as error:
        log.warning("'%s' cannot be read: %s. Its images are left out.", path, error)
        return [], {}


def _best(records: Sequence[TestRecord]) -> dict[str, set[int]]:
    """By metric, the records that are best among several that were measured alike."""
    found: dict[str, set[int]] = {}
    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, r in enumerate(records):
        alike.setdefault((r.split, r.digest, r.n, r.size, r.dropout), []).append(index)
    for group in alike.values():
        for name in {name for index in group for name in records[index].metrics}:
            measured = {i: m for i in group if (m := records[i].metrics.get(name)) is not None}
            values = {i: m.value for i, m in measured.items() if not np.isnan(m.value)}
            if len(set(values.values())) > 1:
                is_higher = measured[next(iter(values))].higher_is_better
                top = (max if is_higher else min)(values.values())
                found.setdefault(name, set()).update(i for i, v in values.items() if v == top)
    return found


def _pictures_of(directory: RunDirectory, record: TestRecord) -> dict[int, Path]:
    """The files of the best and the worst images by their row."""
    paths = sorted(directory.test_images(record.split).glob("*.png"))
    return {int(path.stem): path for path in paths if path.stem.isdecimal()}


def _side(sizes: Sequence[Size], counts: Sequence[int], most_bytes: int) -> int:
    """The side of the pictures. Runs have inputs and targets in common."""
    images = sum(counts) + 2 * max(counts, default=0)
    side = SIDES[0]
    for side in SIDES:
        pixels = max((h * w * min(1.0, side / max(h, w)) ** 2 for h, w in sizes), default=0.0)
        if images * pixels * BYTES_PER_PIXEL <= most_bytes:
            break
    return side


def _images_in(path: Path, record: TestRecord) -> list[Any] | None:
    grid = read_grid(path)
    rows = None if grid is None else rows_of(grid, record.size)
    if rows is None or len(rows) != 1:
        if grid is not None:
            log.warning("'%s' is not an image of this test. It is left out.", path)
        return None
    return rows[0]


def _how(record: TestRecord) -> str:
    parts = [
        counted(record.n, "image"),
        f"{record.size[0]} x {record.size[1]}",
        f"dropout {'on' if record.dropout else 'off'}",
    ]
    if record.checkpoint:
        parts.append(record.checkpoint)
    if record.protocol:
        parts.append(f"protocol {record.protocol}")
    return ", ".join(parts)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
