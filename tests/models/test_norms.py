from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nectargan.models.norms import InstanceNorm2d


def results(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient of the input, for a gradient that is not constant."""
    x = x.detach().requires_grad_()
    y: Tensor = norm(x)
    gradient = torch.linspace(-1, 1, y.numel()).view(y.shape).sin().to(y)
    y.backward(gradient)
    assert x.grad is not None
    return y.detach(), x.grad


def maps(shape: tuple[int, ...], order: torch.memory_format, device: str = "cpu") -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(shape) * 3 + torch.arange(shape[1])[:, None, None]
    return x.to(device).contiguous(memory_format=order)


ORDERS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(1, 6, 4, 5), (3, 6, 4, 5), (1, 1, 2, 1), (2, 5, 1, 3)])
@pytest.mark.parametrize("affine", [False, True])
def test_it_is_torchs_instance_norm(
    shape: tuple[int, ...], order: torch.memory_format, affine: bool
) -> None:
    x = maps(shape, order)
    own, plain = (kind(shape[1], affine=affine) for kind in (InstanceNorm2d, nn.InstanceNorm2d))
    plain.load_state_dict(own.state_dict())
    for found, wanted in zip(results(own, x), results(plain, x), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_gradient_that_is_a_slice_is_laid_out_for_the_norm() -> None:
    """As of a skip connection, which is half of the channels of a joined map."""
    x = maps((1, 6, 4, 5), torch.channels_last)
    gradients = []
    for kind in (InstanceNorm2d, nn.InstanceNorm2d):
        inputs = x.clone().requires_grad_()
        joined = torch.cat((kind(6)(inputs), x), dim=1)
        (joined * torch.linspace(-1, 1, joined.numel()).view(joined.shape)).sum().backward()
        assert inputs.grad is not None
        gradients.append(inputs.grad)
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("training", [True, False])
def test_one_pixel_has_no_statistics(training: bool) -> None:
    for kind in (InstanceNorm2d, nn.InstanceNorm2d):
        with pytest.raises(ValueError, match="Expected more than 1"):
            kind(3).train(training)(torch.zeros(1, 3, 1, 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", [(1, 6, 2, 2), (1, 512, 16, 16), (1, 64, 128, 128), (1, 3, 1, 7)])
@pytest.mark.parametrize("affine", [False, True])
def test_a_single_image_stays_channels_last_on_a_gpu(shape: tuple[int, ...], affine: bool) -> None:
    x = maps(shape, torch.channels_last, "cuda")
    own, plain = (kind(shape[1], affine=affine) for kind in (InstanceNorm2d, nn.InstanceNorm2d))
    found, wanted = results(own.cuda(), x), results(plain.double(), x.cpu().double())
    for ours, exact in zip(found, wanted, strict=True):
        # The means go up to 512, where float32 has steps of 6e-5.
        torch.testing.assert_close(ours.cpu().double(), exact, rtol=1e-5, atol=6e-5)
        assert ours.is_contiguous(memory_format=torch.channels_last)
    plain.float().cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert own(x.bfloat16()).dtype == plain(x.bfloat16()).dtype
    with pytest.raises(ValueError, match="Expected more than 1"):
        own(x[:, :, :1, :1])
