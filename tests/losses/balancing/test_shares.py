from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nectargan.errors import LossError
from nectargan.losses.balancing import Share, ShareRule
from nectargan.losses.balancing.shares import vqgan
from nectargan.losses.loss_manager import LossManager
from nectargan.scheduling.data import Schedule

NAMES = ("A", "B", "C")
NORMS = st.floats(1e-3, 1e3)
NOW = {"epoch": 1.0, "step": 1.0}


def weights(rule: ShareRule, *steps: list[float], at: Mapping[str, float] = NOW) -> Tensor:
    """The weights at the last of some steps, of which the norms are given."""
    for step, norms in enumerate(steps, start=1):
        rule.start_step(step, at)
        found = rule.weights(torch.tensor(norms), torch.eye(len(norms)), rule.step)
    return found


@given(st.tuples(NORMS, NORMS, NORMS), st.floats(0, 0.49), st.floats(0, 0.49))
def test_the_shares_are_those_that_were_asked_for(
    norms: tuple[float, ...], first: float, second: float
) -> None:
    shares = {name: Share(s, smoothing=0, max=1e12) for name, s in (("A", first), ("C", second))}
    pulls = weights(ShareRule(NAMES, shares), list(norms)) * torch.tensor(norms)
    wanted = [first, 1 - first - second, second]
    assert (pulls / pulls.sum()).tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-9)


def test_the_formula_written_down_plainly() -> None:
    share, beta, norms = 0.3, 0.9, [[2.0, 5.0], [4.0, 5.0], [1.0, 6.0], [3.0, 2.0]]
    rule, correction = ShareRule(("A", "B"), {"A": Share(share, smoothing=beta)}), 0.0
    for step in range(1, 5):
        own, anchor = norms[step - 1]
        total = sum((1 - beta) * beta ** (step - 1 - k) * norms[k][0] for k in range(step))
        smoothed = total / (1 - beta**step)
        expected = share / (1 - share) * anchor / smoothed * math.exp(correction)
        assert weights(rule, norms[step - 1]).tolist() == pytest.approx([expected, 1.0])
        held = expected * own / (expected * own + anchor)
        correction -= 0.5 * (held - share) / (share * (1 - share))


@pytest.mark.parametrize("growth", [0.0, 0.01, -0.01])
@pytest.mark.parametrize("names", [("A", "B"), ("A",)], ids=["an anchor", "every loss a share"])
def test_a_smoothed_share_is_held_on_average(growth: float, names: tuple[str, ...]) -> None:
    """With norms that vary by a third, and grow or fall by a factor of 20 in 300 steps."""
    random = np.random.default_rng(1)
    shares = {"A": Share(0.2)} if len(names) > 1 else {"A": Share(0.2), "B": Share(0.8)}
    rule, held = ShareRule(("A", "B"), shares), []
    for step in range(1, 401):
        norms = random.lognormal(0, 0.3, 2) * [math.exp(growth * min(step, 300)), 3.0]
        pulls = weights(rule, norms.tolist()).numpy() * norms
        held.append(pulls[0] / pulls.sum())
    assert np.mean(held[100:]) == pytest.approx(0.2, rel=0.02)


def test_a_weight_at_its_bound_does_not_wind_up() -> None:
    rule = ShareRule(("A", "B"), {"A": Share(0.5, max=1.0)})
    for _ in range(200):
        weights(rule, [1.0, 8.0])
    assert rule.correction.tolist() == [0.0, 0.0]


@given(st.lists(st.tuples(NORMS, NORMS), min_size=1, max_size=5), st.floats(0.05, 0.95))
def test_the_pull_of_the_first_step_is_kept_if_every_loss_has_a_share(
    steps: list[tuple[float, float]], share: float
) -> None:
    rule = ShareRule(
        ("A", "B"),
        {
            "A": Share(share, smoothing=0, max=1e12),
            "B": Share(1 - share, smoothing=0, max=1e12),
        },
    )
    for norms in steps:
        pulls = weights(rule, list(norms)) * torch.tensor(norms)
        wanted = [share * sum(steps[0]), (1 - share) * sum(steps[0])]
        assert pulls.tolist() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("smoothing", [0.0, 0.9])
