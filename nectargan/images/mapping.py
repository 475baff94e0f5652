r"""`ValueMapping`: from the values of a file to those of a network, and back.

A network takes and gives values in [-1, 1]. With the range [low, high] of a channel and a transfer
:math:`f`, a value :math:`v` becomes

.. math:: y = 2 \frac{f(v) - f(low)}{f(high) - f(low)} - 1

with one of these transfers:

- linear: :math:`f(v) = v`;
- log: :math:`f(v) = \log(1 + v - low)`, for values of which a few are far larger than the others;
- asinh: :math:`f(v) = \mathrm{asinh}(v)`, which is like a logarithm on both sides of 0;
- gamma: :math:`f(v) = (v - low)^{1 / 2.2}`, for linear light.

Values outside of the range are clamped to it, because a tanh could never generate them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from nectargan.errors import DataError
from nectargan.images.ranges import Transfer
from nectargan.images.raw import DTYPES
from nectargan.wording import counted

_GAMMA = 2.2


class _Curve(NamedTuple):
    """A transfer and its inverse, of ``v - low``; `asinh` alone takes ``v``."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    is_shifted: bool = True


_CURVES: Mapping[str, _Curve] = {
    "log": _Curve(torch.log1p, torch.expm1),
    "asinh": _Curve(torch.asinh, torch.sinh, is_shifted=False),
    "gamma": _Curve(lambda v: v.pow(1 / _GAMMA), lambda v: v.pow(_GAMMA)),
}


