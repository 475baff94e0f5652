"""A config as a flat table: every option under the dotted key that ``--set`` takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from nectargan.config.base import Section
from nectargan.config.loss_options import ScheduleConfig
from nectargan.config.schema import Config
from nectargan.scheduling.notation import notation_of

Option = str | int | float | bool | None


def dotted(config: Config) -> dict[str, Option]:
    """Every option by its dotted key; a schedule in its one-line notation, a list as JSON."""
    return dict(_options("", config))


def _options(key: str, value: object) -> Iterator[tuple[str, Option]]:
    if isinstance(value, ScheduleConfig):
        yield key, notation_of(value.build())
    elif isinstance(value, (BaseModel, dict)):
        # A model gives pairs of name and value as well.
        for name, below in value.items() if isinstance(value, dict) else value:
            yield from _options(f"{key}.{name}" if key else str(name), below)
    elif value is None or isinstance(value, (str, int, float, bool)):
        yield key, value
    else:
        yield key, json.dumps(value, default=_given)


def _given(section: Section) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude_defaults=True)
