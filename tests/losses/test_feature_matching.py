"""Feature matching: by hand, in the trainer's step, and in a captured one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nectargan.build import build_losses
from nectargan.config.run_schedules import loss_weights
from nectargan.config.schema import Config
from nectargan.errors import ConfigError
from nectargan.losses.losses import FeatureMatchingLoss
from nectargan.losses.pix2pix_objective import pix2pix
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

Make = Callable[..., Config]

MULTISCALE = {"name": "multiscale", "n_scales": 2, "base_channels": 2, "n_layers": 1}


class Featureless(nn.Module):
    """A discriminator that a config can name."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, 1, 4, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        logits: Tensor = self.convolution(torch.cat((x, y), 1))
        return logits


class Featured(Featureless):
    def features(self, x: Tensor, y: Tensor) -> list[list[Tensor]]:
        return [[torch.cat((x, y), 1), self(x, y)]]


class Odd(Featureless):
    def features(self, x: Tensor, y: Tensor) -> Tensor:
        return self(x, y)


class LogitsAlone(Featureless):
    def features(self, x: Tensor, y: Tensor) -> list[list[Tensor]]:
        return [[self(x, y)]]


class Failing(Featureless):
    def features(self, x: Tensor, y: Tensor) -> list[list[Tensor]]:
        raise RuntimeError("not today")


def test_by_hand() -> None:
    """Two scales of two layers and logits: means of |difference|, summed; logits do not count."""
    generated = [
        [torch.tensor([1.0, 3.0]), torch.tensor([[2.0, 2.0], [0.0, 4.0]]), torch.tensor([9.0])],
        [torch.tensor([5.0]), torch.tensor([-1.0, 1.0]), torch.tensor([9.0])],
    ]
    real = [
        [torch.tensor([0.0, 5.0]), torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([0.0])],
        [torch.tensor([4.5]), torch.tensor([1.0, 1.0]), torch.tensor([0.0])],
    ]
    # (1 + 2) / 2 + (0 + 2 + 1 + 1) / 4 + 0.5 + (2 + 0) / 2
    assert FeatureMatchingLoss()(generated, real).item() == 1.5 + 1.0 + 0.5 + 1.0


def test_half_precision_is_averaged_in_full() -> None:
    many = torch.full((5000,), 60000.0, dtype=torch.float16)  # their sum is not finite in 16 bits
    loss = FeatureMatchingLoss()([[many, many]], [[torch.zeros_like(many), many]])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(60000, rel=1e-3)


def test_it_is_there_only_if_it_is_named(tiny: Make) -> None:
    assert "G_FM" not in build_losses(tiny())
    assert "G_FM" not in build_losses(tiny(train__loss={"G_FM": 0}))
    losses = build_losses(tiny(train__loss={"G_FM": 7.5}))
    assert [*losses] == ["G_GAN", "G_L1", "D_real", "D_fake", "G_FM"]
    assert isinstance(losses["G_FM"].function, FeatureMatchingLoss)
    assert (losses["G_FM"].loss_weight, losses["G_FM"].tags) == (7.5, ["G", "feature"])
    assert pix2pix(extra=["G_FM"])["G_FM"].loss_weight == 10.0
    term = build_losses(tiny(train__loss={"G_FM": {"tags": ["x"]}}))["G_FM"]
    assert (term.loss_weight, term.tags) == (10.0, ["x"])
    ramp = loss_weights(tiny(train__loss={"G_FM": "linear 0->10 @ 1-5"}))["G_FM"]
    assert [ramp.value_at(epoch) for epoch in (1, 3, 5)] == [0.0, 5.0, 10.0]
    with pytest.raises(ConfigError, match="Did you mean 'G_FM'"):
        build_losses(tiny(train__loss={"G_MF": 1}))


