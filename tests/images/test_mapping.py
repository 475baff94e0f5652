"""Values of files and of networks: both ways, for every dtype, range and transfer."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nectargan.dataset.paired_dataset import denormalize, normalize
from nectargan.errors import DataError
from nectargan.images.mapping import ValueMapping

TRANSFERS = st.sampled_from(["linear", "log", "asinh", "gamma"])
INTEGERS = ("uint8", "int8", "uint16", "int16")


def all_values(dtype: str) -> torch.Tensor:
    """Every value of an integer dtype, as an image with one channel."""
    limits = np.iinfo(dtype)
    return torch.arange(int(limits.min), int(limits.max) + 1).view(1, -1, 256)


def test_eight_bits_equal_the_plain_path_to_the_bit() -> None:
    mapping = ValueMapping.of_dtype(np.uint8)
    values = all_values("uint8").to(torch.uint8)
    assert torch.equal(mapping.encode(values), normalize(values))
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2.2 - 1.1
    assert torch.equal(mapping.decode(noise), denormalize(noise))
    assert mapping.is_of_8_bits


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("transfer", ["linear", "gamma"])
def test_integers_come_back_exactly(dtype: str, transfer: str) -> None:
    values = all_values(dtype)
    mapping = ValueMapping.of_dtype(dtype, transfer)  # type: ignore[arg-type]
    encoded = mapping.encode(values)
    assert (encoded.min(), encoded.max()) == (-1, 1)
    assert torch.equal(mapping.decode(encoded).long(), values)


@pytest.mark.parametrize("transfer", ["log", "asinh"])
def test_eight_bits_come_back_exactly_from_a_logarithm(transfer: str) -> None:
    values = all_values("uint8")
    mapping = ValueMapping((0.0,), (255.0,), transfer, "uint8")  # type: ignore[arg-type]
    assert torch.equal(mapping.decode(mapping.encode(values)).long(), values)


def test_every_half_from_0_to_1_comes_back_exactly() -> None:
    bits = np.arange(0x3C00 + 1, dtype=np.uint16)
    values = torch.from_numpy(bits.view(np.float16).copy()).view(1, 1, -1)
    mapping = ValueMapping.of_dtype(np.float16)
    assert torch.equal(mapping.decode(mapping.encode(values)), values)


@given(st.integers(-3, 6), st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
def test_floats_come_back_exactly_from_a_range_around_0(power: int, parts: list[float]) -> None:
    side = float(2**power)
    mapping = ValueMapping((-side,), (side,), "linear", "float32")
    values = torch.tensor([*parts, -0.0], dtype=torch.float32).mul(side).view(1, 1, -1)
    found = mapping.decode(mapping.encode(values))
    assert torch.equal(found.view(torch.int32), values.view(torch.int32))  # -0.0 too


@given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e5), TRANSFERS, st.lists(st.floats(0, 1), min_size=1))
def test_decode_undoes_encode(low: float, span: float, transfer: str, parts: list[float]) -> None:
    mapping = ValueMapping((low,), (low + span,), transfer, "float32")  # type: ignore[arg-type]
    values = torch.tensor([low + span * part for part in parts], dtype=torch.float64)
    images = mapping.encode(values.float().view(1, 1, -1))
    assert images.abs().max() <= 1
    back = mapping.decode(images).flatten().double()
    # Rounding to float32 in [-1, 1] is magnified by the slope of the curve.
    allowed = 2e-5 * max(span, abs(low), abs(low + span))
    assert torch.allclose(back, values, rtol=0, atol=allowed)


@pytest.mark.parametrize(
    ("transfer", "value", "wanted"),
    [
        ("linear", 2.5, -0.5),
        ("log", 2.5, 2 * math.log(3.5) / math.log(11) - 1),
        ("asinh", 2.5, 2 * math.asinh(2.5) / math.asinh(10) - 1),
        ("gamma", 2.5, 2 * 0.25 ** (1 / 2.2) - 1),
        ("log", -5.0, -1.0),
        ("gamma", 20.0, 1.0),
    ],
)
def test_the_formulas(transfer: str, value: float, wanted: float) -> None:
    mapping = ValueMapping((0.0,), (10.0,), transfer, "float32")  # type: ignore[arg-type]
    found = mapping.encode(torch.tensor([[[value]]]))
    assert found.item() == pytest.approx(wanted, abs=1e-6)


def test_a_range_for_each_channel() -> None:
    mapping = ValueMapping((0.0, -10.0), (100.0, 10.0), "linear", "int16")
    values = torch.tensor([[[[0, 50]], [[5, 10]]]], dtype=torch.int16)
    encoded = mapping.encode(values)
    assert encoded.flatten().tolist() == [-1.0, 0.0, 0.5, 1.0]
    assert torch.equal(mapping.decode(encoded), values)
    with pytest.raises(DataError, match="input_range has 2 ranges for 3 channels"):
        mapping.check_channels(3, "input_range")


def test_uint16_is_rounded_and_clamped() -> None:
    mapping = ValueMapping.of_dtype(np.uint16)
    found = mapping.decode(torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, -1))
    assert found.dtype == torch.int32
    assert found.flatten().tolist() == [0, 0, 32768, 65535, 65535]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), TRANSFERS)
def test_json_holds_a_mapping(low: float, span: float, transfer: str) -> None:
    mapping = ValueMapping((low, 0.0), (low + span, 1.0), transfer, "uint16")  # type: ignore[arg-type]
    assert ValueMapping.from_dict(json.loads(json.dumps(mapping.to_dict()))) == mapping


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ((1.0,), (1.0,), "range \\[1, 1\\] is empty"),
        ((0.0,), (math.inf,), "not finite"),
        ((0.0,), (1.0, 2.0), "as many low values"),
        ((), (), "at least one"),
    ],
)
def test_bad_ranges(low: tuple[float, ...], high: tuple[float, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ValueMapping(low, high)


@pytest.mark.parametrize("content", [{}, {"low": 1, "high": [2]}, {"low": ["a"], "high": [1]}])
def test_a_damaged_mapping(content: dict[str, object]) -> None:
    with pytest.raises(DataError, match="damaged"):
        ValueMapping.from_dict(content)
