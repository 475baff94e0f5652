"""What a checkpoint holds of random generators is put back, and only where it belongs."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from nectargan.errors import CheckpointError
from nectargan.runs.random_state import random_state, set_random_state

CPU, MPS = torch.device("cpu"), torch.device("mps")


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_all_generators_of_the_host_go_on_where_they_were() -> None:
    state = random_state(CPU)
    assert (state["cuda"], state["mps"]) == (None, None)
    expected = draw()
    assert draw() != expected
    set_random_state(state, CPU)
    assert draw() == expected


def test_the_generator_of_an_mps_device_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    own, put_back = torch.arange(3, dtype=torch.uint8), []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: own)
    monkeypatch.setattr(torch.mps, "set_rng_state", put_back.append)
    state = random_state(MPS)
    set_random_state(state, CPU)
    assert put_back == [], "not on another device"
    set_random_state(state, MPS)
    assert put_back == [own]


def test_a_checkpoint_from_before_it_was_kept_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "set_rng_state", pytest.fail)
    state = random_state(CPU)
    del state["mps"]
    set_random_state(state, MPS)


def test_an_invalid_state_is_refused() -> None:
    with pytest.raises(CheckpointError, match="random generators cannot be used"):
        set_random_state({**random_state(CPU), "numpy": [1]}, CPU)
