from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nectargan.build import build_discriminator, build_generator
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import ConfigError
from nectargan.models import convolutions
from nectargan.trainers.memory import check_memory, device_memory, needed_memory

Make = Callable[..., Config]
CPU = torch.device("cpu")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_count_equals_what_autograd_saves(
    tiny: Make, batch: int, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the same networks with real tensors, whose storages have addresses."""
    # A CPU may compute deep levels by products, which keep a copy more.
    monkeypatch.setattr(convolutions, "_product_is_faster", lambda *_: False)
    config = tiny(dataloader__batch_size=batch, train__generator__norm=norm)
    need = needed_memory(config, "fp32")
    generator, discriminator = build_generator(config), build_discriminator(config)
    networks = (generator, discriminator)
    assert need.parameters == sum(p.numel() for n in networks for p in n.parameters())
    own = {p.data_ptr() for n in networks for p in n.parameters()}

    def kept(network: torch.nn.Module, *inputs: torch.Tensor) -> int:
        sizes, held = {}, []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            held.append(tensor)
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(*inputs)
        return sum(sizes.values())

    images = torch.rand(batch, 3, 32, 32)
    expected = kept(generator, images) + 2 * kept(discriminator, images, images.clone())
    assert need.activations == pytest.approx(expected, rel=0.02)  # meta has no dropout's mask
    assert need.bytes == 16 * need.parameters + need.activations
    assert needed_memory(config, "bf16").activations == need.activations // 2


def test_counting_draws_nothing(tiny: Make) -> None:
    before = torch.random.get_rng_state()
    needed_memory(tiny(), "fp32")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_run_that_cannot_fit_is_refused_with_both_figures(tiny: Make) -> None:
    config = tiny(dataloader__batch_size=65536, dataloader__load__crop_size=8192)
    with pytest.raises(ConfigError) as caught:
        check_memory(needed_memory(config, "fp32"), config, CPU)
    said = str(caught.value)
    assert "batches of 65536 pairs of 8192 x 8192 pixels" in said
    assert f"this machine has {device_memory(CPU) / 2**30:,.0f}"[:20] in said
    assert "lower dataloader.batch_size" in said
    check_memory(needed_memory(tiny(), "fp32"), tiny(), CPU)


def test_the_operations_of_a_step() -> None:
    """Against torch's counter, on the default networks with a discriminator of 665,665 weights."""
    overrides: list[tuple[str, object]] = [("train.discriminator.n_layers", 2)]
    config = ConfigManager(None, overrides).data
    need = needed_memory(config, "fp32")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        g, d = build_generator(config), build_discriminator(config)
        x = torch.empty(1, 3, 256, 256)
        generated = g(x)
        (d(x, x).sum() + d(x, generated.detach()).sum()).backward()
        d.requires_grad_(False)
        d(x, generated).sum().backward()
    assert need.parameters == 54_404_675 + 665_665
    # The counter leaves out the gradients of images, which nobody asks for.
    assert need.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert need.flops == pytest.approx(80.0e9, rel=0.01)


def test_images_that_cannot_fit_are_refused_before_they_are_resized(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nectargan.trainers.memory.device_memory", lambda device: 8 * 2**30)
    config = tiny(dataloader__load__load_size=[2**16, 2**14])  # 2^30 pixels of 9 bytes
    with pytest.raises(ConfigError) as caught:
        check_memory(needed_memory(config, "fp32"), config, CPU)
    assert str(caught.value) == (
        "A pair of images of 65536 x 16384 pixels (dataloader.load.load_size) needs at least "
        "9.00 GiB, and this machine has 8.00 GiB; lower it."
    )
