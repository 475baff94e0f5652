"""Too little memory is a sentence, with the sizes. The allocations are real ones that must fail."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nectargan.config.schema import Config
from nectargan.errors import RunError
from nectargan.loggers.run_directory import read_status
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer


class Huge(nn.Module):
    """A loss that needs four PiB, when it is built or when it has been called often enough."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._left = calls
        self._allocate()

    def _allocate(self) -> None:
        if self._left == 0:
            torch.empty(2**50)
        self._left -= 1

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self._allocate()
        return (x - y).abs().mean()


SIZES = (
    r"Out of memory: 4,194,304.00 GiB more could not be had; \d+\.\d\d GiB were in use on cpu "
    r"\([\d,]+ parameters, batches of 2 pairs of 32 x 32 pixels\); lower dataloader.batch_size, "
    r"dataloader.load.crop_size, train.generator.features or train.discriminator.base_channels"
)


def huge(tiny: Callable[..., Config], calls: int) -> Config:
    function = f"{__name__}.Huge"
    loss = {"G_HUGE": {"function": function, "arguments": {"calls": calls}}}
    return tiny(train__loss=loss, save__model_save_rate=1)


def test_out_of_memory_while_building(tiny: Callable[..., Config]) -> None:
    with pytest.raises(RunError) as raised:
        Pix2pixTrainer(huge(tiny, 0))
    assert re.fullmatch(SIZES + r"\.", str(raised.value))


@pytest.mark.parametrize(("steps", "again"), [(2, "start again"), (6, "go on with --resume .*")])
def test_out_of_memory_in_a_step(tiny: Callable[..., Config], steps: int, again: str) -> None:
    trainer = Pix2pixTrainer(huge(tiny, steps))
    with pytest.raises(RunError) as raised:
        trainer.train(None)
    sentence = str(raised.value)
    assert re.fullmatch(f"{SIZES} and {again}" r"\.", sentence)
    assert read_status(trainer.directory) == ("FAILED", f"RunError: {sentence}")
