"""R1, accumulation and clipping of gradients: what they compute and record."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from nectargan.config.schema import Config
from nectargan.errors import ConfigError
from nectargan.losses.losses import R1Penalty
from nectargan.models.patchgan import PatchGANDiscriminator
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last
from nectargan.runs.resume import resumption_of
from nectargan.trainers.doubts import doubts_about
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.graph_stand_in import CpuGraphs
from tests.runs.test_resume import assert_same, stopped
from tests.trainers.test_captured_step import assert_equal, eager, train

Make = Callable[..., Config]
EVERYTHING: dict[str, Any] = {
    "dataloader__batch_size": 4,
    "train__loss": {"D_R1": "linear 10->20 @ 1-2"},
    "train__r1_every_n_steps": 2,
    "train__label_smoothing": 0.1,
    "train__accumulate": 2,
    "train__generator__optimizer__clip_norm": 0.5,
    "train__discriminator__optimizer__clip_norm": 0.05,
}


def pairs(count: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, count, 3, 32, 32, generator=generator) * 2 - 1
    return images[0], images[1]


# --- R1 ------------------------------------------------------------------------------------------


def test_r1_of_a_linear_discriminator_is_half_its_squared_weights() -> None:
    weights = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    images = [torch.rand(4, 3, 5, 5, requires_grad=True) for _ in range(2)]
    one = sum((w * x).sum((1, 2, 3)) for w, x in zip(weights, images, strict=True))
    # Two scales, whose mean logits are D and 2 D.
    logits = [one[:, None], 2 * one[:, None].expand(-1, 7)]
    expected = 9 * weights.square().sum() / 2
    torch.testing.assert_close(R1Penalty()(logits, images), expected)


def test_r1_is_that_of_single_pairs_and_of_differences() -> None:
    torch.manual_seed(2)
    network = PatchGANDiscriminator(in_channels=6, base_channels=4, n_layers=1).double()
    source, target = (images.double()[:, :, :16, :16].requires_grad_() for images in pairs(2))
    value = R1Penalty()([network(source, target)], [source, target])
    squares = []
    for index in range(2):
        pair = torch.cat((source[index], target[index])).detach()

        def mean_logit(pair: Tensor) -> Tensor:
            result: Tensor = network(pair[None, :3], pair[None, 3:]).mean()
            return result

        squares.append(torch.func.grad(mean_logit)(pair).square().sum())
    torch.testing.assert_close(value, torch.stack(squares).mean() / 2)

    value.backward()  # type: ignore[no-untyped-call]
    parameter = next(network.parameters())
    assert parameter.grad is not None
    for index in range(0, parameter.numel(), 37):
        values = []
        for change in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.flatten()[index] += change
            values.append(R1Penalty()([network(source, target)], [source, target]).item())
            with torch.no_grad():
                parameter.flatten()[index] -= change
        difference = (values[0] - values[1]) / 2e-5
        assert parameter.grad.flatten()[index].item() == pytest.approx(difference, 1e-4, 1e-9)


def test_r1_is_on_record_in_the_steps_that_compute_it(tiny: Make) -> None:
    run = Pix2pixTrainer(tiny(train__loss__D_R1=5.0, train__r1_every_n_steps=4)).train()
    frame = pd.read_csv(run.losses)
    rows = frame[frame["loss"] == "D_R1"]
    assert rows["step"].tolist() == [4]  # of six
    assert rows["weight"].tolist() == [20.0], "5 times 4 steps"
    assert rows["weighted"].item() == pytest.approx(20 * rows["raw"].item())
    assert rows["raw"].item() > 0
    assert set(frame["loss"]) == {"D_real", "D_fake", "G_GAN", "G_L1", "D_R1"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_r1_is_computed_in_float32(tiny: Make, precision: str) -> None:
    config = tiny(train__loss__D_R1=10.0, train__r1_every_n_steps=1, common__precision=precision)
    trainer = Pix2pixTrainer(config)
    source, target = pairs(2)
    raws: list[Tensor] = []
    trainer.losses.register_hook(
        lambda event: raws.append(event.raw) if event.name == "D_R1" else None
    )
    images = [source.clone().requires_grad_(), target.clone().requires_grad_()]
    expected = R1Penalty()([trainer.discriminator(*images)], images)
    trainer.losses.start_step(1, 1)
    trainer.train_step(source, target)
    assert raws[0].dtype == torch.float32
    torch.testing.assert_close(raws[0], expected.detach(), rtol=0, atol=0)


def test_r1_changes_the_update_as_much_as_its_weight_says(tiny: Make) -> None:
    """The gradients of D with it are those without it, and 16 w times its own."""
    trainers = [
        Pix2pixTrainer(tiny(**options))
        for options in ({}, {"train__loss__D_R1": 0.3, "train__r1_every_n_steps": 16})
    ]
    source, target = pairs(2)
    images = [source.clone().requires_grad_(), target.clone().requires_grad_()]
    network = trainers[0].discriminator
    penalty = R1Penalty()([network(*images)], images)
    own = torch.autograd.grad(penalty, list(network.parameters()), allow_unused=True)
    found = []
    for trainer in trainers:
        torch.manual_seed(0)  # of dropout
        trainer.step = 16
        trainer.losses.start_step(1, 16)
        trainer._update_discriminator(trainer._parts_of(source, target))
        found.append([p.grad for p in trainer.discriminator.parameters()])
    for without, with_it, gradient in zip(*found, own, strict=True):
        more = 0.0 if gradient is None else 16 * 0.3 * gradient
        torch.testing.assert_close(with_it, without + more, rtol=1e-4, atol=1e-7)


def test_r1_has_no_other_function_and_no_share(tiny: Make) -> None:
    with pytest.raises(ConfigError, match=r"D_R1 cannot have a 'function' of its own"):
        tiny(train__loss__D_R1={"function": "torch.nn.L1Loss"})
    with pytest.raises(ConfigError, match=r"D_R1 cannot have a share"):
        tiny(train__loss__D_R1="share 0.2")
    assert "D_R1" not in tiny(train__loss__D_R1=0).train.loss
    assert tiny(train__loss__D_R1={"tags": ["D"]}).train.loss["D_R1"].weight == 10.0  # type: ignore[union-attr]
    (doubt,) = doubts_about(tiny(train__r1_every_n_steps=8))
    assert doubt == "train.r1_every_n_steps is 8 and is not used: no loss is D_R1."


@pytest.mark.parametrize("every", [1, 2])
def test_a_captured_run_with_r1_is_the_eager_one(tiny: Make, every: int) -> None:
    """With 2, every second step is eager; with 1 the graph contains the second derivative."""
    options = {
        **{"train__loss__D_R1": "linear 10->20 @ 1-2", "train__r1_every_n_steps": every},
        **{
            "train__generator__optimizer__clip_norm": 0.5,
            "train__discriminator__optimizer__clip_norm": 0.05,
        },
    }
    graphs = CpuGraphs()
    plain, captured = eager(tiny(**options)), Pix2pixTrainer(tiny(**options), graphs=graphs)
    assert ("one in 2 eager, for D_R1" in captured.describe()) == (every == 2)
    expected = train(plain)
    assert train(captured) == expected
    assert captured.graph_obstacle is None
    assert graphs.captures == 1
    assert sum(name == "D_R1" for _, _, name, *_ in expected) == 6 // every
    assert_equal(captured, plain)


# --- clipping ------------------------------------------------------------------------------------


def norm_of(network: nn.Module) -> float:
    squares = [p.grad.double().square().sum() for p in network.parameters() if p.grad is not None]
    return math.sqrt(sum(each.item() for each in squares))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_gradients_are_clipped_to_their_norm(tiny: Make, precision: str) -> None:
    limits = {"generator": 0.5, "discriminator": 1e6}
    options = {f"train__{name}__optimizer__clip_norm": limit for name, limit in limits.items()}
    free = Pix2pixTrainer(tiny(common__precision=precision))
    clipped = Pix2pixTrainer(tiny(common__precision=precision, **options))
    norms: dict[str, float] = {}
    clipped.losses.register_metric_hook(lambda event: norms.setdefault(event.name, event.value))
    source, target = pairs(2)
    for trainer in (free, clipped):
        torch.manual_seed(0)  # of dropout
        if precision == "fp16":
            trainer.scaler = torch.amp.GradScaler("cpu", init_scale=16.0)  # type: ignore[attr-defined]
        trainer.losses.start_step(1, 1)
        trainer.train_step(source, target)
    for name, limit in limits.items():
        before = norm_of(free.networks[name])
        assert float(norms[f"gradient_norm/{name}"]) == pytest.approx(before, rel=1e-3)
        after = norm_of(clipped.networks[name])
        assert after == pytest.approx(min(before, limit), rel=1e-3)
    assert norm_of(clipped.generator) == pytest.approx(0.5, rel=1e-3), "it was longer"


def test_a_step_that_fp16_cannot_hold_is_left_out(tiny: Make) -> None:
    """Clipping by an infinite norm must not make an update of NaN."""
    config = tiny(common__precision="fp16", train__generator__optimizer__clip_norm=1.0)
    trainer = Pix2pixTrainer(config)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)  # type: ignore[attr-defined]
    before = {key: value.clone() for key, value in trainer.generator.state_dict().items()}
    trainer.losses.start_step(1, 1)
    trainer.train_step(*pairs(2))
    for key, value in trainer.generator.state_dict().items():
        assert torch.equal(value, before[key])


# --- accumulation --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("parts", [2, 4])
def test_gradients_of_parts_are_those_of_the_whole_batch(
    tiny: Make, parts: int, precision: str
) -> None:
    options = {
        "common__precision": precision,
        "dataloader__batch_size": 4,
        "train__loss": {"D_R1": 10.0},
        "train__r1_every_n_steps": 1,
        "train__generator__dropout": 0.0,
        # The weights stay, so that G is differentiated against the same D.
        "train__generator__learning_rate": {"epochs": 1, "epochs_decay": 0, "initial": 0.0},
    }
    source, target = pairs(4)
    found, values = [], []
    for count in (1, parts):
        trainer = Pix2pixTrainer(tiny(**options, train__accumulate=count))
        raws: dict[str, list[float]] = {}
        trainer.losses.register_hook(
            lambda event, raws=raws: raws.setdefault(event.name, []).append(event.raw.item())
        )
        trainer.losses.start_step(1, 1)
        trainer.train_step(source, target)
        found.append(
            {
                f"{name}.{key}": p.grad
                for name, network in trainer.networks.items()
                for key, p in network.named_parameters()
            }
        )
        values.append({name: sum(each) / len(each) for name, each in raws.items()})
        assert {len(each) for each in raws.values()} == {count}
    near = 3e-5 if precision == "fp32" else 2e-2
    for key, whole in found[0].items():
        assert whole is not None
        assert found[1][key] is not None
        difference = (found[1][key] - whole).abs().max()
        largest = max(whole.abs().max().item(), 1e-6)
        assert difference <= near * largest, key
    assert values[0] == pytest.approx(values[1], rel=1e-5 if precision == "fp32" else 1e-2)


def test_there_is_one_row_for_each_loss_and_step(tiny: Make) -> None:
    """Six pairs in batches of four: the last batch of two is computed in two parts too."""
    config = tiny(dataloader__batch_size=4, train__accumulate=4)
    trainer = Pix2pixTrainer(config)
    assert [len(s) for s, _ in trainer._parts_of(*pairs(4))] == [1] * 4
    assert [len(s) for s, _ in trainer._parts_of(*pairs(3))] == [1] * 3
    run = trainer.train()
    frame = pd.read_csv(run.losses)
    assert (frame.groupby(["step", "loss"]).size() == 1).all()
    assert frame["step"].max() == 4
    config.train.accumulate = 2
    whole = Pix2pixTrainer(config)
    assert [len(s) for s, _ in whole._parts_of(*pairs(4))] == [2, 2]
    assert [len(s) for s, _ in whole._parts_of(*pairs(3))] == [1] * 3, "equal, and none above 2"


def test_a_batch_that_cannot_be_divided_is_refused(tiny: Make) -> None:
    with pytest.raises(
        ConfigError, match=r"train\.accumulate is 3, and dataloader\.batch_size 4 c"
    ):
        tiny(dataloader__batch_size=4, train__accumulate=3)
    with pytest.raises(ConfigError, match=r"need the whole batch at once; set it to 1, or remove"):
        tiny(dataloader__batch_size=4, train__accumulate=2, train__loss__G_GAN="share 0.2")


# --- all of it -----------------------------------------------------------------------------------


def test_a_captured_run_with_everything_is_the_eager_one(tiny: Make) -> None:
    graphs = CpuGraphs()
    plain = eager(tiny(**EVERYTHING))
    captured = Pix2pixTrainer(tiny(**EVERYTHING), graphs=graphs)
    assert train(captured) == train(plain)
    assert graphs.captures == 1
    assert_equal(captured, plain)


@pytest.mark.parametrize("at", [1, 3])
def test_a_resumed_run_with_everything_is_the_whole_one(tiny: Make, at: int) -> None:
    whole = Pix2pixTrainer(tiny(**EVERYTHING))
    whole.train()
    run = RunDirectory(stopped(tiny(**EVERYTHING), at))
    checkpoint = load_last(run)
    with pytest.raises(ConfigError, match=r"with a change of train\.label_smoothing from 0\.1"):
        resumption_of(run, checkpoint, tiny(**{**EVERYTHING, "train__label_smoothing": 0.0}))
    resumption = resumption_of(run, checkpoint, tiny(**EVERYTHING))
    trainer = Pix2pixTrainer(resumption.config, resumption)
    trainer.train()
    assert_same(trainer, whole)
