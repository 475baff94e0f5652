"""The gradient of each loss at the generated images, and the backward pass that is cut there."""

from __future__ import annotations

import itertools
import logging
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from nectargan.errors import LossError
from nectargan.losses.gradients import cosines_of, norms_of, pairwise_cosines_of, shares_of
from nectargan.losses.lm_data import GradientEvent
from nectargan.losses.loss_manager import LossManager

SHAPE = (3, 2, 4)  # images, channels, pixels


def manager_of(*functions: Callable[..., Tensor], weights: Sequence[float] = ()) -> LossManager:
    """A manager of losses "a", "b", ... of these functions."""
    manager = LossManager()
    for name, function, weight in itertools.zip_longest(
        "abcdef"[: len(functions)], functions, weights, fillvalue=1.0
    ):
        manager.register_loss_fn(str(name), function, loss_weight=float(weight))  # type: ignore[arg-type]
    manager.start_step(1, 1)
    return manager


def events_of(manager: LossManager, every_n_steps: int = 1) -> list[GradientEvent]:
    events: list[GradientEvent] = []
    manager.register_gradient_hook(events.append, every_n_steps)
    return events


def along(direction: Tensor) -> Callable[[Tensor], Tensor]:
    """A loss with the gradient ``direction``, whatever the image."""
    return lambda image: (image * direction).sum()


def generator() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv1d(3, 2, 1))


def gradients(network: nn.Module) -> list[Tensor]:
    found = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    return found


def measured(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """The measures by their definitions, one image and loss at a time, in 64 bits.

    Args:
        vectors: ``(losses, images, numbers)``.
    """
    losses, images, _ = vectors.shape

    def cosine(one: Callable[[int], np.ndarray], other: Callable[[int], np.ndarray]) -> float:
        found = []
        for image in range(images):
            x, y = one(image), other(image)
            norms = np.linalg.norm(x) * np.linalg.norm(y)
            if norms > 0:
                found.append(float(x @ y / norms))
        return math.fsum(found) / len(found) if found else math.nan

    norms = np.array([np.mean([np.linalg.norm(v) for v in of_loss]) for of_loss in vectors])
    with np.errstate(invalid="ignore"):
        shares = norms / norms.sum()
    return {
        "norms": norms,
        "shares": shares,
        "cosines": np.array(
            [
                cosine(
                    lambda i, k=k: vectors[k, i],
                    lambda i, k=k: sum(
                        (vectors[m, i] for m in range(losses) if m != k),
                        np.zeros_like(vectors[0, i]),
                    ),
                )
                for k in range(losses)
            ]
        ),
        "pairwise_cosines": np.array(
            [
                [
                    cosine(lambda i, k=k: vectors[k, i], lambda i, m=m: vectors[m, i])
                    for m in range(losses)
                ]
                for k in range(losses)
            ]
        ),
    }


# --- measures ------------------------------------------------------------------------------------


@given(data=st.data(), losses=st.integers(1, 4), images=st.integers(1, 3))
def test_the_measures_are_those_of_their_definitions(
    data: st.DataObject, losses: int, images: int
) -> None:
    count = losses * images * 8
    numbers = data.draw(
        st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=count, max_size=count)
    )
    vectors = np.array(numbers).reshape(losses, images, 8)
    weights = [2.0**k for k in range(losses)]
    functions = [along(torch.tensor(v, dtype=torch.float32).view(images, 2, 4)) for v in vectors]
    manager = manager_of(*functions, weights=weights)
    events = events_of(manager)
    images_made = torch.zeros(images, 2, 4, requires_grad=True)
    with manager.gradients_at(images_made * 1) as fake:
        for name in "abcd"[:losses]:
            manager.compute_loss(name, fake)
    (event,) = events
    assert event.losses == tuple("abcd"[:losses])
    assert event.products.shape == (images, losses, losses)
    expected = measured(vectors * np.array(weights)[:, None, None])
    for name, value in expected.items():
        found = getattr(event, name).double().numpy()
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=2e-6, err_msg=name)