@dataclass(frozen=True)
class ValueMapping:
    """How the values of the files on one side of a data set become those of a network.

    Attributes:
        low: The value that becomes -1, in the units of the files: of all channels, or of each.
        high: The value that becomes 1; as long as ``low``.
        transfer: The shape of the curve between them.
        dtype: The dtype of the files, one of `nectargan.images.raw.DTYPES`.

    Raises:
        DataError: If a range is empty or not finite, or the transfer or the dtype is unknown.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    transfer: Transfer = "linear"
    dtype: str = "uint8"

    def __post_init__(self) -> None:
        if self.transfer not in get_args(Transfer):
            known = ", ".join(get_args(Transfer))
            raise DataError(f"The transfer is {self.transfer!r}; allowed are {known}.")
        if self.dtype not in DTYPES:
            raise DataError(f"The dtype is {self.dtype!r}; allowed are {', '.join(DTYPES)}.")
        if len(self.low) != len(self.high) or not self.low:
            raise DataError("A range needs as many low values as high values, and at least one.")
        for low, high in zip(self.low, self.high, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise DataError(
                    f"The range [{low:g}, {high:g}] is empty or not finite; the first value must "
                    "be below the second."
                )

    @classmethod
    def of_dtype(cls, dtype: Any, transfer: Transfer = "linear") -> ValueMapping:
        """The whole range of an integer dtype, or [0, 1] of floats."""
        kind = np.dtype(dtype)
        low, high = (0, 1) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
        return cls((float(low),), (float(high),), transfer, kind.name)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ValueMapping:
        """Undoes `to_dict`; raises `DataError` if it is not the content of one."""
        try:
            low, high = (tuple(map(float, content[key])) for key in ("low", "high"))
            return cls(low, high, content["transfer"], content["dtype"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"A value mapping is damaged: {error!r}.") from None

    def to_dict(self) -> dict[str, Any]:
        """The mapping as JSON can hold it."""
        return {**asdict(self), "low": list(self.low), "high": list(self.high)}

    @property
    def is_of_8_bits(self) -> bool:
        """Whether this is the mapping of plain 8-bit images."""
        return self == ValueMapping.of_dtype(np.uint8)

    def check_channels(self, channels: int, option: str) -> None:
        """Raises `DataError` unless there is one range, or one for each channel."""
        if len(self.low) not in (1, channels):
            raise DataError(
                f"{option} has {len(self.low)} ranges for {counted(channels, 'channel')}; give one "
                "range, or one for each channel."
            )

    def encode(self, values: Tensor) -> Tensor:
        """The values of files as those of a network, on their device.

        Args:
            values: ``(..., C, H, W)`` of any dtype, in the units of the files.

        Returns:
            Float32 of the same shape, in [-1, 1]; NaN stays NaN.
        """
        return self.encode_exactly(values).clamp_(-1.0, 1.0)

    def encode_exactly(self, values: Tensor) -> Tensor:
        """As `encode`, without clamping what lies outside of the range."""
        low, start, half = _constants_of(self, values.device)
        images: Tensor = values.to(torch.float32)
        curve = _CURVES.get(self.transfer)
        if curve is None:
            # In this form, 8 bits give the same as `nectargan.dataset.paired_dataset.normalize`,
            # and a range around 0 loses nothing.
            return images.div(half).sub_(start)
        # Below the range, a logarithm and a power have no value.
        shifted = (images - low).clamp_(min=0.0) if curve.is_shifted else images
        return curve.forward(shifted).sub_(start).div_(half).sub_(1.0)

    def decode(self, images: Tensor) -> Tensor:
        """The inverse of `encode`, in the dtype of the files.

        Args:
            images: ``(..., C, H, W)``; clamped to [-1, 1].

        Returns:
            The same shape, in units; integers are rounded. uint16 comes as int32, because torch
            computes nothing in uint16.
        """
        units = self.decode_to_units(images)
        kind = np.dtype(self.dtype)
        if kind.kind == "f":
            return units.to(torch.float16 if kind.itemsize == 2 else torch.float32)
        limits = np.iinfo(kind)
        rounded = units.round_().clamp_(int(limits.min), int(limits.max))
        return rounded.to(torch.int32 if self.dtype == "uint16" else getattr(torch, self.dtype))

    def decode_to_units(self, images: Tensor) -> Tensor:
        """As `decode`, in float32 and without rounding."""
        low, start, half = _constants_of(self, images.device)
        curve = _CURVES.get(self.transfer)
        values = images.detach().float().clamp(-1.0, 1.0)
        if curve is None:
            return values.sub_(0.0 - start).mul_(half)  # so that -0.0 stays -0.0
        found = curve.inverse(values.add_(1.0).mul_(half).add_(start))
        return found.add_(low) if curve.is_shifted else found

    def __str__(self) -> str:
        ranges = list(dict.fromkeys(zip(self.low, self.high, strict=True)))
        shown = ", ".join(f"[{low:g}, {high:g}]" for low, high in ranges[:3])
        more = f" and {len(ranges) - 3} more" if len(ranges) > 3 else ""
        how = "" if self.transfer == "linear" else f", {self.transfer}"
        return f"{self.dtype} {shown}{more}{how}"


@functools.lru_cache(maxsize=64)
def _constants_of(mapping: ValueMapping, device: torch.device) -> tuple[Any, Any, Any]:
    """low, start and half, as numbers or as tensors ``(C, 1, 1)``.

    half is that of f(high) - f(low). start is f(low), and for a linear transfer the middle of the
    range in units of half.
    """
    curve = _CURVES.get(mapping.transfer)
    starts, halves = [], []
    for low, high in zip(mapping.low, mapping.high, strict=True):
        if curve is None:
            halves.append((high - low) / 2)
            starts.append((high + low) / 2 / halves[-1])
        else:
            ends = torch.tensor([low, high], dtype=torch.float64)
            first, last = curve.forward(ends - low if curve.is_shifted else ends).tolist()
            halves.append((last - first) / 2)
            starts.append(first)
    if len(mapping.low) == 1:
        return mapping.low[0], starts[0], halves[0]
    # Kept, because copying them for each batch would wait for the device.
    return _column(mapping.low, device), _column(starts, device), _column(halves, device)


def _column(numbers: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32, device=device).view(-1, 1, 1)
