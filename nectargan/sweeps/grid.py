"""Grid sweeps: one run for each combination of values, under one parent run.

Nothing but the runs is stored: a grid point is done if there is a finished run with its config.
Therefore the same command resumes an interrupted sweep, and several processes can share one.
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
from nectargan.dataset.shard_names import absolute
from nectargan.errors import (
    CheckpointError,
    ConfigError,
    NectarGANError,
    PrunedError,
    RunError,
    did_you_mean,
)
from nectargan.record.lock import locked
from nectargan.record.output_directory import list_runs
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last
from nectargan.runs.fork import fork_of
from nectargan.runs.resume import (
    Resumption,
    changes_on_the_way,
    flatten,
    resumption_of,
)
from nectargan.runs.sinks import own_sinks
from nectargan.runs.warm_start import check_warm_start
from nectargan.sweeps.axes import Axis, name_of, short_names
from nectargan.trainers.captured_step import graph_obstacle
from nectargan.trainers.devices import resolve_device, resolve_precision
from nectargan.wording import one_line

# Trains a run, new or resumed, and returns its directory.
Start = Callable[[Config, Resumption | None], RunDirectory]
# Creates a config with some options replaced.
Resolve = Callable[[Sequence[Override]], Config]
State = Literal["NEW", "UNFINISHED", "RUNNING", "FINISHED", "PRUNED", "FAILED"]

CLAIMS = ".sweep"
"""Folder, in an output directory, of what the processes of a sweep share."""

_LONGEST_NAME = 100
_MOST_CELLS = 10_000

log = logging.getLogger("nectargan")


class GridPoint(NamedTuple):
    """One run of a sweep.

    Attributes:
        values: The values of the swept options as text, by dotted key.
        config: The resolved config.
    """

    values: dict[str, str]
    config: Config

    @property
    def name(self) -> str:
        """The swept options and their values, in one line."""
        return name_of(self.values)

    @property
    def output(self) -> Path:
        """The directory that contains its run directory."""
        return Path(self.config.common.output_directory)

    def identity(self, config: Config | None = None) -> dict[str, object]:
        """The options that identify the runs of this point.

        Args:
            config: The config; by default, that of the point.
        """
        config = config or self.config
        options = flatten(config.model_dump(mode="json"))
        options["dataloader.dataroot"] = absolute(config.dataloader.dataroot)
        swept = tuple(self.values)
        return {
            key: value
            for key, value in options.items()
            if key.startswith(swept) or not key.startswith(INCIDENTAL)
        }


class GridOutcome(NamedTuple):
    """The state of a grid point, its run directory if there is one, and why it failed or waits."""

    point: GridPoint
    state: State
    directory: RunDirectory | None = None
    reason: str = ""


def grid(axes: Sequence[Axis], resolve: Resolve) -> list[GridPoint]:
    """All combinations of values; those of the last axis vary fastest.

    Raises:
        ConfigError: an axis is a range, or the config of a combination is invalid.
    """
    for axis in axes:
        if axis.range is not None:
            raise ConfigError(
                f"--sweep {axis.key} is a range, which needs --sweep-search; a grid "
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
    """The grid point of some values, given as text by key; raises `ConfigError`."""
    try:
        config = resolve([(axis.key, axis.value_of(items[axis.key])) for axis in axes])
    except ConfigError as error:
        keys = [axis.key for axis in axes]
        raise ConfigError(_with_its_option(str(error), keys)) from None
    mlflow = config.logging.mlflow
    mlflow.group = mlflow.group or _group_name(config.common.experiment_name, axes)
    return GridPoint(dict(items), config)


def _with_its_option(text: str, keys: Sequence[str]) -> str:
    """Replaces ``--set`` by ``--sweep`` in a message about a swept option."""

    def option(match: re.Match[str]) -> str:
        is_swept = any(f"{key}.".startswith(f"{match[1]}.") for key in keys)
        return f"--sweep {match[1]}" if is_swept else match[0]

    return re.sub(r"--set ([^\s:]+)", option, text)


def _group_name(experiment: str, axes: Sequence[Axis]) -> str:
    """The default name of the parent run; equal in all processes that sweep the same options."""
    names = short_names([axis.key for axis in axes]).values()
    name = re.sub(r"[^\w\-. ]", "_", f"{experiment}_sweep_{'_'.join(names)}")
    return name[:_LONGEST_NAME]


def check_grid(points: Sequence[GridPoint], metric: str | Sequence[str] | None = None) -> None:
    """Checks all grid points before the first run starts. Writes nothing.

    Args:
        points: The points.
        metric: The metric that ranks the runs, if any.

    Raises:
        NectarGANError: the device, a network, a loss or the data of a grid point cannot be used,
            two points are equal, or a point does not measure ``metric``.
    """
    if len(points) > 1 and not points[0].config.save.auto_increment_version:
        raise ConfigError(
            "A sweep needs a run directory for each run; save.auto_increment_version must be true."
        )
    metrics = [metric] if isinstance(metric, str) else list(metric or ())
    seen: dict[str, GridPoint] = {}
    checked_data, checked_weights = set(), set()
    for point in points:
        config = point.config
        twin = seen.setdefault(_digest(point), point)
        if twin is not point:
            raise ConfigError(f"--sweep has the same run twice: '{twin.name}' and '{point.name}'.")
        device = resolve_device(config.common.device)
        precision = resolve_precision(config.common.precision, device)
        graph_obstacle(config.train.cuda_graph, device, precision)
        # On the meta device, which needs no memory: only the sizes are checked.
        with torch.device("meta"):
            generator, discriminator = build_generator(config), build_discriminator(config)
        networks = {"generator": generator, "discriminator": discriminator}
        shapes = {k: v.shape for each in networks.values() for k, v in each.state_dict().items()}
        weights = (config.train.init_from, config.train.init_from_digest, repr(shapes))
        if config.train.fork_from is not None:
            fork_of(config)
        elif weights not in checked_weights:
            checked_weights.add(weights)
            check_warm_start(config, networks)
        build_losses(config)
        build_metrics(config)
        own_sinks(config)
        series = config.validation.series
        for each in metrics:
            if each not in series:
                raise ConfigError(f"--metric {each} is not measured.{did_you_mean(each, series)}")
        # Every image is read; most sweeps have one data set.
        needs_val = config.best_by is not None or config.train.stop is not None
        data = (config.dataloader.model_dump_json(), config.common.device, needs_val)
        if data not in checked_data:
            checked_data.add(data)
            if build_data(config, device).val is None and metrics:
                raise ConfigError(
                    f"--metric {metrics[0]} needs validation images, but there are none."
                )
        if metrics and not config.logging.csv:
            raise ConfigError(
                f"--metric {metrics[0]} is read from metrics.csv, which logging.csv=false turns "
                "off."
            )


def find_run(point: GridPoint) -> GridOutcome:
    """Looks for the run of a grid point: a finished one, one that is running, or one that can be
    resumed ("UNFINISHED"). "NEW" with a directory means a run that ended without a checkpoint."""
    found = GridOutcome(point, "NEW")
    identity = point.identity()
    # The data set may have been moved.
    fixed = identity.keys() - {"dataloader.dataroot"}
    runs = list_runs(point.output, point.config.common.experiment_name)
    for directory in reversed(runs):
        try:
            config = ConfigManager(directory.config).data
        except NectarGANError:
            continue  # not a run, or of another version
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
    """Trains or resumes a grid point, unless it is finished or another process trains it.

    Args:
        point: The point.
        start: Trains a run.

    Returns:
        The new state. An error of the run becomes its reason; only KeyboardInterrupt and
        SystemExit are raised.
    """
    with ExitStack() as stack:
        # A run leaves reference cycles; the next run needs their memory.
        stack.callback(gc.collect)
        try:
            # Another process may start the same grid point before its run directory exists.
            claim = point.output / CLAIMS / _digest(point)
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
        except PrunedError as error:
            return find_run(point)._replace(state="PRUNED", reason=str(error))
        except NectarGANError as error:
            reason = str(error)
        except Exception as error:
            # Out of memory or a bug; the other runs may still succeed.
            log.exception("%s", point.name)
            reason = f"{type(error).__name__}: {error}"
        return find_run(point)._replace(state="FAILED", reason=one_line(reason))


def _resumption(found: GridOutcome) -> Resumption | None:
    if found.state != "UNFINISHED" or found.directory is None:
        return None
    try:
        checkpoint = load_last(found.directory)
    except CheckpointError as error:
        log.warning("%s The run starts from the beginning.", error)
        return None
    return resumption_of(found.directory, checkpoint, found.point.config)


def _digest(point: GridPoint) -> str:
    text = json.dumps(point.identity(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
