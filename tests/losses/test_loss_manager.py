from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.errors import LossError, NectarGANError, UnknownLossError
from nectargan.losses.lm_data import LMLoss, LossEvent
from nectargan.losses.loss_manager import LossManager
from nectargan.scheduling.data import Schedule

X, Y = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 0.0, 1.0])


def fading(**options: Any) -> Schedule:
    return Schedule(
        "linear", start_epoch=1, end_epoch=5, initial_value=8.0, target_value=0.0, **options
    )


def events_of(manager: LossManager, **options: Any) -> list[LossEvent]:
    events: list[LossEvent] = []
    manager.register_hook(events.append, **options)
    return events


# --- computing ---------------------------------------------------------------------------------


@given(weight=st.floats(-1e3, 1e3, width=32))
def test_a_weighted_loss_and_its_gradient_are_torchs(weight: float) -> None:
    manager = LossManager()
    manager.register_loss_fn(name="l1", loss_fn=nn.L1Loss(), loss_weight=weight)
    ours, plain = X.clone().requires_grad_(), X.clone().requires_grad_()
    a, b = manager.compute_loss_xy("l1", ours, Y), F.l1_loss(plain, Y) * weight
    a.backward()
    b.backward()
    assert torch.equal(a, b)
    assert torch.equal(ours.grad, plain.grad)  # type: ignore[arg-type]


def test_a_loss_may_have_any_number_of_inputs() -> None:
    manager = LossManager()
    manager.register_loss_fn("triplet", nn.TripletMarginLoss(margin=1.0), loss_weight=3.0)
    manager.register_loss_fn("norm", torch.linalg.vector_norm)
    a, b, c = torch.randn(3, 4, 5)
    expected = 3 * F.triplet_margin_loss(a, b, c)
    assert torch.allclose(manager.compute_loss("triplet", a, b, c), expected)
    assert torch.allclose(manager.compute_loss("norm", a), a.norm())


def test_keywords_reach_the_loss_function_and_the_rest_the_schedule() -> None:
    manager = LossManager()
    seen: dict[str, Any] = {}

    def custom(schedule: Schedule, epoch: float, gain: float) -> float:
        seen["epoch"] = epoch
        return gain

    manager.register_loss_fn("smooth", F.smooth_l1_loss, schedule=Schedule(custom))
    kwargs = {"beta": 0.5, "weight_kwargs": {"gain": 3.0}}
    value = manager.compute_loss_xy("smooth", X, Y, epoch=9, loss_kwargs=kwargs)
    assert torch.allclose(value, 3.0 * F.smooth_l1_loss(X, Y, beta=0.5))
    assert seen == {"epoch": 9}
    assert kwargs == {"beta": 0.5, "weight_kwargs": {"gain": 3.0}}, (
        "the caller's dict is left alone"
    )


def test_weight_keywords_reach_a_built_in_schedule() -> None:
    manager = LossManager()
    manager.register_loss_fn("l1", nn.L1Loss(), schedule=Schedule("polynomial", 1, 3, 1.0, 0.0))
    raw = F.l1_loss(X, Y)
    for power, weight in ((1.0, 0.5), (2.0, 0.25), (3.0, 0.125)):
        value = manager.compute_loss_xy(
            "l1", X, Y, epoch=2, loss_kwargs={"weight_kwargs": {"power": power}}
        )
        assert torch.allclose(value, raw * weight)


def test_a_map_is_returned_and_kept_whole() -> None:
    manager = LossManager()
    manager.register_loss_fn("map", nn.L1Loss(reduction="none"), loss_weight=2.0)
    events = events_of(manager)
    x = X.clone().requires_grad_()
    value = manager.compute_loss_xy("map", x, Y)
    assert value.tolist() == [2.0, 4.0, 6.0]
    assert value.requires_grad
    kept = manager.get_registered_losses()["map"].last_loss_map
    assert kept is not None
    assert kept.tolist() == [1.0, 2.0, 3.0]
    assert not kept.requires_grad
    (event,) = events
    assert (event.raw.shape, event.raw.item(), event.weighted.item()) == ((), 2.0, 4.0)


def test_unknown_losses_are_named_with_a_suggestion() -> None:
    manager = LossManager()
    manager.register_loss_fn("G_L1", nn.L1Loss())
    with pytest.raises(UnknownLossError, match=r"no loss named 'G_LI'. Did you mean 'G_L1'"):
        manager.compute_loss_xy("G_LI", X, Y)
    with pytest.raises(KeyError):
        manager.compute_loss_xy("G_LI", X, Y)


