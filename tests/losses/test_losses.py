from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.errors import LossError
from nectargan.losses.losses import AdversarialLoss, LaplacianLoss, SobelLoss


def image(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1


LOGITS = torch.tensor([[-3.0, -1.0, 0.0], [0.5, 1.0, 40.0]], dtype=torch.float64).view(2, 1, 1, 3)
BCE = nn.BCEWithLogitsLoss(reduction="none")
EXPECTED = {
    ("vanilla", True, False): BCE(LOGITS, torch.ones_like(LOGITS)),
    ("vanilla", False, False): BCE(LOGITS, torch.zeros_like(LOGITS)),
    ("vanilla", True, True): BCE(LOGITS, torch.ones_like(LOGITS)),
    ("lsgan", True, False): torch.tensor([16.0, 4.0, 1.0, 0.25, 0.0, 1521.0]),
    ("lsgan", False, False): torch.tensor([9.0, 1.0, 0.0, 0.25, 1.0, 1600.0]),
    ("lsgan", True, True): torch.tensor([16.0, 4.0, 1.0, 0.25, 0.0, 1521.0]),
    ("hinge", True, False): torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0, 0.0]),
    ("hinge", False, False): torch.tensor([0.0, 0.0, 1.0, 1.5, 2.0, 41.0]),
    ("hinge", True, True): torch.tensor([3.0, 1.0, 0.0, -0.5, -1.0, -40.0]),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_adversarial_loss(case: tuple[str, bool, bool]) -> None:
    mode, real, generator = case
    expected = EXPECTED[case].view_as(LOGITS).double()
    costs = AdversarialLoss(mode, real, generator, reduction="none")(LOGITS)
    torch.testing.assert_close(costs, expected, rtol=0, atol=1e-8)
    mean = AdversarialLoss(mode, real=real, generator=generator)(LOGITS)
    torch.testing.assert_close(mean, expected.mean(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_labels_are_those_of_an_independent_loss(smoothing: float) -> None:
    label = torch.full_like(LOGITS, 1.0 - smoothing)
    for mode, wanted in (("vanilla", BCE(LOGITS, label)), ("lsgan", (LOGITS - label).square())):
        found = AdversarialLoss(mode, reduction="none", label_smoothing=smoothing)(LOGITS)
        torch.testing.assert_close(found, wanted.view_as(found), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"mode": "hinge", "label_smoothing": 0.1},
            "only the loss of D on real pairs with vanilla",
        ),
        ({"real": False, "label_smoothing": 0.1}, "only the loss of D on real pairs"),
        ({"generator": True, "label_smoothing": 0.1}, "only the loss of D on real pairs"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0; it must be in \[0, 1\)"),
        ({"label_smoothing": -0.1}, "must be in"),
    ],
)
def test_labels_that_cannot_be_smoothed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LossError, match=message):
        AdversarialLoss(**arguments)


@pytest.mark.parametrize("mode", ["vanilla", "lsgan", "hinge"])
def test_g_raises_the_logits_even_of_images_that_d_is_sure_are_fake(mode: str) -> None:
    logits = torch.tensor([-30.0], requires_grad=True)
    AdversarialLoss(mode, generator=True)(logits).backward()
    assert logits.grad.item() < -0.9


def test_adversarial_loss_is_computed_in_float32() -> None:
    logits = torch.full((1, 1, 30, 30), 1.0078125, dtype=torch.bfloat16)
    loss = AdversarialLoss("lsgan", real=False)(logits)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1.0078125**2, rel=1e-6)  # bfloat16 would say 1.015625
    assert AdversarialLoss()(logits.double()).dtype == torch.float64


def slow_filter(x: Tensor, kernel: list[list[float]]) -> Tensor:
    """Correlation with a 3 x 3 kernel, pixel by pixel; beyond the border the nearest pixel."""
    out = torch.zeros_like(x)
    height, width = x.shape[-2:]
    for row in range(height):
        for column in range(width):
            for i in range(3):
                for j in range(3):
                    r = min(max(row + i - 1, 0), height - 1)
                    c = min(max(column + j - 1, 0), width - 1)
                    out[..., row, column] += kernel[i][j] * x[..., r, c]
    return out


SOBEL_X = [[-0.125, 0, 0.125], [-0.25, 0, 0.25], [-0.125, 0, 0.125]]
SOBEL_Y = [[-0.125, -0.25, -0.125], [0, 0, 0], [0.125, 0.25, 0.125]]
LAPLACE = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 10**6),
)
def test_filters_against_loops(n: int, c: int, height: int, width: int, seed: int) -> None:
    x, y = image(n, c, height, width, seed=seed), image(n, c, height, width, seed=seed + 1)

    def difference(kernel: list[list[float]]) -> Tensor:
        return (slow_filter(x, kernel) - slow_filter(y, kernel)).abs()

    sobel = (difference(SOBEL_X) + difference(SOBEL_Y)) / 2
    for loss, expected in ((SobelLoss, sobel), (LaplacianLoss, difference(LAPLACE))):
        found = loss(reduction="none")(x, y)
        assert found.shape == x.shape
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(loss()(x, y), expected.mean())


