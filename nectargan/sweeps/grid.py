"""Sweeps: one run for each combination of values, below one parent run.

Nothing is kept about a sweep but its runs: a grid point is done when there is a finished run of its
config. So the same command goes on with a sweep that was interrupted, and several may run at once.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from nectargan.build import build_discriminator, build_generator, build_losses
from nectargan.build_data import build_data, build_metrics
from nectargan.config.choices import INCIDENTAL
from nectargan.config.config_manager import ConfigManager, Override
from nectargan.config.schema import Config
from nectargan.errors import CheckpointError, ConfigError, NectarGANError, RunError, did_you_mean
from nectargan.record.lock import locked
from nectargan.record.run_directory import RunDirectory, list_runs
from nectargan.runs.checkpoint import load_last
from nectargan.runs.resume import (
    Resumption,
    changes_on_the_way,
    flatten,
    resumption_of,
)
from nectargan.runs.sinks import own_sinks
from nectargan.sweeps.axes import Axis, short_names
from nectargan.trainers.captured_step import graph_obstacle
from nectargan.trainers.devices import resolve_device, resolve_precision
from nectargan.wording import one_line

# Trains a run, new or resumed, and returns its directory.
Start = Callable[[Config, Resumption | None], RunDirectory]
# Makes a config with some options replaced.
Resolve = Callable[[Sequence[Override]], Config]
State = Literal["NEW", "UNFINISHED", "RUNNING", "FINISHED", "FAILED"]

_CLAIMS = ".sweep"
_LONGEST_NAME = 100
_MOST_CELLS = 10_000

log = logging.getLogger("nectargan")


class GridPoint(NamedTuple):
    """One run of a sweep.

    Attributes:
        values: What is swept, as it was written, by dotted key.
        config: The resolved config.
    """

    values: dict[str, str]
    config: Config

    @property
    def name(self) -> str:
        """What is special about this run, in one line."""
        short = short_names(list(self.values))
        return "  ".join(f"{short[key]}={value}" for key, value in self.values.items())

    @property
    def output(self) -> Path:
        """Where its run directory is."""
        return Path(self.config.common.output_directory)

    def identity(self, config: Config | None = None) -> dict[str, object]:
        """The options of a config, its own by default, by which its runs are recognised."""
        config = config or self.config
        options = flatten(config.model_dump(mode="json"))
        options["dataloader.dataroot"] = str(Path(config.dataloader.dataroot).resolve())
        swept = tuple(self.values)
        return {
            key: value
            for key, value in options.items()
            if key.startswith(swept) or not key.startswith(INCIDENTAL)
        }


class GridOutcome(NamedTuple):
    """How a grid point stands, in which run directory, and why if it has none or failed."""

    point: GridPoint
    state: State
    directory: RunDirectory | None = None
    reason: str = ""


def grid(axes: Sequence[Axis], resolve: Resolve) -> list[GridPoint]:
    """All combinations, the last axis fastest.

    Raises:
        ConfigError: an axis is a range, or a combination is no config.
    """
    for axis in axes:
        if axis.range is not None:
            raise ConfigError(
                f"--sweep {axis.key} is a range, which only --sweep-search can go through; a grid "
                "needs values, such as 1,10,100."
            )
    count = math.prod(len(axis.items) for axis in axes)
    if count > _MOST_CELLS:
        raise ConfigError(
            f"--sweep asks for {count} runs, one for each combination; {_MOST_CELLS} are allowed."
        )
    return [
        make_grid_point(axes, dict(zip((axis.key for axis in axes), items, strict=True)), resolve)
        for items in itertools.product(*(axis.items for axis in axes))
    ]


def make_grid_point(axes: Sequence[Axis], items: Mapping[str, str], resolve: Resolve) -> GridPoint:
    """The grid point of some values, as they were written, by key; raises ConfigError."""
    try:
        config = resolve([(axis.key, axis.value_of(items[axis.key])) for axis in axes])
    except ConfigError as error:
        keys = [axis.key for axis in axes]
        raise ConfigError(_with_its_option(str(error), keys)) from None
    mlflow = config.logging.mlflow
    mlflow.group = mlflow.group or _group_name(config.common.experiment_name, axes)
    return GridPoint(dict(items), config)


def _with_its_option(text: str, keys: Sequence[str]) -> str:
    """A sentence about an option of the config, in which those that are swept are said to be."""

    def option(match: re.Match[str]) -> str:
        is_swept = any(f"{key}.".startswith(f"{match[1]}.") for key in keys)
        return f"--sweep {match[1]}" if is_swept else match[0]

    return re.sub(r"--set ([^\s:]+)", option, text)


def _group_name(experiment: str, axes: Sequence[Axis]) -> str:
    """The same for each process that sweeps the same options."""
    names = short_names([axis.key for axis in axes]).values()
    name = re.sub(r"[^\w\-. ]", "_", f"{experiment}_sweep_{'_'.join(names)}")
    return name[:_LONGEST_NAME]


def check_grid(points: Sequence[GridPoint], metric: str | None = None) -> None:
    """Finds whatever would stop a grid point, before the first one starts; writes nothing.

    Args:
        points: The points.
        metric: What each is to be judged by, if it is.

    Raises:
        NectarGANError: a device, a network, a loss or the data of a grid point cannot be used, two
            points are the same run, or one would not measure ``metric``.
    """
    if len(points) > 1 and not points[0].config.save.auto_increment_version:
        raise ConfigError(
            "A sweep has a run directory for each of its runs; save.auto_increment_version must "
            "be true."
        )
    seen: dict[str, GridPoint] = {}
    checked_data = set()
    for point in points:
        config = point.config
        twin = seen.setdefault(_digest(point), point)
        if twin is not point:
            raise ConfigError(f"--sweep has the same run twice: '{twin.name}' and '{point.name}'.")
        device = resolve_device(config.common.device)
        precision = resolve_precision(config.common.precision, device)
        graph_obstacle(config.train.cuda_graph, device, precision)
        # Without memory: only the sizes are checked.
        with torch.device("meta"):
            build_generator(config)
            build_discriminator(config)
        build_losses(config)
        build_metrics(config)
        own_sinks(config)
        series = config.validation.series
        if metric is not None and metric not in series:
            raise ConfigError(f"--metric {metric} is not measured.{did_you_mean(metric, series)}")
        # Every image is read; most sweeps have one data set.
        data = (config.dataloader.model_dump_json(), config.common.device)
        if data not in checked_data:
            checked_data.add(data)
            if build_data(config, device).val is None and metric is not None:
                raise ConfigError(f"--metric {metric} needs validation images, and there are none.")
        if metric is not None and not config.logging.csv:
            raise ConfigError(
                f"--metric {metric} is read from the record that logging.csv=false turns off."
            )


def find_run(point: GridPoint) -> GridOutcome:
    """The run of a grid point, if there is one: a finished one, one at work, or one to go on with
    ("UNFINISHED"). "NEW" with a directory is one that ended before it had a checkpoint."""
    found = GridOutcome(point, "NEW")
    identity = point.identity()
    # A data set may have moved.
    fixed = identity.keys() - {"dataloader.dataroot"}
    runs = list_runs(point.output, point.config.common.experiment_name)
    for directory in reversed(runs):
        try:
            config = ConfigManager(directory.config).data
        except NectarGANError:
            continue  # no run of ours, or of another version
        if point.identity(config) != identity or fixed & changes_on_the_way(directory):
            continue
        if directory.status == "FINISHED":
            return GridOutcome(point, "FINISHED", directory)
        if directory.is_locked:
            found = GridOutcome(point, "RUNNING", directory, "in use by another process")
        elif found.state == "NEW" and directory.list_checkpoints():
            found = GridOutcome(point, "UNFINISHED", directory)
        elif found.directory is None:
            found = GridOutcome(point, "NEW", directory)
    return found


def run_grid_point(point: GridPoint, start: Start) -> GridOutcome:
    """Trains a grid point, or what is left of it, unless it is finished or another process has it.

    Args:
        point: The point.
        start: Trains a run.

    Returns:
        How it stands now. Errors of the run are its reason; only Ctrl-C and SIGTERM are raised.
    """
    with ExitStack() as stack:
        # A run leaves circles of references behind; the next one needs its memory.
        stack.callback(gc.collect)
        try:
            # Two processes may come to the same grid point before one has made its run directory.
            claim = point.output / _CLAIMS / _digest(point)
            claim.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(claim))
        except RunError:
            return find_run(point)._replace(state="RUNNING", reason="in use by another process")
        except OSError as error:
            reason = f"'{point.output}' cannot be written: {error.strerror}."
            return GridOutcome(point, "FAILED", reason=reason)
        found = find_run(point)
        if found.state in ("FINISHED", "RUNNING"):
            return found
        try:
            return GridOutcome(point, "FINISHED", start(point.config, _resumption(found)))
        except NectarGANError as error:
            reason = str(error)
        except Exception as error:
            # Too little memory for this one, or a bug of ours: the others may run all the same.
            log.exception("%s", point.name)
            reason = f"{type(error).__name__}: {error}"
        return find_run(point)._replace(state="FAILED", reason=one_line(reason))


def _resumption(found: GridOutcome) -> Resumption | None:
    if found.state != "UNFINISHED" or found.directory is None:
        return None
    try:
        checkpoint = load_last(found.directory)
    except CheckpointError as error:
        log.warning("%s Starting anew.", error)
        return None
    return resumption_of(found.directory, checkpoint, found.point.config)


def _digest(point: GridPoint) -> str:
    text = json.dumps(point.identity(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