def test_two_losses_that_pull_against_each_other() -> None:
    """One image: 3 to the right; 4 up and 3 to the left, which is 5 long."""
    right, up = torch.zeros(2, 1, 1, 2).unbind()
    right, up = right.clone(), up.clone()
    right[..., 0], up[..., 1] = 1, 1
    manager = manager_of(along(right), along(4 * up - 3 * right), weights=[3.0, 1.0])
    (events, image) = events_of(manager), torch.zeros(1, 1, 2, requires_grad=True)
    with manager.gradients_at(image * 1) as fake:
        manager.compute_loss("a", fake)
        manager.compute_loss("b", fake)
    (event,) = events
    assert event.norms.tolist() == [3, 5]
    assert event.shares.tolist() == [3 / 8, 5 / 8]
    assert event.cosines.tolist() == pytest.approx([-0.6, -0.6])
    assert event.pairwise_cosines[0, 1].item() == pytest.approx(-0.6)
    assert event.gramian.tolist() == [[9, -9], [-9, 25]]
    assert image.grad is not None
    assert image.grad.tolist() == [[[0, 4]]]
    assert (event.epoch, event.step) == (1, 1)


def test_a_small_loss_beside_a_large_one_keeps_its_cosine() -> None:
    """Of three losses the largest is 10000 times the others, which pull in opposite directions."""
    vectors = torch.tensor(
        [[1e4, 0.0, 0.0], [0.0, 1.0, 0.1], [0.0, -1.0, 0.1]], dtype=torch.float64
    )
    products = (vectors @ vectors.T).float()[None]
    expected = measured(vectors[:, None].numpy())
    np.testing.assert_allclose(cosines_of(products).numpy(), expected["cosines"], rtol=1e-4)


def test_a_zero_gradient_has_no_cosine_and_does_not_affect_others() -> None:
    vectors = torch.zeros(2, 3, 4)  # images, losses, numbers
    vectors[0, 0, 0] = vectors[0, 1, 0] = 2.0  # the third loss is always zero
    vectors[1, 0, 1] = 4.0  # and the second one at the second image
    products = vectors @ vectors.transpose(1, 2)
    assert norms_of(products).tolist() == [3, 1, 0]
    assert shares_of(norms_of(products)).tolist() == [0.75, 0.25, 0]
    first, second, third = cosines_of(products).tolist()
    assert (first, second) == (1, 1)
    assert math.isnan(third)
    assert pairwise_cosines_of(products)[0, 1].item() == 1
    nothing = torch.zeros(1, 2, 2)
    assert norms_of(nothing).tolist() == [0, 0]
    assert shares_of(norms_of(nothing)).isnan().all()


def test_several_steps_are_measured_together_as_one_by_one() -> None:
    torch.manual_seed(0)
    vectors = torch.rand(5, 2, 3, 7) - 0.5
    products = vectors @ vectors.transpose(-1, -2)
    for function in (norms_of, cosines_of, pairwise_cosines_of):
        assert torch.equal(function(products), torch.stack([function(p) for p in products]))


# --- the backward pass ---------------------------------------------------------------------------


def assert_close(found: list[Tensor], expected: list[Tensor], relative: float = 1e-6) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= relative * other.norm()


def squared(image: Tensor) -> Tensor:
    return image.square().mean()


def shifted(image: Tensor) -> Tensor:
    return (image - 0.3).abs().mean()


def cubed(image: Tensor) -> Tensor:
    return image.pow(3)  # a map


@pytest.mark.parametrize("hooked", [True, False])
def test_parameters_get_the_gradient_of_the_sum(hooked: bool) -> None:
    network, source = generator(), torch.rand(SHAPE)
    manager = manager_of(squared, shifted, cubed, weights=[2.0, -1.0, 5.0])
    if hooked:
        events_of(manager)
    fake = network(source)
    (2 * squared(fake) - shifted(fake) + 5 * cubed(fake).mean()).backward()
    expected = gradients(network)
    with manager.gradients_at(network(source)) as fake:
        for name in "abc":
            manager.compute_loss(name, fake)
    assert_close(gradients(network), expected)


