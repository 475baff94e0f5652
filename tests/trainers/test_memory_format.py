"""Networks in ``channels_last``: where it is faster; no number of a run depends on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.record.ledger import LossRow, read_rows
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_checkpoint
from nectargan.runs.resume import resumption_of
from nectargan.trainers import pix2pix_trainer
from nectargan.trainers.devices import memory_format, place
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

Make = Callable[..., Config]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "precision", "batch_size", "last"),
    [
        (CUDA, "bf16", 1, True),
        (CUDA, "fp16", 1, True),
        (CUDA, "fp32", 1, False),
        (CUDA, "bf16", 2, False),
        (CPU, "bf16", 1, False),
        (torch.device("mps"), "fp16", 1, False),
    ],
)
def test_one_image_on_tensor_cores(
    device: torch.device, precision: str, batch_size: int, last: bool
) -> None:
    wanted = torch.channels_last if last else torch.contiguous_format
    assert memory_format(device, precision, batch_size) == wanted


def test_only_tensors_of_four_dimensions_change_their_memory_format() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3), nn.BatchNorm2d(3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    place(network, CPU, torch.channels_last)
    assert network[0].weight.stride() == (18, 1, 6, 2)
    assert network[1].weight.is_contiguous()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    return [t for v in state.values() for t in tensors(v)] if isinstance(state, dict) else []


def assert_resumed_in_channels_last(
    make: Make, monkeypatch: pytest.MonkeyPatch, device: torch.device, loss_tolerance: float
) -> None:
    """A checkpoint of contiguous networks is gone on with in ``channels_last``, and the other way
    round: both are the run that was never interrupted."""

    def use(order: torch.memory_format) -> None:
        monkeypatch.setattr(pix2pix_trainer, "memory_format", lambda *_: order)

    def run(order: torch.memory_format) -> RunDirectory:
        use(order)
        options = {"dataloader__batch_size": 1, "save__model_save_rate": 1}
        return Pix2pixTrainer(make(common__device=device.type, **options)).train()

    def raw_losses(directory: RunDirectory) -> list[float]:
        return [row.raw for row in read_rows(directory.losses, LossRow)]

    def finish(directory: RunDirectory, order: torch.memory_format) -> Pix2pixTrainer:
        use(order)
        file = directory / "checkpoints" / "epoch_0001.pt"
        content = load_checkpoint(file)
        assert all(t.is_contiguous() for t in tensors(content))
        resumption = resumption_of(directory, content, ConfigManager(content["config"]).data, file)
        trainer = Pix2pixTrainer(resumption.config, resumption)
        trainer.train()
        return trainer

    contiguous, last = torch.contiguous_format, torch.channels_last
    expected = raw_losses(run(contiguous))
    for begun, ended in ((contiguous, last), (last, contiguous)):
        trainer = finish(run(begun), ended)
        found = raw_losses(trainer.directory)
        assert len(found) == len(expected) == 2 * 6 * 4
        assert found == pytest.approx(expected, rel=loss_tolerance, abs=loss_tolerance)
        for name in ("generator", "discriminator"):
            for parameter in getattr(trainer, name).parameters():
                state = trainer.optimizers[name].state[parameter]
                if parameter.dim() == 4:
                    assert parameter.is_contiguous(memory_format=ended)
                # The fused kernel walks through memory, whatever lies there.
                for moment in (state["exp_avg"], state["exp_avg_sq"], parameter.grad):
                    assert moment.stride() == parameter.stride()


def test_a_checkpoint_does_not_depend_on_the_order(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_resumed_in_channels_last(tiny, monkeypatch, CPU, 1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_checkpoint_does_not_depend_on_the_order_on_a_gpu(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16, the precision in which the order differs: to 5 %."""

    def make(**options: Any) -> Config:
        return tiny(common__precision="bf16", **options)

    assert_resumed_in_channels_last(make, monkeypatch, CUDA, 0.05)
