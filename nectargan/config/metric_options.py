"""The sections ``validation`` and ``train.stop`` of a config: what is measured, and early stopping.

A metric is a name, an import path or a whole section.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from nectargan.config.base import Count, ImportPath, Section
from nectargan.errors import did_you_mean
from nectargan.imports import is_import_path
from nectargan.metrics import METRICS, OF_VALIDATION, is_lower_better

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,59}")


class OwnMetric(Section):
    """A metric of your own; see `nectargan.metrics.Metric`."""

    function: ImportPath
    """Import path, "package.module.name", of a function of (generated, target), or of a class whose
    instances are such functions. It is imported when a run starts."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments for the function, or for the class."""
    higher_is_better: bool = True
    """Whether a higher value is better."""
    name: str | None = None
    """Name of the metric, whose series is val/<name>: letters, digits, _ and -. Default: the last
    part of the import path."""

    @property
    def series_name(self) -> str:
        """The name of the series of this metric, without ``val/``."""
        return self.name or self.function.replace(":", ".").rpartition(".")[2]


def _metric_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "built_in_metric"
    return "own_metric" if isinstance(value, (dict, OwnMetric)) else None


MetricOption = Annotated[
    Annotated[str, Tag("built_in_metric")] | Annotated[OwnMetric, Tag("own_metric")],
    Discriminator(
        _metric_kind,
        custom_error_type="metric",
        custom_error_message="it must be a name, an import path, or a section with a function",
    ),
]


def split_text(value: object) -> object:
    """Splits a text, as given with --set: names and import paths separated by commas, or JSON.

    Raises:
        ValueError: If the text begins as a JSON list, but is none.
    """
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("it is not a JSON list") from None
    return [name.strip() for name in value.split(",") if name.strip()]


def check_metrics(metrics: Sequence[str | OwnMetric], built_in: Collection[str]) -> None:
    """Checks the names of metrics.

    Args:
        metrics: The metrics.
        built_in: Names of the built-in metrics that are allowed.

    Raises:
        ValueError: If a name is unknown, used twice, or not allowed for a custom metric.
    """
    names: list[str] = []
    for metric in metrics:
        own = as_own(metric)
        name = str(metric) if own is None else own.series_name
        if own is None and name not in built_in:
            hint = did_you_mean(name, built_in)
            raise ValueError(f"'{name}' is neither a metric nor an import path.{hint}")
        if not _NAME.fullmatch(name) or name.endswith("_epoch"):
            raise ValueError(
                f"the name '{name}' must be 1 to 60 letters, digits, '_' or '-', and must not "
                "end with '_epoch'"
            )
        if own is not None and name in METRICS:
            raise ValueError(f"a metric of your own needs a name other than '{name}'")
        if name in names:
            raise ValueError(f"'{name}' is measured twice")
        names.append(name)


class Validation(Section):
    """How the validation images are measured."""

    metrics: Annotated[list[MetricOption], BeforeValidator(split_text)] = Field(
        default=["l1", "psnr", "ssim"]
    )
    """Built-in metrics (l1, psnr, ssim, ms_ssim, lpips, lpips_vgg, dists) by name, and your own by
    import path. If lower values of your own metric are better: {function: my_package.my_metric,
    higher_is_better: false}."""

    @field_validator("metrics")
    @classmethod
    def _are_known(cls, metrics: list[str | OwnMetric]) -> list[str | OwnMetric]:
        check_metrics(metrics, OF_VALIDATION)
        return metrics

    @property
    def series(self) -> list[str]:
        """The series ``val/<name>`` of each metric."""
        owns = [(metric, as_own(metric)) for metric in self.metrics]
        return [f"val/{metric if own is None else own.series_name}" for metric, own in owns]

    @property
    def own_lower_is_better(self) -> frozenset[str]:
        """The names of the custom metrics of which lower values are better."""
        owns = filter(None, map(as_own, self.metrics))
        return frozenset(own.series_name for own in owns if not own.higher_is_better)

    def is_lower_better(self, series: str) -> bool:
        """Whether a lower value of a series is better; see `nectargan.metrics.is_lower_better`."""
        return is_lower_better(series, self.own_lower_is_better)


class Stop(Section):
    """Early stopping: a run ends when a metric of validation has not improved for some epochs."""

    metric: str
    """Metric to judge by, such as "val/ssim"; one of validation.metrics."""
    patience: Count = 20
    """Number of epochs without a new best value after which the run ends."""

    def reason(self, bests: Mapping[str, tuple[float, int]], epoch: int) -> str:
        """Why a run ends after ``epoch``; empty if it goes on.

        Args:
            bests: The best value of each metric so far, and its epoch.
            epoch: The last epoch that was validated.
        """
        value, best_epoch = bests.get(self.metric, (0.0, epoch))
        if epoch - best_epoch < self.patience:
            return ""
        since = f"has not improved since epoch {best_epoch} ({value:.4g})"
        return f"stopped early: {self.metric} {since}"


def as_own(metric: str | OwnMetric) -> OwnMetric | None:
    """A custom metric as a section; ``None`` for a built-in metric."""
    if isinstance(metric, OwnMetric):
        return metric
    return OwnMetric(function=metric) if is_import_path(metric) else None