def test_a_loss_computed_twice_counts_with_the_sum_of_both_gradients() -> None:
    network, source = generator(), torch.rand(SHAPE)
    manager = manager_of(lambda x, y: (x - y).square().mean(), squared)
    events, (one, two) = events_of(manager), torch.rand(2, *SHAPE)
    fake = network(source)
    (((fake - one).square() + (fake - two).square() + fake.square()).mean()).backward()
    expected = gradients(network)
    with manager.gradients_at(network(source)) as fake:
        manager.compute_loss("a", fake, one)
        manager.compute_loss("b", fake)
        manager.compute_loss("a", fake, two)
    assert_close(gradients(network), expected)
    (event,) = events
    assert event.losses == ("a", "b")
    generated = network(source).detach().double()
    of_a = 2 * (2 * generated - one - two) / generated.numel()
    of_b = 2 * generated / generated.numel()
    vectors = np.stack([of_a.flatten(1).numpy(), of_b.flatten(1).numpy()])
    np.testing.assert_allclose(event.norms.numpy(), measured(vectors)["norms"], rtol=1e-5)


def test_accumulated_batches_are_one_large_batch() -> None:
    """Two halves of a batch, each with half of the loss."""
    network, source = generator(), torch.rand(4, 2, 4)
    manager = manager_of(squared, shifted)
    events = events_of(manager)
    for batch, factor in ((source, 1.0), (source[:2], 0.5), (source[2:], 0.5)):
        with manager.gradients_at(network(batch), factor=factor) as fake:
            manager.compute_loss("a", fake)
            manager.compute_loss("b", fake)
        if len(batch) == 4:
            expected = gradients(network)
    assert_close(gradients(network), expected)
    whole, *halves = events
    both = torch.cat([half.products for half in halves])
    torch.testing.assert_close(both, whole.products)


