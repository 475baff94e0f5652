"""The rules of torchjd, with a stand-in where the package is not installed.

The stand-in has what torchjd 0.18.0 has, as its source reads (``torchjd/aggregation/__init__.py``,
``_weighting_bases.py``, ``_mean.py``, ``_upgrad.py``): ``__all__`` names the classes, those of the
weightings end in "Weighting", ``Weighting`` is their base class, each is an `nn.Module` that is
called with a Gramian ``(m, m)`` and returns weights ``(m,)`` on its device, and one whose solver is
not installed raises an ImportError when it is made.
"""

from __future__ import annotations

import logging
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from nectargan.errors import LossError
from nectargan.losses.balancing import TorchJD

NAMES = ("A", "B")
NOW = {"epoch": 1.0, "step": 1.0}


class MeanWeighting(nn.Module):
    def forward(self, gramian: Tensor) -> Tensor:
        return torch.full((len(gramian),), 1 / len(gramian))


class InverseWeighting(nn.Module):
    """Not in torchjd: the inverse of the norms, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, gramian: Tensor) -> Tensor:
        assert not gramian.is_cuda
        if gramian[0, 0] > 1e6:
            raise ValueError("Failed to solve the quadratic programming problem.")
        return self.factor / gramian.diagonal().sqrt()


class NashMTLWeighting(nn.Module):
    def __init__(self) -> None:
        raise ImportError("NashMTL needs cvxpy. Install it with: pip install torchjd[nash_mtl]")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("torchjd"), ModuleType("torchjd.aggregation")
    weightings = (MeanWeighting, InverseWeighting, NashMTLWeighting)
    for each in weightings:
        setattr(module, each.__name__, each)
    module.__all__ = ["Mean", "Weighting", *(w.__name__ for w in weightings)]  # type: ignore[attr-defined]
    package.aggregation = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchjd", package)
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", module)


def step(rule: TorchJD, number: int, gramian: Tensor) -> list[float]:
    rule.start_step(number, NOW)
    return rule.weights(gramian.diagonal().sqrt(), gramian, rule.step).tolist()


@pytest.mark.usefixtures("stand_in")
def test_the_weighting_is_asked_every_n_steps_about_the_mean_gramian() -> None:
    rule = TorchJD(NAMES, "InverseWeighting", every_n_steps=2, factor=4.0)
    gramians = [torch.diag(torch.tensor([a, b])) for a, b in [(1, 4), (7, 28), (64, 16), (64, 16)]]
    found = [step(rule, number, g.float()) for number, g in enumerate(gramians, start=1)]
    assert found == [[1, 1], [1, 1], [2, 1], [2, 1]]
    assert step(rule, 5, gramians[0].float()) == [0.5, 1]


@pytest.mark.usefixtures("stand_in")
def test_a_resumed_rule_continues() -> None:
    whole, first, second = (TorchJD(NAMES, "Inverse", every_n_steps=2) for _ in range(3))
    gramians = [torch.diag(torch.rand(2) + 0.1) for _ in range(6)]
    expected = [step(whole, number, g) for number, g in enumerate(gramians, start=1)]
    for number in (1, 2, 3):
        step(first, number, gramians[number - 1])
    second.load_state_dict(first.state_dict())
    assert [step(second, n, gramians[n - 1]) for n in (4, 5, 6)] == expected[3:]


@pytest.mark.usefixtures("stand_in")
def test_a_solver_that_fails_leaves_the_weights(caplog: pytest.LogCaptureFixture) -> None:
    rule = TorchJD(NAMES, "Inverse", every_n_steps=1)
    step(rule, 1, torch.eye(2) * 4)
    assert step(rule, 2, torch.eye(2) * 1e8) == [0.5, 0.5]
    with caplog.at_level(logging.WARNING, "nectargan"):
        assert step(rule, 3, torch.eye(2) * torch.nan) == [0.5, 0.5]
    assert "Failed to solve the quadratic programming problem" in caplog.text
    # A Gramian that is not finite does not count.
    assert step(rule, 4, torch.eye(2)) == [0.5, 0.5]
    assert step(rule, 5, torch.eye(2)) == [1.0, 1.0]


@pytest.mark.usefixtures("stand_in")
def test_a_sink_that_cannot_be_created_is_reported() -> None:
    with pytest.raises(LossError, match=r"no weighting 'Men'. Did you mean 'Mean'\? Allowed: Inv"):
        TorchJD(NAMES, "Men")
    with pytest.raises(LossError, match="NashMTL needs cvxpy"):
        TorchJD(NAMES, "NashMTL")
    with pytest.raises(LossError, match="every_n_steps is 0"):
        TorchJD(NAMES, "Mean", every_n_steps=0)


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(LossError, match=r"install it with pip install 'nectargan\[torchjd\]'"):
        TorchJD(NAMES)


def test_the_package_itself() -> None:
    pytest.importorskip("torchjd")
    gramian = torch.tensor([[18.0, -22.0], [-22.0, 38.0]])
    for name in ("MGDA", "IMTLG", "PCGrad"):
        rule = TorchJD(NAMES, name, every_n_steps=1)
        step(rule, 1, gramian)
        weights = torch.tensor(step(rule, 2, gramian))
        # No loss is made worse where the losses contradict each other.
        assert (gramian @ weights >= -1e-3).all(), name
