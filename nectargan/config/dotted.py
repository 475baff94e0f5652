"""Turns a config into a flat table from dotted keys, as ``--set`` takes them, to values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from nectargan.config.base import Section
from nectargan.config.loss_options import ScheduleConfig
from nectargan.config.schema import Config
from nectargan.scheduling.notation import notation_of

Value = str | int | float | bool | None


def dotted(config: Config) -> dict[str, Value]:
    """All options of a config by dotted key.

    A schedule is written in the one-line notation, a list as JSON.
    """
    return dict(_options("", config))


def _options(key: str, value: object) -> Iterator[tuple[str, Value]]:
    if isinstance(value, ScheduleConfig):
        yield key, notation_of(value.build())
    elif isinstance(value, (BaseModel, dict)):
        # Iterating over a model also yields pairs of name and value.
        for name, below in value.items() if isinstance(value, dict) else value:
            yield from _options(f"{key}.{name}" if key else str(name), below)
    elif value is None or isinstance(value, (str, int, float, bool)):
        yield key, value
    else:
        yield key, json.dumps(value, default=_changed_options)


def _changed_options(section: Section) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude_defaults=True)