@pytest.mark.parametrize(("result", "kind"), [(3.0, "float"), (None, "NoneType"), ((X,), "tuple")])
def test_a_function_that_returns_no_tensor_is_named(result: Any, kind: str) -> None:
    manager = LossManager()
    manager.register_loss_fn("odd", lambda *inputs: result)
    with pytest.raises(LossError, match=f"Loss 'odd' returned {kind}; it must be a tensor"):
        manager.compute_loss_xy("odd", X, Y)


def test_the_gradient_goes_through_a_scheduled_weight_and_nowhere_else() -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.MSELoss(), schedule=fading())
    events = events_of(manager)
    ours, plain = X.clone().requires_grad_(), X.clone().requires_grad_()
    manager.compute_loss_xy("a", ours, Y, epoch=2).backward()
    (6.0 * F.mse_loss(plain, Y)).backward()
    assert torch.equal(ours.grad, plain.grad)  # type: ignore[arg-type]
    assert events[0].weighted.grad_fn is None


# --- faults of the original --------------------------------------------------------------------


def test_two_losses_registered_without_a_schedule_have_a_weight_each() -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss(), loss_weight=1.0)
    manager.register_loss_fn("b", nn.L1Loss(), loss_weight=100.0)
    assert manager.get_loss_weights() == {"a": 1.0, "b": 100.0}
    ratio = manager.compute_loss_xy("b", X, Y) / manager.compute_loss_xy("a", X, Y)
    assert ratio.item() == 100.0


def test_the_weight_on_record_is_the_scheduled_one() -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss(), schedule=fading())
    events = events_of(manager)
    for epoch in range(1, 7):
        manager.compute_loss_xy("a", X, Y, epoch)
    assert [event.weight for event in events] == [8.0, 6.0, 4.0, 2.0, 0.0, 0.0]
    for event in events:
        assert event.weighted.item() == event.raw.item() * event.weight


def test_the_weight_on_record_stays_what_it_was() -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss(), schedule=fading())
    events = events_of(manager)
    manager.compute_loss_xy("a", X, Y, 2)
    manager.compute_loss_xy("a", X, Y, 4)
    assert events[0].weight == 6.0


def test_a_call_without_the_epoch_does_not_freeze_the_schedule() -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss(), schedule=fading())
    weights = []
    for epoch in range(1, 6):
        manager.start_step(epoch, step=epoch)
        manager.compute_loss_xy("a", X, Y)
        weights.append(manager.get_loss_weights()["a"])
    assert weights == [8.0, 6.0, 4.0, 2.0, 0.0]


def test_an_epoch_given_to_one_call_holds_for_those_that_forget_it() -> None:
    manager = LossManager()
    for name in ("a", "b"):
        manager.register_loss_fn(name, nn.L1Loss(), schedule=fading())
    manager.compute_loss_xy("a", X, Y, epoch=3)
    manager.compute_loss_xy("b", X, Y)
    assert manager.get_loss_weights() == {"a": 4.0, "b": 4.0}


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_fractional_epoch_holds_as_it_was_given(interval: str) -> None:
    manager = LossManager()
    for name in ("a", "b"):
        manager.register_loss_fn(name, nn.L1Loss(), schedule=fading(interval=interval))
    manager.compute_loss_xy("a", X, Y, epoch=1.5)
    manager.compute_loss_xy("b", X, Y)
    assert manager.get_loss_weights() == {"a": 7.0, "b": 7.0}
    manager.start_step(3, 2)
    manager.compute_loss_xy("b", X, Y)
    assert manager.get_loss_weights() == {"a": 7.0, "b": 4.0}


@pytest.mark.parametrize("epoch", [0, -1, float("nan"), float("inf")])
def test_an_epoch_that_there_is_not_is_refused(epoch: float) -> None:
    # Recorded as epoch 1, an epoch 0 would fall together with the one after it.
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss())
    with pytest.raises(LossError, match=f"Epoch {epoch} of loss 'a': epochs count from 1"):
        manager.compute_loss_xy("a", X, Y, epoch=epoch)
    assert manager.epoch is None


@pytest.mark.parametrize(("epoch", "step"), [(0, 1), (1, 0), (-1, 5)])
def test_a_loop_that_counts_from_zero_is_told(epoch: int, step: int) -> None:
    manager = LossManager()
    with pytest.raises(LossError, match=f"Epoch {epoch}, step {step}: .* count from 1"):
        manager.start_step(epoch, step)


def test_a_scheduled_loss_with_no_epoch_known_is_refused() -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss(), schedule=fading())
    with pytest.raises(LossError, match="'a' has a schedule, but no epoch is known"):
        manager.compute_loss_xy("a", X, Y)


