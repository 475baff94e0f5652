"""How processes find each other, wait for each other, and learn why one has ended."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from nectargan.distributed import joined
from nectargan.distributed.processes import _agreed_name
from nectargan.errors import RunError
from tests.distributed.launching import run_in_two

if not torch.distributed.is_available():
    pytest.skip("torch without torch.distributed", allow_module_level=True)

SOON = timedelta(seconds=60)


@pytest.fixture
def store() -> Any:
    # Its stubs do not export it.
    return torch.distributed.HashStore()  # type: ignore[attr-defined]


def names_of(store: Any, size: int) -> list[str]:
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: _agreed_name(store, rank, size, SOON), range(size)))


def test_each_start_has_a_name_of_its_own(store: Any) -> None:
    """Also one of other size, in a store that has the keys of the earlier ones."""
    starts = [names_of(store, size) for size in (3, 3, 2, 4)]
    assert [len(set(names)) for names in starts] == [1, 1, 1, 1]
    assert len({names[0] for names in starts}) == 4


def test_a_process_that_comes_late_is_not_mistaken_for_an_earlier_one(store: Any) -> None:
    (gone, _) = names_of(store, 2)
    with ThreadPoolExecutor(2) as pool:
        main = pool.submit(_agreed_name, store, 0, 2, SOON)
        with pytest.raises(TimeoutError):
            main.result(1.0)  # it waits, although the store has a process 1
        late = pool.submit(_agreed_name, store, 1, 2, SOON)
        assert main.result() == late.result() != gone


def test_processes_that_do_not_arrive_are_counted(store: Any) -> None:
    with pytest.raises(RuntimeError, match="2 of them did not arrive in time"):
        _agreed_name(store, 0, 3, timedelta(seconds=0.2))


def test_a_torch_without_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.setenv(name, "2" if name.endswith("SIZE") else "0")
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(RunError, match=r"without torch\.distributed"), joined():
        pass


def test_the_main_process_may_take_its_time_and_an_error_of_nccl_is_told(tmp_path: Path) -> None:
    codes, told = run_in_two(tmp_path, "slow_main", "nccl")
    assert codes == [0, 0], told
    found = [torch.load(tmp_path / f"slow_main.{rank}.pt") for rank in (0, 1)]
    assert found == [{"made": "made"}] * 2
    first, second = (torch.load(tmp_path / f"nccl.{rank}.pt")["error"] for rank in (0, 1))
    assert second == "RuntimeError: NCCL error: invalid usage, of rank 1"
    assert first == "PeerError: Rank 1 ended: RuntimeError: NCCL error: invalid usage, of rank 1"
