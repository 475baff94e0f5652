"""Each rule against its formula, written down in NumPy over whole histories of losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nectargan.errors import LossError
from nectargan.losses.balancing import BALANCERS, DWA, Balancer, ReLoBRaLo, SoftAdapt

Array = npt.NDArray[np.float64]
NAMES = ("A", "B", "C")
HISTORY = st.lists(st.tuples(*[st.floats(0.1, 10.0)] * len(NAMES)), min_size=6, max_size=12).map(
    np.array
)


def follow(rule: Balancer, history: Array) -> Array:
    """The weights at every step."""
    weights = []
    for step, values in enumerate(history, start=1):
        rule.start_step(step, {"epoch": 1.0, "step": 1.0})
        rule.observe(torch.tensor(values, dtype=torch.float32))
        weights.append(rule.weights(torch.ones(3), torch.eye(3), rule.step).numpy())
    return np.array(weights)


def softmax(scores: Array) -> Array:
    return np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()


@given(HISTORY)
def test_dwa(history: Array) -> None:
    found = follow(DWA(NAMES, temperature=1.5, every_n_steps=2), history)
    for step, weights in enumerate(found, start=1):
        windows = history[: 2 * (step // 2)].reshape(-1, 2, 3).mean(axis=1)
        expected = np.ones(3)
        if len(windows) > 1:
            expected = 3 * softmax(windows[-1] / windows[-2] / 1.5)
        assert weights == pytest.approx(expected, rel=1e-4)


@given(HISTORY, st.booleans(), st.booleans())
def test_softadapt(history: Array, normalized: bool, loss_weighted: bool) -> None:
    rule = SoftAdapt(NAMES, 0.5, normalized, loss_weighted, every_n_steps=1)
    found = follow(rule, history)
    assert found[0].tolist() == [1.0] * 3
    for step in range(1, len(history)):
        slopes = history[step] - history[step - 1]
        if normalized:
            slopes = slopes / max(np.abs(slopes).sum(), 1e-30)
        expected = softmax(0.5 * slopes)
        if loss_weighted:
            expected = expected * history[step] / (expected * history[step]).sum()
        assert found[step] == pytest.approx(3 * expected, rel=1e-3)


@given(HISTORY, st.sampled_from([0.0, 1.0]))
def test_relobralo(history: Array, rho: float) -> None:
    found = follow(ReLoBRaLo(NAMES, temperature=2.0, alpha=0.7, rho=rho), history)
    weights = np.ones(3)
    for step in range(1, len(history)):
        first, previous = (
            3 * softmax(history[step] / earlier / 2.0)
            for earlier in (history[0], history[step - 1])
        )
        weights = 0.7 * (rho * weights + (1 - rho) * first) + 0.3 * previous
        assert found[step] == pytest.approx(weights, rel=1e-4)


@pytest.mark.parametrize("make", [DWA, SoftAdapt, ReLoBRaLo])
def test_bad_values_of_losses_change_nothing(make: Callable[..., Balancer]) -> None:
    history = np.array([[1.0, 2.0, -3.0], [np.nan, np.inf, 0.0], [2.0, -1.0, 4.0], [1.0, 1.0, 1.0]])
    found = follow(make(NAMES, every_n_steps=1), history)
    assert np.isfinite(found).all()
    assert found.sum(axis=1) == pytest.approx([3.0] * 4, rel=1e-5)


@pytest.mark.parametrize("make", [DWA, SoftAdapt, ReLoBRaLo])
def test_the_state_is_all_that_a_rule_remembers(make: Callable[..., Balancer]) -> None:
    history = np.random.default_rng(0).uniform(0.5, 2.0, (11, 3))
    whole, half, rest = (make(NAMES, every_n_steps=3) for _ in range(3))
    torch.manual_seed(0)
    expected = follow(whole, history)
    torch.manual_seed(0)
    follow(half, history[:5])
    rest.load_state_dict(half.state_dict())
    weights = []
    for step in range(6, 12):
        rest.start_step(step, {})
        rest.observe(torch.tensor(history[step - 1], dtype=torch.float32))
        weights.append(rest.weights(torch.ones(3), torch.eye(3), rest.step).numpy())
    assert (np.array(weights) == expected[5:]).all()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dwa", {"temperature": 0.0}),
        ("dwa", {"every_n_steps": 0}),
        ("softadapt", {"every_n_steps": 1.5}),
        ("relobralo", {"alpha": 1.5}),
        ("relobralo", {"rho": -0.1}),
    ],
)
def test_bad_arguments_are_refused(name: str, arguments: dict[str, float]) -> None:
    with pytest.raises(LossError, match=next(iter(arguments))):
        BALANCERS[name](NAMES, **arguments)