def test_losses_that_depend_on_parameters_as_well_lose_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One depends on the parameters alone, one on an inner layer and the images, one on neither."""
    network, source = generator(), torch.rand(SHAPE)
    first, rest = network[0], network[1:]  # type: ignore[index]

    def decay() -> Tensor:
        return sum((p.square().sum() for p in network.parameters()), torch.zeros(()))

    manager = manager_of(
        lambda inner, image: (inner.mean() * image.square()).mean(),
        decay,
        squared,
        lambda: torch.ones(()),
    )
    events = events_of(manager)

    def losses(inner: Tensor, image: Tensor) -> list[Tensor]:
        compute = manager.compute_loss
        return [compute("a", inner, image), compute("b"), compute("c", image), compute("d")]

    inner = first(source)
    sum(losses(inner, rest(inner)), torch.zeros(())).backward()
    expected = gradients(network)
    with caplog.at_level(logging.WARNING, "nectargan"):
        for _ in range(2):
            inner = first(source)
            with manager.gradients_at(rest(inner)) as image:
                losses(inner, image)
            assert_close(gradients(network), expected)
    assert [event.losses for event in events] == [("a", "c")] * 2
    assert sorted(caplog.messages) == [
        f"loss '{name}' does not depend on the generated images: its gradient is applied, but is "
        "not on record."
        for name in "bd"
    ]


def test_several_outputs_are_one_image() -> None:
    """A loss may depend on all of them or on some; the last output is not used at all."""
    torch.manual_seed(0)
    network, source = nn.Linear(3, 7), torch.rand(2, 3)
    manager = manager_of(
        lambda x, y: x.sum() + 2 * y.sum(), lambda y: 3 * y.sum(), weights=[1.0, 1.0]
    )
    events = events_of(manager)

    def outputs() -> tuple[Tensor, ...]:
        made = network(source)
        return made[:, :2], made[:, 2:4].reshape(2, 1, 2), made[:, 4:]

    x, y, _ = outputs()
    (x.sum() + 5 * y.sum()).backward()
    expected = gradients(network)
    with manager.gradients_at(*outputs()) as (x, y, _):
        manager.compute_loss("a", x, y)
        manager.compute_loss("b", y)
    assert_close(gradients(network), expected)
    (event,) = events
    # a: (1, 1, 2, 2); b: (0, 0, 3, 3)
    assert event.gramian.tolist() == [[10, 12], [12, 18]]
    assert event.norms.tolist() == pytest.approx([10**0.5, 18**0.5])


def test_the_scale_of_fp16_is_not_on_record() -> None:
    network, source = generator(), torch.rand(SHAPE)
    manager = manager_of(squared, shifted)
    events, scaler = events_of(manager), GradScaler("cpu", init_scale=2.0**10)
    found = []
    for used in (None, scaler):
        with manager.gradients_at(network(source), scaler=used) as fake:
            manager.compute_loss("a", fake)
            manager.compute_loss("b", fake)
        found.append(gradients(network))
    assert_close([each / 2**10 for each in found[1]], found[0])
    torch.testing.assert_close(events[1].products, events[0].products)


def test_an_overflow_is_on_record_as_what_it_is() -> None:
    network, source = generator(), torch.rand(SHAPE)
    manager = manager_of(lambda x: x.sum())
    events, scaler = events_of(manager), GradScaler("cpu", init_scale=2.0**16)
    with manager.gradients_at(network(source).half(), scaler=scaler) as fake:
        manager.compute_loss("a", fake)
    assert events[0].norms.isinf().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_are_of_full_precision_within_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    direction = torch.rand(1, 1000)
    manager = manager_of(along(direction))
    events = events_of(manager)
    with (
        torch.autocast("cpu", dtype),
        manager.gradients_at(torch.rand(1, 1000).requires_grad_()) as x,
    ):
        manager.compute_loss("a", x)
    assert events[0].norms.item() == pytest.approx(direction.double().norm().item(), rel=1e-6)


# --- hooks ---------------------------------------------------------------------------------------


def step(manager: LossManager, number: int | None = None) -> None:
    if number is not None:
        manager.start_step(1 + number // 4, number)
    with manager.gradients_at(torch.rand(SHAPE).requires_grad_() * 1) as fake:
        manager.compute_loss("a", fake)


@pytest.mark.parametrize("told", [True, False], ids=["start_step", "no start_step"])
def test_a_hook_is_called_at_the_steps_that_it_asked_for(told: bool) -> None:
    manager = LossManager()
    manager.register_loss_fn("a", squared)
    every, third = events_of(manager), events_of(manager, 3)
    for number in range(1, 8):
        step(manager, number if told else None)
    assert [event.step for event in every] == [1, 2, 3, 4, 5, 6, 7]
    assert [event.step for event in third] == [1, 3, 6]
    if told:
        assert [event.epoch for event in every] == [1, 1, 1, 2, 2, 2, 2]


def test_nothing_is_measured_without_a_hook() -> None:
    manager = manager_of(squared)
    image = torch.rand(SHAPE).requires_grad_()
    with manager.gradients_at(image) as fake:
        assert fake is image
        manager.compute_loss("a", fake)
    handle = manager.register_gradient_hook(pytest.fail, every_n_steps=5)
    manager.start_step(1, 2)
    with manager.gradients_at(image) as fake:
        assert fake is image
        manager.compute_loss("a", fake)
    handle.remove()
    assert not manager.measures_gradients


def test_hooks_of_losses_come_first_and_the_parameters_have_their_gradients_by_then() -> None:
    network, order = generator(), []
    manager = manager_of(squared)
    manager.register_hook(lambda event: order.append(event.name))
    manager.register_gradient_hook(
        lambda event: order.append(all(p.grad is not None for p in network.parameters()))
    )
    with manager.gradients_at(network(torch.rand(SHAPE))) as fake:
        manager.compute_loss("a", fake)
        assert order == ["a"]
    assert order == ["a", True]


def test_an_exception_in_the_block_makes_no_backward_pass() -> None:
    network, manager = generator(), manager_of(squared)
    events = events_of(manager)
    with pytest.raises(ZeroDivisionError), manager.gradients_at(network(torch.rand(SHAPE))) as fake:
        manager.compute_loss("a", fake)
        raise ZeroDivisionError
    assert not events
    assert all(p.grad is None for p in network.parameters())
    step(manager)  # the next block works
    assert len(events) == 1


def test_an_exception_in_a_gradient_hook_carries_its_name() -> None:
    manager = manager_of(squared, shifted)

    def bad_hook(event: GradientEvent) -> None:
        raise ValueError("no")

    manager.register_gradient_hook(bad_hook)
    with pytest.raises(ValueError, match="no") as caught:
        step(manager)
    (note,) = caught.value.__notes__
    assert "bad_hook" in note
    assert note.endswith("for the gradients of a")


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        ((), "of no"),
        ((torch.zeros(2, 3), torch.zeros(3, 3)), "not of 2 and 3"),
        ((torch.zeros(()),), "not a scalar"),
        (([torch.zeros(2, 3)],), "not list"),
    ],
)
def test_bad_outputs_are_told(outputs: tuple[Any, ...], sentence: str) -> None:
    manager = manager_of(squared)
    with pytest.raises(LossError, match=sentence), manager.gradients_at(*outputs):
        pytest.fail("the block is not entered")
    step(manager)


def test_blocks_and_strides_that_make_no_sense_are_refused() -> None:
    manager = manager_of(squared)
    image = torch.rand(SHAPE).requires_grad_()
    with (
        pytest.raises(LossError, match="within another"),
        manager.gradients_at(image),
        manager.gradients_at(image),
    ):
        pytest.fail("the block is not entered")
    with pytest.raises(LossError, match="every_n_steps is 0; it must be 1 or more"):
        manager.register_gradient_hook(print, every_n_steps=0)


def test_a_block_without_losses_or_without_gradients_does_nothing() -> None:
    manager = manager_of(squared)
    events = events_of(manager)
    with manager.gradients_at(torch.rand(SHAPE).requires_grad_()):
        pass
    with manager.gradients_at(torch.rand(SHAPE)) as fixed:
        manager.compute_loss("a", fixed)
    assert not events


# --- metrics -------------------------------------------------------------------------------------


def test_metrics_reach_their_hooks_as_detached_scalars() -> None:
    manager, seen = manager_of(squared), []
    manager.start_step(2, 7)
    handle = manager.register_metric_hook(seen.append)
    manager.log_metric("of/map", torch.tensor([1.0, 3.0], requires_grad=True))
    handle.remove()
    manager.log_metric("of/map", torch.zeros(()))
    (event,) = seen
    assert (event.name, event.value.item(), event.epoch, event.step) == ("of/map", 2.0, 2, 7)
    assert not event.value.requires_grad


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("a|b", torch.zeros(()), "cannot name a series"),
        ("a", 1.0, "'a' is float; it must be a tensor"),
    ],
)
def test_bad_metrics_are_told(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(LossError, match=sentence):
        manager_of(squared).log_metric(name, value)


# --- memory --------------------------------------------------------------------------------------


class Saved:
    """A tensor that a backward pass needs."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@pytest.mark.parametrize("is_kept", [False, True])
def test_the_graph_of_a_loss_is_gone_when_the_generator_goes_back(is_kept: bool) -> None:
    """Unless the loop keeps what was computed from it."""
    saved: list[weakref.ref[Saved]] = []

    def pack(tensor: Tensor) -> Saved:
        each = Saved(tensor.detach())  # without its graph, which would hold itself
        saved.append(weakref.ref(each))
        return each

    def loss(image: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda each: each.tensor):
            return image.exp().square().mean()

    network, alive = generator(), []
    manager = manager_of(loss, loss)
    events_of(manager)
    inner = network[0](torch.rand(SHAPE))  # type: ignore[index]
    inner.register_hook(lambda _: alive.append(sum(ref() is not None for ref in saved)))
    kept = []
    with manager.gradients_at(network[1:](inner)) as fake:  # type: ignore[index]
        for name in "ab":
            computed = manager.compute_loss(name, fake)
            if is_kept:
                kept.append(computed)
            del computed
    assert len(saved) >= 4
    assert alive == [len(saved) if is_kept else 0]