def test_a_norm_that_vanishes_or_is_not_finite_leaves_the_weight(
    bad: float, smoothing: float
) -> None:
    rule = ShareRule(("A", "B"), {"A": Share(0.5, smoothing)})
    assert weights(rule, [bad, 1.0]).tolist() == [1.0, 1.0]
    before = weights(rule, [2.0, 8.0]).tolist()
    assert before == [4.0, 1.0]
    assert weights(rule, [bad, 8.0]).tolist() == before
    assert weights(rule, [2.0, 8.0]).tolist() == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_anchor_that_is_not_finite_leaves_the_weight(bad: float) -> None:
    rule = ShareRule(("A", "B"), {"A": Share(0.5, smoothing=0)})
    assert weights(rule, [2.0, 8.0], [2.0, bad]).tolist() == [4.0, 1.0]
    assert weights(rule, [2.0, 4.0]).tolist() == [2.0, 1.0]


def test_the_first_pull_is_that_of_the_first_finite_step() -> None:
    rule = ShareRule(("A", "B"), dict.fromkeys("AB", Share(0.5, smoothing=0)))
    assert weights(rule, [float("inf"), 1.0], [2.0, 6.0], [1.0, 1.0]).tolist() == [4.0, 4.0]


def test_bounds() -> None:
    rule = ShareRule(("A", "B"), {"A": Share(0.5, smoothing=0, min=0.5, max=2.0)})
    found = [weights(rule, [norm, 8.0])[0].item() for norm in (100.0, 8.0, 1e-30, 0.0)]
    assert found == [0.5, 1.0, 2.0, 2.0]
    # Before there is a gradient, the weight is 1, or the bound nearest to it.
    assert weights(ShareRule(("A", "B"), {"A": Share(0.5, max=0.25)}), [0.0, 8.0])[0] == 0.25


@given(st.lists(st.sampled_from([0.0, 1e-20, 1e-6, 1.0, 100.0]), min_size=1, max_size=30))
def test_no_step_pulls_far_more_than_its_share(norms: list[float]) -> None:
    """Whatever a gradient does, and however slowly the weight follows."""
    rule = ShareRule(("A", "B"), {"A": Share(0.5, smoothing=0.99)})
    for norm in norms:
        weight = weights(rule, [norm, 3.0])[0].item()
        assert 0 <= weight <= 1e4
        assert weight * norm <= 10 * 3.0 * (1 + 1e-5)


def test_a_share_of_nothing_is_a_weight_of_nothing() -> None:
    rule = ShareRule(("A", "B"), {"A": Share(Schedule("linear", 1, 3, 0.0, 0.5), 0)})
    at = [weights(rule, [2.0, 8.0], at={"epoch": e, "step": e})[0].item() for e in (1.0, 2.0, 3.0)]
    assert at == pytest.approx([0.0, 4 / 3, 4.0])


def test_a_share_may_move_at_every_step() -> None:
    share = Share(Schedule("linear", 0, 1, 0.0, 0.5, interval="step"))
    rule = ShareRule(("A", "B"), {"A": share})
    assert weights(rule, [2.0, 8.0], at={"epoch": 1.0, "step": 0.5})[0].item() == pytest.approx(
        4 / 3
    )