@pytest.mark.parametrize("name", ["patchgan", "pixel", "multiscale"])
def test_the_step_compares_the_features_of_the_discriminator_just_updated(
    tiny: Make, name: str
) -> None:
    options = MULTISCALE if name == "multiscale" else {"name": name, "base_channels": 2}
    config = tiny(
        train__discriminator=options,
        train__loss={"G_FM": 10.0, "G_GAN": 0.0, "G_L1": 0.0},
        train__generator__dropout=0.0,
    )
    trainer = Pix2pixTrainer(config)
    seen: dict[str, Any] = {}
    trainer.losses.register_hook(lambda event: seen.setdefault(event.name, event))
    x, y = (torch.rand(2, 3, 32, 32) * 2 - 1 for _ in range(2))
    generated = trainer.generator(x)
    trainer.train_step(x, y)

    expected = torch.zeros(())
    with torch.no_grad():
        ours = trainer.discriminator.features(x, generated)
        theirs = trainer.discriminator.features(x, y)
    for scale, other in zip(ours, theirs, strict=True):
        for layer, real in zip(scale[:-1], other[:-1], strict=True):
            expected += (layer - real).abs().sum() / real.numel()
    assert seen["G_FM"].raw.item() == pytest.approx(expected.item(), rel=1e-5)
    assert seen["G_FM"].weighted.item() == pytest.approx(10 * expected.item(), rel=1e-5)
    # It alone pulls at the generator, and leaves the discriminator alone.
    gradients = [p.grad for p in trainer.generator.parameters()]
    assert max(float(each.abs().max()) for each in gradients if each is not None) > 0
    trainer.generator.zero_grad()
    again = FeatureMatchingLoss()(trainer.discriminator.features(x, generated), theirs)
    (wanted,) = torch.autograd.grad(again, generated)
    assert float(wanted.abs().max()) > 0


def test_the_other_losses_are_what_they_are_without_it(tiny: Make) -> None:
    """The logits come from the same pass as the features."""
    raws = []
    for loss in ({}, {"G_FM": 10.0}):
        trainer = Pix2pixTrainer(tiny(train__discriminator=MULTISCALE, train__loss=loss))
        seen: dict[str, float] = {}
        trainer.losses.register_hook(lambda e, seen=seen: seen.setdefault(e.name, e.raw.item()))
        torch.manual_seed(0)
        x, y = (torch.rand(2, 3, 32, 32) * 2 - 1 for _ in range(2))
        trainer.train_step(x, y)
        raws.append(seen)
    assert raws[1].pop("G_FM") > 0
    assert raws[0] == raws[1]


def test_it_may_be_named_by_its_path_and_by_another_name(tiny: Make) -> None:
    path = "nectargan.losses.losses.FeatureMatchingLoss"
    trainer = Pix2pixTrainer(tiny(train__loss={"G_match": {"function": path, "weight": 3}}))
    run = trainer.train()
    assert "G_match" in (run / "losses.csv").read_text()


def test_an_own_discriminator_may_offer_features(tiny: Make) -> None:
    config = tiny(
        train__discriminator={"function": f"{__name__}.Featured"}, train__loss={"G_FM": 1}
    )
    seen: dict[str, float] = {}
    trainer = Pix2pixTrainer(config)
    trainer.losses.register_hook(lambda event: seen.setdefault(event.name, event.raw.item()))
    trainer.train()
    # Half of its feature's channels are the input, the same on both sides.
    assert seen["G_FM"] == pytest.approx(seen["G_L1"] / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ("Featureless", r"has no features to match; it must have a method features\(x, y\) that"),
        ("Odd", r"must return from features\(x, y\) one list per scale with"),
        ("LogitsAlone", r"must return from features\(x, y\) one list per scale with"),
        ("Failing", r"in its features\(x, y\), fails on .*: not today"),
    ],
)
def test_a_discriminator_without_features_is_told_in_a_sentence(
    tiny: Make, network: str, sentence: str
) -> None:
    own = {"function": f"{__name__}.{network}"}
    with pytest.raises(ConfigError, match=sentence) as caught:
        Pix2pixTrainer(tiny(train__discriminator=own, train__loss={"G_FM": 1}))
    assert str(caught.value).startswith(f"train.discriminator.function '{__name__}.{network}'")
    # Without the loss nobody asks for them.
    Pix2pixTrainer(tiny(train__discriminator=own))