def test_a_duplicate_name_is_refused_and_the_first_stays() -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss(), loss_weight=5.0)
    with pytest.raises(LossError, match="'a' is already registered"):
        manager.register_loss_fn("a", nn.MSELoss())
    assert manager.get_loss_weights() == {"a": 5.0}


# --- where the loop is -------------------------------------------------------------------------


def test_fractional_epochs_move_only_schedules_per_step() -> None:
    manager = LossManager()
    manager.register_loss_fn("epoch", nn.L1Loss(), schedule=fading())
    manager.register_loss_fn("step", nn.L1Loss(), schedule=fading(interval="step"))
    seen = []
    for step, (epoch, fraction) in enumerate([(2, 0.5), (2, 1.0), (3, 0.5), (3, 1.0)], start=1):
        manager.start_step(epoch, step, fraction)
        for name in ("epoch", "step"):
            manager.compute_loss_xy(name, X, Y)
        seen.append(tuple(manager.get_loss_weights().values()))
    # At the end of an epoch both agree; the one per step gets there gradually.
    assert seen == [(6.0, 7.0), (6.0, 6.0), (4.0, 5.0), (4.0, 4.0)]


def test_a_fractional_epoch_may_be_given() -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss(), schedule=fading())
    events = events_of(manager)
    manager.compute_loss_xy("a", X, Y, epoch=1.5)
    assert (events[0].weight, events[0].epoch) == (7.0, 2)


def test_steps_are_counted_if_none_are_given() -> None:
    manager = LossManager()
    for name in ("a", "b", "c"):
        manager.register_loss_fn(name, nn.L1Loss())
    events = events_of(manager)
    for names in (("a", "b"), ("a", "b", "c"), ("b", "a"), ("c",), ("c",)):
        for name in names:
            manager.compute_loss_xy(name, X, Y)
    assert [(e.name, e.step) for e in events] == [
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("b", 2),
        ("c", 2),
        ("b", 3),
        ("a", 3),
        ("c", 3),
        ("c", 4),
    ]


def test_given_steps_are_used() -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss())
    events = events_of(manager)
    manager.start_step(epoch=4, step=70)
    manager.compute_loss_xy("a", X, Y)
    manager.compute_loss_xy("a", X, Y)
    assert [(e.epoch, e.step) for e in events] == [(4, 70), (4, 70)]


# --- hooks -------------------------------------------------------------------------------------


def test_an_event_says_it_all() -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss(), loss_weight=3.0, tags=["G", "pixel"])
    events = events_of(manager)
    manager.start_step(2, 11)
    x = X.clone().requires_grad_()
    manager.compute_loss_xy("a", x, Y)
    (event,) = events
    assert (event.name, event.tags) == ("a", ("G", "pixel"))
    assert (event.raw.item(), event.weight, event.weighted.item()) == (2.0, 3.0, 6.0)
    assert (event.epoch, event.step) == (2, 11)
    assert isinstance(event.weight, float)
    assert not event.raw.requires_grad
    assert not event.weighted.requires_grad


def test_hooks_run_in_the_order_of_registration_right_after_the_weighting() -> None:
    manager = LossManager()
    calls: list[str] = []

    def loss(x: Tensor) -> Tensor:
        calls.append("loss")
        return x.mean()

    manager.register_loss_fn("a", loss)
    for name in ("first", "second", "third"):
        manager.register_hook(lambda event, name=name: calls.append(name))  # type: ignore[misc]
    manager.compute_loss("a", X)
    manager.compute_loss("a", X)
    assert calls == ["loss", "first", "second", "third"] * 2


def test_a_removed_hook_is_not_called() -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss())
    one: list[LossEvent] = []
    handle = manager.register_hook(one.append)
    other = events_of(manager)
    manager.compute_loss_xy("a", X, Y)
    handle.remove()
    handle.remove()
    manager.compute_loss_xy("a", X, Y)
    assert (len(one), len(other)) == (1, 2)


def test_a_hook_may_remove_itself() -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss())
    calls: list[str] = []

    def once(event: LossEvent) -> None:
        calls.append("once")
        handle.remove()

    handle = manager.register_hook(once)
    manager.register_hook(lambda event: calls.append("always"))
    manager.compute_loss_xy("a", X, Y)
    manager.compute_loss_xy("a", X, Y)
    assert calls == ["once", "always", "always"]


