from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.losses.loss_manager import LossManager
from nectargan.record.ledger import LossRow
from nectargan.trainers.trainer import Trainer

Make = Callable[..., Config]


class Toy(Trainer):
    """Notes what the loop calls, and computes one loss a step."""

    def __init__(self, config: Config, interrupt_at: int | None = None) -> None:
        super().__init__(config)
        self.calls: list[object] = []
        self.interrupt_at = interrupt_at
        self.losses.register_loss_fn("mean", lambda x: x.mean(), loss_weight=2.0)

    def on_epoch_start(self, epoch: int) -> Mapping[str, float]:
        self.calls.append(("start", epoch))
        return {"lr/toy": 0.1 * epoch}

    def train_step(self, source: Tensor, target: Tensor) -> None:
        self.calls.append((self.losses.epoch, self.losses.step, len(source)))
        if self.step == self.interrupt_at:
            raise KeyboardInterrupt
        self.losses.compute_loss("mean", source)

    def on_epoch_end(self, epoch: int) -> Mapping[str, float]:
        self.calls.append(("end", epoch))
        return {"val/toy": float(epoch)}


class Recording:
    """A display that notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def start(self, directory: Path, epochs: int, steps_per_epoch: int) -> None:
        self.calls.append((directory.name, epochs, steps_per_epoch))

    def step(self, epoch: int, step: int, losses: Mapping[str, LossRow]) -> None:
        self.calls.append((epoch, step))

    def epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.calls.append((epoch, metrics["val/toy"]))

    def stop(self) -> None:
        self.calls.append("stop")


def test_the_loop_calls_the_hooks_in_order(tiny: Make) -> None:
    trainer = Toy(tiny(dataloader__batch_size=4))
    trainer.train()
    assert trainer.calls == [
        ("start", 1),
        (1, 1, 4),
        (1, 2, 2),
        ("end", 1),
        ("start", 2),
        (2, 3, 4),
        (2, 4, 2),
        ("end", 2),
    ]


def test_the_display_follows(tiny: Make) -> None:
    display = Recording()
    Toy(tiny()).train(display)
    steps = [(1, 1), (1, 2), (1, 3), (1, 1.0), (2, 4), (2, 5), (2, 6), (2, 2.0)]
    assert display.calls == [("tiny_v1", 2, 3), *steps, "stop"]


def test_the_record_of_a_run(tiny: Make) -> None:
    run = Toy(tiny()).train()
    losses = pd.read_csv(run / "losses.csv")
    assert losses["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert losses["epoch"].tolist() == [1, 1, 1, 2, 2, 2]
    metrics = pd.read_csv(run / "metrics.csv")
    at = {(row.metric, row.epoch): (row.step, row.value) for row in metrics.itertuples()}
    assert at["lr/toy", 1] == (1, 0.1)
    assert at["lr/toy", 2] == (4, 0.2)
    assert at["val/toy", 2] == (6, 2.0)
    seconds, speed = at["time/epoch_seconds", 1][1], at["time/images_per_second", 1][1]
    assert seconds * speed == pytest.approx(6)


def test_the_resolved_config_is_saved_and_loads_to_an_equal_one(tiny: Make) -> None:
    trainer = Toy(tiny(train__loss={"G_L1": {"schedule": "constant", "initial_value": 3.0}}))
    run = trainer.train()
    saved = ConfigManager(run / "config.json").data
    assert saved == trainer.config


def test_the_callers_config_stays_as_it_was(tiny: Make) -> None:
    config = tiny()
    before = config.model_dump()
    Toy(config)
    assert config.model_dump() == before


def test_nothing_is_written_before_train(tiny: Make, tmp_path: Path) -> None:
    Toy(tiny())
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_what_was_done(tiny: Make) -> None:
    trainer, display = Toy(tiny(), interrupt_at=5), Recording()
    with pytest.raises(KeyboardInterrupt):
        trainer.train(display)
    assert pd.read_csv(trainer.directory / "losses.csv")["step"].tolist() == [1, 2, 3, 4]
    assert display.calls[-1] == "stop"


def test_without_csv_there_is_no_ledger_but_the_display_has_values(tiny: Make) -> None:
    seen: list[float] = []

    class Peek(Recording):
        def step(self, epoch: int, step: int, losses: Mapping[str, LossRow]) -> None:
            seen.extend(row.weighted for row in losses.values())

    config = tiny(logging__csv=False, logging__window_steps=1, save__save_model=False)
    run = Toy(config).train(Peek())
    own = {".lock", "config.json", "status.json", "metadata.json"}
    assert {path.name for path in run.path.iterdir()} == own
    assert len(seen) > 0


def test_fractions_of_an_epoch_reach_schedules_that_move_per_step(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int, float]] = []
    monkeypatch.setattr(
        LossManager,
        "start_step",
        lambda self, epoch, step, fraction: told.append((epoch, step, fraction)),
    )
    trainer = Toy(tiny())
    trainer.losses.epoch = 1
    trainer.train()
    assert told[:3] == [(1, 1, 1 / 3), (1, 2, 2 / 3), (1, 3, 1.0)]
    assert told[3] == (2, 4, 1 / 3)


def test_batches_arrive_normalised(tiny: Make) -> None:
    class Look(Toy):
        def train_step(self, source: Tensor, target: Tensor) -> None:
            assert source.dtype == target.dtype == torch.float32
            assert -1 <= source.min() < source.max() <= 1
            # B is the negative of A: 255 - a is -x, but for the rounding of the resize.
            assert torch.allclose(source, -target, atol=2.1 / 127.5)
            super().train_step(source, target)

    Look(tiny()).train()
