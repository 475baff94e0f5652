from __future__ import annotations

import pytest

from nectargan.errors import (
    NectarGANError,
    UnknownLossError,
    UnknownScheduleError,
    did_you_mean,
)


@pytest.mark.parametrize("kind", [UnknownLossError, UnknownScheduleError])
def test_key_errors_of_ours_are_readable(kind: type[NectarGANError]) -> None:
    error = kind("No 'x' here.")
    assert isinstance(error, KeyError)
    assert str(error) == "No 'x' here."
    assert str(kind()) == ""


def test_did_you_mean() -> None:
    assert did_you_mean("lineer", ["linear", "cosine"]) == (
        " Did you mean 'linear'? Allowed: cosine, linear."
    )
    assert did_you_mean("zzz", ["b", "a"]) == " Allowed: a, b."