def test_a_hook_may_ask_for_tags() -> None:
    manager = LossManager()
    for name, tags in (("a", ["G"]), ("b", ["D"]), ("c", ["G", "pixel"]), ("d", [])):
        manager.register_loss_fn(name, nn.L1Loss(), tags=tags)
    of_g, of_two = events_of(manager, query=["G"]), events_of(manager, query=["D", "pixel"])
    for name in "abcd":
        manager.compute_loss_xy(name, X, Y)
    assert [event.name for event in of_g] == ["a", "c"]
    assert [event.name for event in of_two] == ["b", "c"]


@pytest.mark.parametrize("query", [None, ["G"]])
def test_an_exception_in_a_hook_carries_its_name(query: list[str] | None) -> None:
    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss(), tags=["G"])

    def broken_hook(event: LossEvent) -> None:
        raise ZeroDivisionError("by zero")

    manager.register_hook(broken_hook, query)
    with pytest.raises(ZeroDivisionError, match="by zero") as caught:
        manager.compute_loss_xy("a", X, Y)
    (note,) = caught.value.__notes__
    assert "broken_hook" in note
    assert "'a'" in note


def test_a_hook_without_a_name_is_named_by_its_class() -> None:
    class Recorder:
        def __call__(self, event: LossEvent) -> None:
            raise OSError("disk full")

    manager = LossManager()
    manager.register_loss_fn("a", nn.L1Loss())
    manager.register_hook(Recorder())
    with pytest.raises(OSError, match="disk full") as caught:
        manager.compute_loss_xy("a", X, Y)
    assert "Recorder" in caught.value.__notes__[0]


# --- specs and queries -------------------------------------------------------------------------


def spec(weight: float, *, extra: bool = False) -> dict[str, LMLoss]:
    losses = {"a": LMLoss("a", nn.L1Loss(), weight, tags=["G"])}
    if extra:
        losses["b"] = LMLoss("b", nn.MSELoss(), tags=["D", "x"])
    return losses


def test_a_spec_gets_its_arguments_and_registers_its_losses() -> None:
    manager = LossManager()
    returned = manager.init_from_spec(spec, 4.0, extra=True)
    assert manager.get_registered_losses() == returned
    assert manager.get_loss_weights() == {"a": 4.0, "b": 1.0}


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (lambda: [1], "must return a dict of LMLoss, not list"),
        (lambda: {"c": nn.L1Loss()}, "must return each LMLoss under its name; 'c'"),
        (lambda: {"c": LMLoss("d", nn.L1Loss())}, "must return each LMLoss under its name; 'c'"),
        (lambda: {"c": LMLoss("c", abs), "a": LMLoss("a", abs)}, "'a' is already registered"),
    ],
)
def test_a_bad_spec_registers_nothing(bad: Any, sentence: str) -> None:
    manager = LossManager()
    manager.init_from_spec(spec, 1.0)
    with pytest.raises(LossError, match=sentence):
        manager.init_from_spec(bad)
    assert list(manager.get_registered_losses()) == ["a"]


def test_queries_match_any_tag() -> None:
    manager = LossManager()
    manager.init_from_spec(spec, 2.0, extra=True)
    manager.register_loss_fn("c", nn.L1Loss(), tags=["x"])
    for query, names in [(None, "abc"), (["G"], "a"), (["G", "x"], "abc"), ([], ""), (["no"], "")]:
        for getter in (manager.get_registered_losses, manager.get_loss_weights):
            assert "".join(getter(query)) == names
    assert manager.get_loss_values() == {}, "nothing was computed yet"
    manager.compute_loss_xy("a", X, Y)
    manager.compute_loss_xy("c", X, Y + 1)
    assert manager.get_loss_values() == {"a": 2.0, "c": 1.0}
    assert manager.get_loss_values(["x"]) == {"c": 1.0}
    assert {name: t.item() for name, t in manager.get_loss_tensors(["G"]).items()} == {"a": 2.0}


def test_config_and_directory_are_kept_and_nothing_is_made(tmp_path: Path) -> None:
    config = object()
    manager = LossManager(config=config, experiment_directory=tmp_path / "exp")
    assert manager.config is config
    assert manager.experiment_directory == tmp_path / "exp"
    assert list(tmp_path.iterdir()) == []


def test_bad_registrations_are_our_errors() -> None:
    manager = LossManager()
    for options in (
        {"name": "a,b", "loss_fn": abs},
        {"name": "a", "loss_fn": 3},
        {"name": "a", "loss_fn": abs, "loss_weight": float("nan")},
        {"name": "a", "loss_fn": abs, "tags": "G"},
    ):
        with pytest.raises(NectarGANError):
            manager.register_loss_fn(**options)  # type: ignore[arg-type]
    assert manager.get_registered_losses() == {}
