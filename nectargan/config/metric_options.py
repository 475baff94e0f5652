"""How a config spells the metrics of validation: names, import paths, or whole sections."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from nectargan.config.base import Section
from nectargan.errors import did_you_mean
from nectargan.imports import is_import_path
from nectargan.metrics import METRICS, is_lower_better

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,59}")


class OwnMetric(Section):
    """A metric of your own; see `nectargan.metrics.Metric`."""

    function: str
    """Import path, "package.module.name", of a function of (generated, target), or of a class whose
    objects are called so. It is imported when a run begins."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments for the function, or for the class."""
    higher_is_better: bool = True
    """Whether of two values the larger one is the better one."""
    name: str | None = None
    """Name of its series, val/<name>: letters, digits, _ and -. Left out: the last part of the
    import path."""

    @field_validator("function")
    @classmethod
    def _is_an_import_path(cls, path: str) -> str:
        if not is_import_path(path):
            raise ValueError("it must have the form package.module.name")
        return path

    @property
    def series_name(self) -> str:
        """The name of its series, without ``val/``."""
        return self.name or self.function.replace(":", ".").rpartition(".")[2]


def _kind(value: object) -> str | None:
    if isinstance(value, str):
        return "built_in_metric"
    return "own_metric" if isinstance(value, (dict, OwnMetric)) else None


MetricOption = Annotated[
    Annotated[str, Tag("built_in_metric")] | Annotated[OwnMetric, Tag("own_metric")],
    Discriminator(
        _kind,
        custom_error_type="metric",
        custom_error_message="it must be a name, an import path, or a section with a function",
    ),
]


def _may_be_one_text(value: object) -> object:
    """A text such as --set gives: names and import paths with commas between them, or JSON."""
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("it is no list in JSON") from None
    return [name.strip() for name in value.split(",") if name.strip()]


class Validation(Section):
    """What is measured on the validation images."""

    metrics: Annotated[list[MetricOption], BeforeValidator(_may_be_one_text)] = Field(
        default=["l1", "psnr", "ssim"]
    )
    """Names of built-in metrics, l1, psnr or ssim, and import paths of your own, of which more is
    better; where less is better: {function: my_package.my_metric, higher_is_better: false}."""

    @field_validator("metrics")
    @classmethod
    def _are_known(cls, metrics: list[str | OwnMetric]) -> list[str | OwnMetric]:
        names: list[str] = []
        for metric in metrics:
            own = as_own(metric)
            name = str(metric) if own is None else own.series_name
            if own is None and name not in METRICS:
                raise ValueError(
                    f"'{name}' is no metric, and no import path.{did_you_mean(name, METRICS)}"
                )
            if not _NAME.fullmatch(name) or name.endswith("_epoch"):
                raise ValueError(
                    f"the name '{name}' must be 1 to 60 letters, digits, '_' or '-', without "
                    "'_epoch' at its end"
                )
            if own is not None and name in METRICS:
                raise ValueError(f"a metric of your own needs a name other than '{name}'")
            if name in names:
                raise ValueError(f"'{name}' is measured twice")
            names.append(name)
        return metrics

    @property
    def series(self) -> list[str]:
        """``val/<name>`` of each metric."""
        owns = [(metric, as_own(metric)) for metric in self.metrics]
        return [f"val/{metric if own is None else own.series_name}" for metric, own in owns]

    @property
    def own_lower_is_better(self) -> frozenset[str]:
        """Names of the metrics, not built in, of which less is better."""
        owns = filter(None, map(as_own, self.metrics))
        return frozenset(own.series_name for own in owns if not own.higher_is_better)

    def is_lower_better(self, series: str) -> bool:
        """See `nectargan.metrics.is_lower_better`."""
        return is_lower_better(series, self.own_lower_is_better)


def as_own(metric: str | OwnMetric) -> OwnMetric | None:
    """A metric of one's own as a section; ``None`` for a built-in one."""
    if isinstance(metric, OwnMetric):
        return metric
    return OwnMetric(function=metric) if is_import_path(metric) else None
