"""A snapshot puts back what a step has changed, however far the step has come."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from nectargan.config.schema import Config
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from nectargan.trainers.snapshot import Snapshot

Make = Callable[..., Config]
CPU = torch.device("cpu")


def snapshot_of(trainer: Pix2pixTrainer) -> Snapshot:
    networks = [trainer.generator, trainer.discriminator]
    return Snapshot(networks, trainer.optimizers.values(), trainer.scaler, CPU)


def test_steps_that_are_taken_back_change_nothing(tiny: Make) -> None:
    trainer = Pix2pixTrainer(tiny(train__generator__norm="batch"))
    plain = copy.deepcopy([trainer.generator.state_dict(), trainer.discriminator.state_dict()])
    source, target = next(trainer.data.train.epoch(1))
    optimizers = list(trainer.optimizers.values())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    snapshot = snapshot_of(trainer)
    for _ in range(2):
        trainer.losses.start_step(1, 1)
        trainer.train_step(source, target)
    changed = trainer.generator.state_dict()
    assert not any(
        torch.equal(value, plain[0][key]) for key, value in changed.items() if "running" in key
    )
    snapshot.restore()
    assert torch.equal(torch.rand(3), expected)
    for network, before in zip((trainer.generator, trainer.discriminator), plain, strict=True):
        for key, value in network.state_dict().items():
            assert torch.equal(value, before[key]), key
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            assert parameter.grad is None
            assert all(not value.any() for value in state.values())


def test_in_mid_run_the_optimisers_state_is_kept(tiny: Make) -> None:
    trainer = Pix2pixTrainer(tiny())
    batch = next(trainer.data.train.epoch(1))
    trainer.losses.start_step(1, 1)
    trainer.train_step(*batch)
    optimizer = trainer.optimizers["generator"]
    before = copy.deepcopy(optimizer.state_dict()["state"])
    snapshot = snapshot_of(trainer)
    trainer.train_step(*batch)
    snapshot.restore()
    for index, state in optimizer.state_dict()["state"].items():
        assert state["step"] == 1
        for key, value in state.items():
            assert torch.equal(value, before[index][key])


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("raises", ["before its first loss", "in the generator's update"])
def test_half_a_step_in_fp16_leaves_no_trace_in_its_scaler(
    tiny: Make, steps_before: int, raises: str
) -> None:
    def step(trainer: Pix2pixTrainer) -> None:
        torch.manual_seed(3)
        trainer.losses.start_step(1, 1)
        trainer.train_step(*batch)

    disturbed, plain = (Pix2pixTrainer(tiny(common__precision="fp16")) for _ in "ab")
    batch = next(plain.data.train.epoch(1))
    for trainer in (disturbed, plain):
        for _ in range(steps_before):
            step(trainer)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    snapshot = snapshot_of(disturbed)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        if raises == "before its first loss":
            patch.setattr(disturbed.generator, "forward", fail)
        else:
            patch.setattr(torch, "_fused_adam_", fail)
            patch.setattr(disturbed.optimizers["discriminator"], "step", lambda: None)
        step(disturbed)
    snapshot.restore()
    assert disturbed.scaler.state_dict() == plain.scaler.state_dict()
    step(disturbed)
    step(plain)
    assert disturbed.scaler.state_dict() == plain.scaler.state_dict()
    for ours, theirs in zip(
        disturbed.generator.parameters(), plain.generator.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_buffers_without_a_parameter_are_put_back() -> None:
    module = nn.BatchNorm1d(2, affine=False)
    snapshot = Snapshot([module], [], torch.amp.GradScaler("cpu", enabled=False), CPU)
    module(torch.rand(3, 2))
    snapshot.restore()
    assert torch.equal(module.running_mean, torch.zeros(2))
    assert module.num_batches_tracked == 0
