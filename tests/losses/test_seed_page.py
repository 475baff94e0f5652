"""The founding page of the scheduling system: its code runs as it is written there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nectargan.losses.lm_data import LMLoss
from nectargan.losses.loss_manager import LossManager
from nectargan.scheduling.data import Schedule

ROOT = Path(__file__).parents[2]

FIRST = """
import torch.nn as nn
from nectargan.losses.lm_data import LMLoss
from nectargan.scheduling.data import Schedule

L1 = nn.L1Loss()

schedule = Schedule(
    schedule='linear',   # Linear decay
    start_epoch=100,     # Starting at epoch 100
    end_epoch=200,       # And ending at epoch 200
    initial_value=100.0, # With an initial value of 100.0
    target_value=0.0     # And a target value of 0.0
)

my_loss = LMLoss(        # Create LMLoss
    name='my_loss',      # With name 'my_loss'
    function=L1,         # 'my_loss' is native PyTorch L1
    schedule=schedule,   # Assign our weight schedule
    tags=['my_tag']      # And, optionally, lookup tags
)
"""

SECOND = """
import torch.nn as nn
from nectargan.losses.loss_manager import LossManager
from nectargan.config.config_manager import ConfigManager
from nectargan.scheduling.data import Schedule

L1 = nn.L1Loss()

# Dummy config for LossManager
config_manager = ConfigManager('/path/to/config.json')   
loss_mananger = LossManager( # Create LossManager                             
    config=config_manager.data,
    experiment_directory='/path/to/experiment/directory')

schedule = Schedule( # Define Schedule
    schedule='linear',
    start_epoch=100,
    end_epoch=200,
    initial_value=100.0,
    target_value=0.0)

# Then register the loss with the LossManager
loss_mananger.register_loss_fn(
    name='my_loss',
    loss_fn=L1,
    schedule=schedule,
    tags=['my_tag'])
"""  # noqa: W291 - as on the page

WEIGHTS = {1: 100.0, 100: 100.0, 101: 99.0, 150: 50.0, 200: 0.0, 250: 0.0}


def test_the_first_example() -> None:
    names: dict[str, object] = {}
    exec(FIRST, names)  # noqa: S102
    loss = names["my_loss"]
    assert isinstance(loss, LMLoss)
    assert loss.loss_weight == 100.0
    assert {epoch: loss.schedule.value_at(epoch) for epoch in WEIGHTS} == WEIGHTS


def test_the_second_example(tmp_path: Path) -> None:
    code = SECOND.replace("/path/to/config.json", str(ROOT / "configs" / "facades.json"))
    names: dict[str, object] = {}
    exec(code.replace("/path/to/experiment/directory", str(tmp_path)), names)  # noqa: S102
    manager, schedule = names["loss_mananger"], names["schedule"]
    assert isinstance(manager, LossManager)
    assert isinstance(schedule, Schedule)
    x, y = torch.full((4,), 3.0), torch.ones(4)
    for epoch, weight in WEIGHTS.items():
        assert manager.compute_loss_xy("my_loss", x, y, epoch).item() == 2.0 * weight
        assert schedule.current_value == weight
    assert list(manager.get_registered_losses(["my_tag"])) == ["my_loss"]


def test_the_walk_through_weight_loss() -> None:
    manager, value = LossManager(), torch.tensor(2.0)
    plain = LMLoss("plain", torch.nn.L1Loss(), loss_weight=3.0)
    assert manager._weight_loss(plain, value, 7).item() == 6.0
    scheduled = LMLoss("s", torch.nn.L1Loss(), schedule=Schedule("linear", 100, 200, 100.0, 0.0))
    assert manager._weight_loss(scheduled, value, 150).item() == 100.0
    assert scheduled.schedule.current_value == 50.0

    def custom(schedule: Schedule, epoch: float, gain: float = 1.0) -> float:
        return gain * epoch

    called = LMLoss("c", torch.nn.L1Loss(), schedule=Schedule(custom))
    assert manager._weight_loss(called, value, 5, gain=2.0).item() == 20.0


@pytest.mark.parametrize("kind", [TypeError, KeyError])
def test_an_unknown_schedule_is_both_errors_of_the_page(kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Schedule(schedule="quadratic")