def test_a_ramp_has_its_slope_as_gradient() -> None:
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    ramp = (0.25 * rows - 0.5 * columns).expand(2, 3, 6, 7)
    response = SobelLoss(reduction="none")(ramp, torch.zeros_like(ramp))
    # The mean of the two parts, 0.25 and 0.5; at a border one of them sees half the step.
    assert torch.equal(response[..., 1:-1, 1:-1], torch.full((2, 3, 4, 5), 0.375))
    assert torch.equal(response[..., 1:-1, 0], torch.full((2, 3, 4), 0.25))
    assert torch.equal(response[..., 0, 0], torch.full((2, 3), 0.1875))
    assert LaplacianLoss(reduction="none")(ramp, ramp * 0)[..., 1:-1, 1:-1].abs().max() == 0


def test_a_quadratic_has_a_constant_laplacian() -> None:
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    bowl = (rows.square() + columns.square()).expand(1, 2, 6, 7)
    response = LaplacianLoss(reduction="none")(bowl, torch.zeros_like(bowl))
    assert torch.equal(response[..., 1:-1, 1:-1], torch.full((1, 2, 4, 5), 4.0))


@pytest.mark.parametrize("kind", [SobelLoss, LaplacianLoss])
def test_filter_losses_ignore_brightness_and_order(kind: type[nn.Module]) -> None:
    x, y = image(1, 3, 8, 8), image(1, 3, 8, 8, seed=1)
    assert kind()(x, x + 0.25).item() == pytest.approx(0, abs=1e-15)
    assert kind()(x, y).item() == pytest.approx(kind()(y, x).item())
    # Channels are independent: the loss of three is the mean of the losses of each.
    each = [kind()(x[:, i : i + 1], y[:, i : i + 1]).item() for i in range(3)]
    assert kind()(x, y).item() == pytest.approx(sum(each) / 3)


@pytest.mark.parametrize("kind", [SobelLoss, LaplacianLoss])
def test_filter_losses_have_a_correct_gradient(kind: type[nn.Module]) -> None:
    x = image(1, 2, 4, 5).requires_grad_()
    y = image(1, 2, 4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda x: kind(reduction="none")(x, y), (x,))


@pytest.mark.parametrize("kind", [SobelLoss, LaplacianLoss])
def test_filter_losses_keep_float32_under_autocast(kind: type[nn.Module]) -> None:
    x, y = image(1, 3, 8, 8).float(), image(1, 3, 8, 8, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = kind()(x, y)
        mixed = kind()(x.bfloat16(), y)
    assert loss.dtype == mixed.dtype == torch.float32
    assert torch.equal(loss, kind()(x, y))
    assert mixed.item() == pytest.approx(loss.item(), rel=1e-2)


@pytest.mark.parametrize("kind", [SobelLoss, LaplacianLoss])
def test_filter_losses_hold_nothing_and_convolve_nothing(kind: type[nn.Module]) -> None:
    """A convolution of float32 is rounded to TF32 on some devices."""
    loss = kind()
    assert loss.state_dict() == {}
    with torch.profiler.profile() as profiler:
        loss(image(1, 3, 8, 8).requires_grad_(), image(1, 3, 8, 8, seed=1)).backward()
    assert not [event.name for event in profiler.events() if "conv" in event.name]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", [SobelLoss, LaplacianLoss])
def test_filter_losses_on_a_gpu_have_full_precision(kind: type[nn.Module]) -> None:
    x, y = 100 + image(2, 1, 64, 64), 100 + image(2, 1, 64, 64, seed=1)
    found = kind()(x.float().cuda(), y.float().cuda()).cpu().double()
    torch.testing.assert_close(found, kind()(x, y), rtol=1e-4, atol=0)


@pytest.mark.parametrize("loss", [AdversarialLoss("hinge"), SobelLoss(), LaplacianLoss()])
def test_losses_survive_a_copy_and_another_process(loss: nn.Module) -> None:
    inputs = [image(1, 1, 4, 4, seed=i) for i in range(1 if loss._get_name()[0] == "A" else 2)]
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):  # noqa: S301
        assert torch.equal(twin(*inputs), loss(*inputs))


def test_sobel_agrees_with_unfold() -> None:
    x, y = image(2, 3, 9, 7), image(2, 3, 9, 7, seed=1)

    def response(images: Tensor) -> Tensor:
        patches = F.unfold(F.pad(images.view(6, 1, 9, 7), (1, 1, 1, 1), mode="replicate"), 3)
        kernels = torch.tensor([SOBEL_X, SOBEL_Y], dtype=torch.float64).view(2, 9)
        return kernels @ patches

    expected = F.l1_loss(response(x), response(y))
    torch.testing.assert_close(SobelLoss()(x, y), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdversarialLoss("lsgann"), "AdversarialLoss: mode is 'lsgann'. Did you mean"),
        (lambda: AdversarialLoss(reduction="sum"), "reduction is 'sum'. Allowed: mean, none."),
        (lambda: AdversarialLoss(real=False, generator=True), "with generator=True it must be"),
        (lambda: SobelLoss("men"), "SobelLoss: reduction is 'men'. Did you mean 'mean'?"),
        (lambda: LaplacianLoss(reduction=None), "LaplacianLoss: reduction is None."),
        (lambda: SobelLoss()(image(1, 3, 4, 4), image(1, 1, 4, 4)),
         "SobelLoss: got tensors of shape (1, 3, 4, 4) and (1, 1, 4, 4);"),
        (lambda: LaplacianLoss()(image(3, 4, 4), image(3, 4, 4)), "the same shape (N, C, H, W)."),
    ],
)  # fmt: skip
def test_bad_input(make: object, message: str) -> None:
    with pytest.raises(LossError, match=re.escape(message)):
        make()
