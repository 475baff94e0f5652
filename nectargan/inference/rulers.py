"""Chooses the metrics of a test, and loads what they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from nectargan.build_data import build_own_metric
from nectargan.config.metric_options import (
    MetricOption,
    OwnMetric,
    as_own,
    check_metrics,
    split_text,
)
from nectargan.errors import CheckpointError, ConfigError
from nectargan.inference.model import Model
from nectargan.metrics import METRICS, Metric
from nectargan.metrics.networks import MOST_COLORS, LoadedNetwork, load_network


@dataclass
class Ruler:
    """The metrics that can be measured, with their networks.

    Attributes:
        metrics: The metrics.
        networks: What they look through, by name.
        left_out: A sentence for each metric that cannot be measured.
    """

    metrics: list[Metric]
    networks: dict[str, LoadedNetwork]
    left_out: list[str]


def select_metrics(text: str) -> list[str | OwnMetric]:
    """The metrics that a user named: names and import paths with commas between, or a JSON list
    with sections as in ``validation.metrics``.

    Raises:
        ConfigError: a name is unknown, or there is none.
    """
    try:
        chosen = TypeAdapter(list[MetricOption]).validate_python(split_text(text))
        check_metrics(chosen, METRICS)
    except ValidationError as error:
        found = error.errors()[0]
        keys = ".".join(str(part) for part in found["loc"][2:])
        reason = f"{keys}: {found['msg']}" if keys else found["msg"]
        raise ConfigError(f"--metrics: {reason}.") from None
    except ValueError as error:
        raise ConfigError(f"--metrics: {str(error).rstrip('.')}.") from None
    if not chosen:
        raise ConfigError(f"--metrics contains no metric; allowed: {', '.join(METRICS)}.")
    return chosen


def build_chosen(
    chosen: Sequence[str | OwnMetric], model: Model, size: tuple[int, int]
) -> list[Metric]:
    """The metrics that were chosen, custom ones imported and tried.

    Args:
        chosen: See `select_metrics`.
        model: Whose images will be measured.
        size: Their (height, width).

    Raises:
        ConfigError: a custom metric cannot be used.
    """
    metrics = []
    for each in chosen:
        own = as_own(each)
        if own is None:
            metrics.append(METRICS[str(each)])
            continue
        shape = (2, model.out_channels, *size)
        place = f"The metric '{own.series_name}' of --metrics"
        with torch.random.fork_rng(devices=[]):
            metric = build_own_metric(own, place, shape, model.device)
        if (
            metric.higher_is_better != own.higher_is_better
            and "higher_is_better" in own.model_fields_set
        ):
            raise ConfigError(
                f"{place} has higher_is_better {own.higher_is_better}, but '{own.function}' says "
                f"{metric.higher_is_better}."
            )
        metrics.append(metric)
    return metrics


def open_ruler(
    metrics: Sequence[Metric],
    weights: Path | None,
    shape: tuple[int, int, int],
    count: int,
    device: torch.device,
) -> Ruler:
    """Loads what the metrics need, and leaves out those that cannot be measured.

    Args:
        metrics: What to measure.
        weights: A folder with files of weights; see `nectargan.metrics.weights.find_weights`.
        shape: (channels, height, width) of the images.
        count: Number of images.
        device: Where to compute.

    Raises:
        ConfigError: no metric is left; says why.
    """
    channels, *size = shape
    ruler = Ruler([], {}, [])
    missing: dict[str, str] = {}
    for metric in metrics:
        if min(size) < metric.least_side:
            sides = f"{metric.least_side} x {metric.least_side}"
            reason = f"it needs images of at least {sides}; these are {size[0]} x {size[1]}."
        elif metric.of_set and count < 2:
            reason = "it needs at least two images."
        elif metric.network and channels > MOST_COLORS:
            reason = f"it looks at colors, and these images have {channels} channels."
        else:
            reason = _load(metric.network, ruler, missing, weights, device)
        if reason:
            ruler.left_out.append(f"{metric.name} is left out: {reason}")
        else:
            ruler.metrics.append(metric)
    if not ruler.metrics:
        raise ConfigError(f"Nothing can be measured. {' '.join(ruler.left_out)}")
    return ruler


def _load(
    network: str, ruler: Ruler, missing: dict[str, str], weights: Path | None, device: torch.device
) -> str:
    """Loads a network, once; why that cannot be done, or nothing."""
    if network and network not in ruler.networks and network not in missing:
        try:
            ruler.networks[network] = load_network(network, weights, device)
        except CheckpointError as error:
            missing[network] = str(error)
    return missing.get(network, "")
