from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from nectargan.scheduling.data import Schedule
from nectargan.scheduling.scheduler_torch import TorchScheduler

DECAY = Schedule("linear", 100, 201, 2e-4, 0.0)


def sgd(lr: float = 2e-4) -> torch.optim.SGD:
    groups = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)]
    return torch.optim.SGD(groups, lr=lr)


def run(scheduler: LRScheduler, optimizer: torch.optim.SGD, epochs: int) -> list[float]:
    seen = []
    for _ in range(epochs):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first == second
        seen.append(first)
        optimizer.step()
        scheduler.step()
    return seen


def test_the_rule_of_pix2pix() -> None:
    ours, theirs = sgd(), sgd()
    rule = LambdaLR(theirs, lambda e: 1 - max(0, e + 1 - 100) / 101)
    scheduler = TorchScheduler(ours, DECAY)
    assert isinstance(scheduler, LRScheduler)
    seen = run(scheduler, ours, 200)
    assert seen == pytest.approx(run(rule, theirs, 200))
    assert seen[99] == 2e-4
    assert 0 < seen[199] < seen[198] < 4.1e-6


def test_values_are_rates_not_factors() -> None:
    optimizer = sgd(lr=123.0)
    scheduler = TorchScheduler(optimizer, Schedule("constant", initial_value=0.5))
    assert run(scheduler, optimizer, 3) == [0.5] * 3
    assert scheduler.get_last_lr() == [0.5, 0.5]


def test_a_resumed_scheduler_continues(tmp_path: Path) -> None:
    schedule = Schedule("cosine", 1, 20, 1.0, 0.0)
    optimizer = sgd()
    whole = run(TorchScheduler(optimizer, schedule), optimizer, 20)

    optimizer = sgd()
    scheduler = TorchScheduler(optimizer, schedule)
    first = run(scheduler, optimizer, 8)
    state = {"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, tmp_path / "state.pt")

    state = torch.load(tmp_path / "state.pt", weights_only=True)
    optimizer = sgd()
    scheduler = TorchScheduler(optimizer, schedule)
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    assert first + run(scheduler, optimizer, 12) == whole


def test_the_state_contains_only_counters() -> None:
    scheduler = TorchScheduler(sgd(), DECAY)
    assert "scheduler" not in scheduler.state_dict()
    assert scheduler.state_dict()["last_epoch"] == 0
