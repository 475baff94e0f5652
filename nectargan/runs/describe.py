"""Describes a run for MLflow."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nectargan.build import height_and_width
from nectargan.config.run_schedules import all_schedules
from nectargan.config.schema import Config
from nectargan.dataset.data_check import SplitSummary
from nectargan.dataset.pairs import Pair
from nectargan.dataset.shard_names import absolute, name_of
from nectargan.errors import DataError
from nectargan.files import read_regular_text, replacing
from nectargan.loggers.mlflow.metadata import DatasetMetadata, Draw, ModelExport, RunMetadata
from nectargan.output import printable
from nectargan.record.run_directory import RunDirectory
from nectargan.record.seeking import first_step_from
from nectargan.runs.params import run_params
from nectargan.shell import quoted
from nectargan.sources import Source, digest_of_source
from nectargan.wording import counted

_CONTEXTS = {"train": "training", "val": "validation"}


def save_metadata(
    directory: RunDirectory, tags: Mapping[str, str], datasets: list[DatasetMetadata]
) -> None:
    """Stores what only the training process knows, for `run_metadata`; raises OSError."""
    content = {"tags": dict(tags), "datasets": [each._asdict() for each in datasets]}
    with replacing(directory.metadata) as part:
        part.write_text(json.dumps(content, indent=4), encoding="utf-8")


def change_tag(directory: RunDirectory, key: str, value: str) -> None:
    """Changes a tag in the metadata of a run; raises OSError."""
    tags, datasets = _read(directory.metadata)
    save_metadata(directory, {**tags, key: value}, datasets)


def run_metadata(config: Config, directory: RunDirectory, live: bool = True) -> RunMetadata:
    """What is logged about a run besides its points.

    Args:
        config: The config of the run.
        directory: The run directory, with the file of `save_metadata`.
        live: Whether the run is being trained. If not, functions in its config are not imported.
    """
    tags, datasets = _read(directory.metadata)
    wants_model = config.logging.mlflow.log_model and config.save.save_model
    return RunMetadata(
        params=run_params(config),
        tags=tags,
        note=_note(config, directory, tags, datasets),
        datasets=datasets,
        first_pictures={"schedules.png": _draw_schedules(config, live)},
        last_pictures={
            "losses.png": functools.partial(_draw_losses, directory),
            "gradients.png": functools.partial(_draw_gradients, directory),
        },
        export=_export_of(directory) if wants_model else None,
    )


def describe_datasets(root: str, splits: Mapping[str, SplitSummary]) -> list[DatasetMetadata]:
    """Describes the training and validation data of a run.

    The digest is a hash of the names and contents of all files.

    Raises:
        DataError: a file can no longer be read.
    """
    place = printable(absolute(root))
    datasets = []
    for split, context in _CONTEXTS.items():
        if split in splits:
            summary = splits[split]
            profile: dict[str, Any] = {
                "pairs": len(summary.pairs),
                "layout": summary.layout,
                "smallest": list(summary.smallest),
                "largest": list(summary.largest),
            }
            name = printable(name_of(root))
            datasets.append(
                DatasetMetadata(name, context, place, digest_of_pairs(summary.pairs, root), profile)
            )
    return datasets


def digest_of_pairs(pairs: Sequence[Pair], root: str) -> str:
    """A hash of the names and contents of all files of pairs, 16 hexadecimal digits.

    Raises:
        DataError: a file can no longer be read.
    """
    folder = Path(root).resolve()
    files = [file for pair in pairs for file in (pair.a, pair.b) if file]
    try:
        with ThreadPoolExecutor() as pool:
            digests = pool.map(digest_of_source, files)
            lines = [
                f"{_relative_path(f, folder)} {d}\n" for f, d in zip(files, digests, strict=True)
            ]
    except OSError as error:
        raise DataError(f"'{error.filename}' cannot be read: {error.strerror}.") from None
    text = "".join(sorted(lines)).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]


def _export_of(directory: RunDirectory) -> ModelExport:
    program = [sys.executable, "-m", "nectargan.inference.mlflow_model", str(directory.resolve())]
    return ModelExport(program, "model", "about.json")


def _read(path: Path) -> tuple[dict[str, str], list[DatasetMetadata]]:
    try:
        content = json.loads(read_regular_text(path))
        tags = {str(key): str(value) for key, value in content["tags"].items()}
        return tags, [DatasetMetadata(**each) for each in content["datasets"]]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}, []


def _note(
    config: Config,
    directory: RunDirectory,
    tags: Mapping[str, str],
    datasets: list[DatasetMetadata],
) -> str:
    """A description in Markdown, with the command that repeats the run."""
    pairs = next((each.profile.get("pairs") for each in datasets), "?")
    height, width = height_and_width(config.dataloader.load.crop_size)
    params = [each for each in run_params(config).items() if each[0].startswith(("loss.", "lr."))]
    lines = [
        f"{config.train.objective} objective ({config.train.gan_mode}), "
        f"{counted(config.train.epochs, 'epoch')} of {pairs} pairs at {height} x {width}, "
        f"batch {config.dataloader.batch_size}, on {tags.get('device', 'an unknown device')}.",
        "",
        "| parameter | value |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in params),
        "",
        "Repeat it with",
        "",
        f"    nectargan-train -c {quoted(directory.resolve().config)}",
        "",
        "(`config.json` is among the artifacts as well.)",
    ]
    if "command" in tags:
        lines += ["", "It was started by", "", f"    {tags['command']}"]
    return "\n".join(lines)


def _draw_schedules(config: Config, live: bool) -> Draw:
    def draw(path: Path) -> None:
        from nectargan.analysis.schedule_plot import plot_schedules

        schedules = all_schedules(config, imports=live).items()
        known = {name: schedule for name, schedule in schedules if schedule.is_imported}
        plot_schedules(known, config.train.epochs, path)

    return draw


def _draw_losses(directory: RunDirectory, path: Path) -> None:
    from nectargan.analysis.plots import plot_run

    plot_run(directory, path)


def _draw_gradients(directory: RunDirectory, path: Path) -> None:
    from nectargan.analysis.gradient_plot import plot_gradients

    if first_step_from(directory.gradients, 0):  # not every run has gradients
        plot_gradients(directory, path)


def _relative_path(file: Source, root: Path) -> str:
    """The path of ``file`` relative to ``root``, which is the same on every machine."""
    if not isinstance(file, Path):
        return f"{file.shard.name}/{file.path}"
    try:
        return file.resolve().relative_to(root).as_posix()
    except ValueError:  # a link to somewhere else
        return file.name
