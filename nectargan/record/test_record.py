"""`TestRecord`: what ``nectargan test`` measured of a run on a split, and how."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nectargan.errors import RunError
from nectargan.files import read_regular_text, replacing
from nectargan.record.run_directory import RunDirectory

TEST_EXTREMES = 4
"""Of how many images with the best values, and of how many with the worst, there are pictures."""


@dataclass(frozen=True)
class Measured:
    """A metric of a set of images.

    Attributes:
        value: The mean over the images, or the value of the set.
        low: Lower end of the bootstrap 95 % interval; ``None`` if there is no interval.
        high: Upper end.
        higher_is_better: Whether a higher value is better.
    """

    value: float
    low: float | None
    high: float | None
    higher_is_better: bool


@dataclass(frozen=True)
class TestRecord:
    """The content of ``test/<split>.json`` of a run directory.

    Attributes:
        split: The split.
        n: Number of images.
        dataset: Name of the data set.
        digest: Digest of its files in the split.
        checkpoint: Name of the checkpoint.
        epoch: Its epoch, where that is known.
        size: (height, width) of the images.
        resizer: How images were brought to that size.
        format: Values of the images that were compared.
        dropout: Whether dropout was on.
        protocol: "pix2pix", or ``None``.
        seed: Of dropout.
        resamples: Samples of the bootstrap.
        weights: SHA-256 of each file of weights that was used, by name.
        metrics: What was measured, by name.
        warnings: What a reader of the values should know.
        time: Unix time in milliseconds.
    """

    __test__ = False  # for pytest

    split: str
    n: int
    dataset: str
    digest: str
    checkpoint: str | None
    epoch: int | None
    size: tuple[int, int]
    resizer: str
    format: str
    dropout: bool
    protocol: str | None
    seed: int
    resamples: int
    weights: dict[str, str]
    metrics: dict[str, Measured]
    warnings: list[str] = field(default_factory=list)
    time: int = 0

    @property
    def series(self) -> dict[str, float]:
        """The values under the names of their series, ``test/<metric>``; of other splits than
        ``test``, ``test/<split>/<metric>``."""
        prefix = "test/" if self.split == "test" else f"test/{self.split}/"
        return {prefix + name: measured.value for name, measured in self.metrics.items()}


def write_test(
    run: RunDirectory,
    record: TestRecord,
    names: list[str],
    values: Mapping[str, list[float]],
) -> None:
    """Writes ``test/<split>.csv``, a row for each image, and ``test/<split>.json``; removes the
    images of an earlier test.

    Args:
        run: The run directory.
        record: What was measured.
        names: Names of the pairs.
        values: The values of each metric of single images, in the order of ``names``.

    Raises:
        RunError: they cannot be written.
    """
    try:
        run.tests.mkdir(exist_ok=True)
        # Those of an earlier test might be of other images.
        for path in run.test_images(record.split).glob("*.png"):
            path.unlink()
        with (
            replacing(run.test_values(record.split)) as part,
            part.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["image", *values])
            for row in zip(names, *values.values(), strict=True):
                writer.writerow([row[0], *(f"{value:.9g}" for value in row[1:])])
        with replacing(run.test_record(record.split)) as part:
            part.write_text(json.dumps(asdict(record), indent=4) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"'{error.filename}' cannot be written: {error.strerror}.") from None


def read_tests(run: RunDirectory) -> list[TestRecord]:
    """The records of a run, by split; those that cannot be read are left out."""
    found = []
    for path in sorted(run.tests.glob("*.json")):
        try:
            content: dict[str, Any] = json.loads(read_regular_text(path))
            content["metrics"] = {k: Measured(**v) for k, v in content["metrics"].items()}
            content["size"] = tuple(content["size"])
            found.append(TestRecord(**content))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return found