@given(st.floats(0.01, 10.0), NORMS, NORMS)
def test_the_adaptive_weight_of_vqgan(factor: float, own: float, others: float) -> None:
    rule = vqgan(("G_L1", "G_GAN", "G_L2"), weight=factor, max=1e7)
    found = weights(rule, [others, own, others])
    assert found.tolist() == pytest.approx([1.0, factor * 2 * others / own, 1.0], rel=1e-4)


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ({"A": Share(0.6), "B": Share(0.5)}, "their sum below 1"),
        ({name: Share(0.3) for name in NAMES}, "their sum 1, as every loss has one"),
        ({"A": Share(Schedule("constant", initial_value=-0.1))}, "each must be at least 0"),
    ],
)
def test_shares_that_cannot_be_held(shares: dict[str, Share], told: str) -> None:
    rule = ShareRule(NAMES, shares)
    with pytest.raises(LossError, match=told):
        rule.start_step(1, NOW)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Share(1.5),
        lambda: Share(-0.1),
        lambda: Share(0.2, smoothing=1.0),
        lambda: Share(0.2, min=3.0, max=2.0),
        lambda: ShareRule(NAMES, {"X": Share(0.2)}),
        lambda: vqgan(NAMES, weight=0.0),
        lambda: vqgan(NAMES, loss="G_GAN"),
    ],
)
def test_bad_numbers_are_refused(make: object) -> None:
    with pytest.raises(LossError):
        make()  # type: ignore[operator]


# --- in a loop of one's own ----------------------------------------------------------------------


def manager(**share: object) -> LossManager:
    losses = LossManager()
    losses.register_loss_fn("A", lambda x: (3 * x).sum(), **share)  # type: ignore[arg-type]
    losses.register_loss_fn("B", lambda x: (4 * x).sum(), loss_weight=2.0)
    return losses


def test_a_loop_of_ones_own() -> None:
    losses, parameter = manager(share=0.25), torch.ones(1, requires_grad=True)
    events = []
    losses.register_hook(events.append)
    for _ in range(2):
        parameter.grad = None
        with losses.gradients_at(parameter.view(1, 1) * 1.0) as x:
            losses.compute_loss("A", x)
            losses.compute_loss("B", x)
            assert len(events) % 2 == 0
        # B pulls with 8. So A has to pull with 8 / 3, and its gradient is 3.
        assert parameter.grad is not None
        assert parameter.grad.item() == pytest.approx(8 + 8 / 3)
    assert [(event.name, event.step) for event in events] == [
        ("A", 1),
        ("B", 1),
        ("A", 2),
        ("B", 2),
    ]
    assert [float(event.weight) for event in events] == pytest.approx([8 / 9, 2.0] * 2)
    assert [event.weighted.item() for event in events] == pytest.approx([8 / 3, 8.0] * 2)
    assert losses.get_loss_weights() == pytest.approx({"A": 8 / 9, "B": 2.0})


def test_a_share_needs_the_gradient() -> None:
    with pytest.raises(LossError, match="must be computed within gradients_at"):
        manager(share=0.25).compute_loss("A", torch.ones(1))


def test_a_share_of_a_loss_that_the_images_do_not_change() -> None:
    losses, x = manager(share=0.25), torch.ones(1, 1, requires_grad=True)
    with pytest.raises(LossError, match="'A' has a share, but does not depend on"):  # noqa: SIM117
        with losses.gradients_at(x * 1.0) as fake:
            losses.compute_loss("A", torch.ones(1, requires_grad=True))
            losses.compute_loss("B", fake)


def test_a_scheduled_share_needs_an_epoch() -> None:
    losses = manager(share=Schedule("linear", 1, 3, 0.0, 0.5))
    x = torch.ones(1, 1, requires_grad=True)
    for _ in range(2):
        with pytest.raises(LossError, match=r"call start_step\(epoch, step\)"):  # noqa: SIM117
            with losses.gradients_at(x * 1.0) as fake:
                losses.compute_loss("A", fake)
                losses.compute_loss("B", fake)
    losses.start_step(epoch=3, step=1)
    with losses.gradients_at(x * 1.0) as fake:
        losses.compute_loss("A", fake)
        losses.compute_loss("B", fake)
    assert losses.get_loss_weights()["A"] == pytest.approx(8 / 3)


def test_a_share_and_a_weight_are_too_much() -> None:
    with pytest.raises(LossError, match="both a share and a weight"):
        manager(share=0.25, loss_weight=2.0)
