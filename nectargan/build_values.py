"""Finds out how the values of the files of a run become those of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nectargan.config.schema import Config
from nectargan.dataset.pairs import Pair
from nectargan.dataset.value_statistics import ValueReader, ValueStatistics, measure_values
from nectargan.errors import ConfigError, DataError
from nectargan.images.mapping import ValueMapping
from nectargan.images.ranges import percentiles_of, ranges_of

_SIDES = ("input", "target")


class ValueMappings(NamedTuple):
    """The mappings of both sides of a run."""

    input: ValueMapping
    target: ValueMapping

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ValueMappings:
        """Undoes `to_dict`; raises `DataError` if it is not the content of one."""
        try:
            return cls(*(ValueMapping.from_dict(content[side]) for side in _SIDES))
        except (KeyError, TypeError) as error:
            raise DataError(f"The value mappings are damaged: {error!r}.") from None

    def to_dict(self) -> dict[str, Any]:
        """Both as JSON can hold them."""
        return {"input": self.input.to_dict(), "target": self.target.to_dict()}


def build_mappings(
    config: Config,
    pairs: tuple[Pair, ...],
    dtypes: tuple[np.dtype[np.generic], np.dtype[np.generic]],
    on_progress: Callable[[int], object] = lambda count: None,
) -> ValueMappings:
    """The value mappings of a config, measured on the training images where it asks for that.

    Args:
        config: The config.
        pairs: The training pairs.
        dtypes: The dtype of the files of the input, and of the target.
        on_progress: See `measure_values`.

    Raises:
        ConfigError: If a range does not fit the images; the message names the option.
        DataError: If a file cannot be read.
    """
    load = config.dataloader.load
    transfers = [load.transfer] * 2 if isinstance(load.transfer, str) else load.transfer
    found = []
    for side, (value, dtype) in enumerate(
        zip((load.input_range, load.target_range), dtypes, strict=True)
    ):
        option = f"dataloader.load.{_SIDES[side]}_range"
        reader = reader_of(config, side, dtype)
        ranges, percentiles = ranges_of(value), percentiles_of(value)
        if ranges is None:
            needs_values = percentiles is not None or dtype.kind == "f"
            values = measure_values(pairs, reader, None, on_progress) if needs_values else None
            ranges = _measured(values, percentiles, dtype, option)
        low, high = zip(*ranges, strict=True)
        try:
            # The config has checked the names of the transfers; to mypy they are any text.
            mapping = ValueMapping(low, high, transfers[side], dtype.name)  # type: ignore[arg-type]
            mapping.check_channels(reader.channels, option)
        except DataError as error:
            raise ConfigError(str(error)) from None
        found.append(mapping)
    return ValueMappings(*found)


def reader_of(config: Config, side: int, dtype: np.dtype[np.generic]) -> ValueReader:
    """How the values of the input (0) or the target (1) are read."""
    load = config.dataloader.load
    return ValueReader(
        side,
        config.dataloader.direction == "BtoA",
        (load.input_channels, load.target_channels),
        (load.input_nc, load.output_nc)[side],
        dtype,
        ("input_nc", "output_nc")[side],
    )


def _measured(
    values: ValueStatistics | None,
    percentiles: tuple[float, float] | None,
    dtype: np.dtype[np.generic],
    option: str,
) -> list[tuple[float, float]]:
    """The range of all channels, or of each."""
    if values is None:
        whole = ValueMapping.of_dtype(dtype)
        return [(whole.low[0], whole.high[0])]
    if not values.pixels:
        raise ConfigError(f"{option} cannot be measured, because no pixel of the images is valid.")
    if percentiles is None:
        low, high = float(values.lowest.min()), float(values.highest.max())
        if low < 0 or high > 1:
            raise ConfigError(
                f"{option} is 'dtype', which stands for [0, 1] in files of {dtype.name}, but their "
                f"values are from {low:g} to {high:g}; set it to [{low:g}, {high:g}], or to "
                "'percentile 1 99'."
            )
        return [(0.0, 1.0)]
    lows, highs = (values.percentile(percent) for percent in percentiles)
    for channel, (low, high) in enumerate(zip(lows, highs, strict=True), start=1):
        if not low < high:
            raise ConfigError(
                f"{option} is 'percentile {percentiles[0]:g} {percentiles[1]:g}', but both are "
                f"{low:g} in channel {channel}; give a range of numbers."
            )
    return [(float(low), float(high)) for low, high in zip(lows, highs, strict=True)]
