"""Too little memory is a sentence, with the sizes. The allocations are real ones that must fail."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nectargan.config.schema import Config
from nectargan.errors import RunError
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.processes import PATIENCE


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
    r"Out of memory: 4,194,304.00 GiB more could not be allocated; \d+\.\d\d GiB were in use on "
    r"cpu \([\d,]+ parameters, batches of 2 pairs of 32 x 32 pixels\); lower "
    r"dataloader.batch_size, dataloader.load.crop_size, train.generator.features or "
    r"train.discriminator.base_channels"
)


def huge(tiny: Callable[..., Config], calls: int) -> Config:
    function = f"{__name__}.Huge"
    loss = {"G_HUGE": {"function": function, "arguments": {"calls": calls}}}
    return tiny(train__loss=loss, save__model_save_rate=1)


def test_out_of_memory_while_building(tiny: Callable[..., Config]) -> None:
    with pytest.raises(RunError) as raised:
        Pix2pixTrainer(huge(tiny, 0))
    assert re.fullmatch(SIZES + r"\.", str(raised.value))


@pytest.mark.parametrize(("steps", "again"), [(2, "start again"), (6, "resume with --resume .*")])
def test_out_of_memory_in_a_step(tiny: Callable[..., Config], steps: int, again: str) -> None:
    trainer = Pix2pixTrainer(huge(tiny, steps))
    with pytest.raises(RunError) as raised:
        trainer.train(None)
    sentence = str(raised.value)
    assert re.fullmatch(f"{SIZES} and {again}" r"\.", sentence)
    assert trainer.directory.read_status() == ("FAILED", f"RunError: {sentence}")


class KillsAWorker:
    """A display that kills a process, as the system does when memory is short."""

    def start(self, *_: object) -> None:
        pass

    def step(self, *_: object) -> None:
        for worker in multiprocessing.active_children():
            worker.kill()

    def epoch_end(self, *_: object) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_worker_that_is_killed(tiny: Callable[..., Config]) -> None:
    options: dict[str, object] = {"dataloader__num_workers": 1, "dataloader__cache": "off"}
    trainer = Pix2pixTrainer(tiny(**options, train__generator__learning_rate__epochs=50))
    with pytest.raises(RunError) as raised:
        trainer.train(KillsAWorker())  # type: ignore[arg-type]
    assert str(raised.value) == (
        "A worker process that reads images ended unexpectedly (SIGKILL); lower "
        "dataloader.num_workers and start again."
    )
    assert trainer.directory.status == "FAILED"


def test_a_script_without_a_guard(tiny: Callable[..., Config], tmp_path: Path) -> None:
    """Where processes are spawned, a worker runs the script once more, and must not train."""
    config = tiny(dataloader__num_workers=2, dataloader__cache="off")
    (tmp_path / "config.json").write_text(config.model_dump_json())
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n"
        "from nectargan.config.config_manager import ConfigManager\n"
        "from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer\n"
        "multiprocessing.set_start_method('spawn', force=True)\n"
        f"Pix2pixTrainer(ConfigManager({str(tmp_path / 'config.json')!r}).data).train()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "nectargan.errors.RunError: A worker process, which imports the main script, started the "
        "training again; put the code of the script below 'if __name__ == \"__main__\":' and start "
        "again."
    )
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny_v1"]
