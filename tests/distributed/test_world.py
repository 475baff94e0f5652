from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nectargan.distributed import ALONE, World, joined
from nectargan.errors import RunError


@given(count=st.integers(0, 200), size=st.integers(1, 17))
def test_the_slices_of_all_processes_are_the_whole(count: int, size: int) -> None:
    whole, lengths = [], []
    for rank in range(size):
        world = World()
        world.rank, world.size = rank, size
        part = list(range(count))[world.slice_of(count)]
        whole += part
        lengths.append(len(part))
    assert whole == list(range(count))
    assert max(lengths) - min(lengths) <= 1


def test_a_single_process_has_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as world:
        assert world is ALONE
    assert (world.rank, world.size, world.is_main, world.part) == (0, 1, True, 1.0)
    assert world.from_main(lambda: 3) == 3
    assert world.gather("x") == ["x"]
    assert world.gather_numbers([1, 2]) == [[1, 2]]
    tensor, network = torch.ones(2), nn.Linear(1, 1)
    assert world.all_reduce(tensor) is world.broadcast(tensor) is tensor
    assert world.wrapped(network) is world.with_synchronized_norms(network, "x") is network
    assert world.choose_device("cuda:3") == "cuda:3"
    error = KeyboardInterrupt()
    assert world.is_agreed(world.agreed(error))
    with pytest.raises(ZeroDivisionError), world.together():
        raise ZeroDivisionError


@pytest.mark.parametrize("size", ["", "1"])
def test_torchrun_with_one_process_is_a_single_process(
    monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    with joined() as world:
        assert world is ALONE


def test_variables_that_torchrun_did_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RunError, match=r"'2', but LOCAL_RANK is not a number: .* with torchrun"):  # noqa: SIM117
        with joined():
            pass
