from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nectargan.build import build_discriminator, build_generator, build_losses, build_optimizer
from nectargan.build_data import build_data
from nectargan.config.schema import Config
from nectargan.dataset.paired_dataset import normalize
from nectargan.errors import ConfigError, DataError, ModelError

CPU = torch.device("cpu")
Make = Callable[..., Config]


class Charbonnier(nn.Module):
    """A term that a config can name."""

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return ((x - y) ** 2 + self.eps**2).sqrt().mean()


class NoGradient(nn.Module):
    """A term that cannot be trained with."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x.detach() - y).mean()


HERE = f"{__name__}.Charbonnier"
HERE_GAN = "torch.nn.Softplus"


def test_options_reach_the_networks(tiny: Make) -> None:
    config = tiny(
        train__generator__features=3, train__discriminator__n_layers=2, dataloader__load__input_nc=1
    )
    generator, discriminator = build_generator(config), build_discriminator(config)
    x = torch.randn(1, 1, 32, 32)
    assert generator(x).shape == (1, 3, 32, 32)
    assert discriminator.receptive_field == 34
    assert discriminator(x, generator(x)).shape[:2] == (1, 1)


def test_a_size_that_does_not_fit_is_refused_with_possible_ones(tiny: Make) -> None:
    config = tiny(dataloader__load__crop_size=[32, 36], dataloader__load__load_size=40)
    with pytest.raises(ModelError, match=r"32 x 36.*multiple of 8.*32 x 32.*32 x 40"):
        build_generator(config)


def test_adam_has_the_options_of_the_config(tiny: Make) -> None:
    config = tiny(train__generator__optimizer__beta1=0.3)
    adam = build_optimizer(build_generator(config), config.train.generator, 0.01)
    assert adam.defaults["betas"] == (0.3, 0.999)
    assert adam.defaults["lr"] == 0.01
    assert adam.defaults["fused"] is True


@pytest.mark.parametrize(
    ("name", "option", "sentence"),
    [
        ("G_SOBEL", 3.0, "objective 'basic' does not have this loss"),
        ("G_LI", 3.0, "Did you mean 'G_L1'"),
        ("mine", {"weight": 3.0}, "has no 'function'"),
        ("mine", {"function": "nowhere.Loss"}, "cannot be imported: No module named 'nowhere'"),
        ("mine", {"function": "torch.nn.L1Los"}, "cannot be imported"),
        ("mine", {"function": "Loss"}, "cannot be imported"),
        ("mine", {"function": "torch.nn.functional.l1_loss"}, "not a torch.nn.Module class"),
        ("mine", {"function": ".foo.Bar"}, "cannot be imported"),
        ("mine", {"function": "torch.nn.Identity"}, "fails on 2 tensors"),
        ("mine", {"function": "torch.nn.Linear", "arguments": {"in_features": -1}}, "refuses"),
        ("G_GAN", {"function": "torch.nn.L1Loss"}, "fails on 1 tensors"),
        ("G_L1", {"function": f"{__name__}.NoGradient"}, "a tensor with a gradient"),
        ("mine", {"function": HERE, "arguments": {"epsilon": 1}}, "refuses: .*'epsilon'"),
    ],
)
def test_terms_that_cannot_be_used(tiny: Make, name: str, option: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"train\.loss\.{name}.*{sentence}"):
        build_losses(tiny(train__loss={name: option}))


def test_weights_and_schedules_reach_the_losses(tiny: Make) -> None:
    ramp = {"schedule": "linear", "start_epoch": 1, "end_epoch": 3, "initial_value": 0.0}
    losses = build_losses(
        tiny(train__loss={"G_GAN": {**ramp, "target_value": 1.0}, "G_L1": 10, "D_real": 0})
    )
    assert losses["G_GAN"].schedule.value_at(2) == 0.5
    assert losses["G_L1"].loss_weight == 10
    assert losses["D_real"].schedule.current_value == 0
    assert losses["D_fake"].schedule.current_value == 0.5
    assert losses["G_GAN"].tags == ["G", "adversarial"]


def test_a_further_term_is_built_with_its_arguments(tiny: Make) -> None:
    term = {"function": HERE, "arguments": {"eps": 2.0}, "weight": 5, "tags": ["G", "mine"]}
    loss = build_losses(tiny(train__loss={"G_CHARB": term}))["G_CHARB"]
    assert loss.function(torch.ones(2), torch.ones(2)).item() == 2.0
    assert (loss.loss_weight, loss.tags) == (5, ["G", "mine"])


def test_a_term_may_replace_the_function_of_a_loss_or_keep_it(tiny: Make) -> None:
    losses = build_losses(
        tiny(train__loss={"G_L1": {"function": HERE}, "G_GAN": {"weight": 2, "tags": ["x"]}})
    )
    assert isinstance(losses["G_L1"].function, Charbonnier)
    assert type(losses["G_GAN"].function).__name__ == "AdversarialLoss"
    assert (losses["G_GAN"].loss_weight, losses["G_GAN"].tags) == (2, ["x"])


def test_what_a_term_leaves_out_stays_the_objectives(tiny: Make) -> None:
    terms = {"G_L1": {"tags": ["x"]}, "D_real": {"weight": 0.3}, "G_GAN": {"function": HERE_GAN}}
    losses = build_losses(tiny(train__loss=terms))
    assert (losses["G_L1"].loss_weight, losses["G_L1"].tags) == (100.0, ["x"])
    assert (losses["D_real"].loss_weight, losses["D_real"].tags) == (0.3, ["D", "adversarial"])
    assert losses["G_GAN"].loss_weight == 1.0


def test_the_gan_mode_reaches_the_adversarial_losses(tiny: Make) -> None:
    logits = torch.tensor([[-1.5, 3.0]])
    losses = build_losses(tiny(train__gan_mode="hinge"))
    assert losses["D_real"].function(logits).item() == pytest.approx(2.5 / 2)
    assert losses["D_fake"].function(logits).item() == pytest.approx(4.0 / 2)
    assert losses["G_GAN"].function(logits).item() == pytest.approx(-0.75)


def test_vgg_without_its_weights_is_one_sentence(tiny: Make, tmp_path: Path) -> None:
    config = tiny(train__objective="basic+vgg", train__vgg_weights=str(tmp_path / "none.pth"))
    with pytest.raises(Exception, match=r"none\.pth.*train\.vgg_weights"):
        build_losses(config)


def test_no_data_set(tiny: Make) -> None:
    with pytest.raises(ConfigError, match="give --data DIR"):
        build_data(tiny(dataloader__dataroot=""), CPU)
    with pytest.raises(DataError, match="no such directory"):
        build_data(tiny(dataloader__dataroot="nowhere"), CPU)


def test_images_too_small_for_ssim(tiny: Make) -> None:
    with pytest.raises(ConfigError, match="crop_size is 8; for validation with SSIM"):
        build_data(tiny(dataloader__load__crop_size=8), CPU)


def test_the_loaders_serve_the_images(tiny: Make) -> None:
    data = build_data(tiny(save__num_examples=9), CPU)
    batches = list(data.train.epoch(1))
    assert [tuple(source.shape) for source, _ in batches] == [(2, 3, 32, 32)] * 3
    assert data.val is not None
    source, target = next(iter(data.val.epoch()))
    # B is the negative of A, but for the rounding of the resize.
    assert torch.allclose(source, -target, atol=2.1 / 127.5)
    assert len(data.examples) == 3
    assert torch.equal(normalize(data.examples[0][0]), source[0])


def test_examples_come_from_the_training_images_without_a_val_folder(
    tiny: Make, tmp_path: Path, pairs_root: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(pairs_root / "train")
    data = build_data(tiny(dataloader__dataroot=str(tmp_path / "data")), CPU)
    assert data.val is None
    assert len(data.examples) == 2


def test_the_order_of_the_images_does_not_depend_on_workers(tiny: Make) -> None:
    def pictures(workers: int) -> Tensor:
        data = build_data(tiny(dataloader__num_workers=workers, dataloader__cache="off"), CPU)
        return torch.cat([source for source, _ in data.train.epoch(3)])

    assert torch.equal(pictures(0), pictures(2))


def test_a_last_batch_is_dropped_only_if_one_is_left(tiny: Make) -> None:
    data = build_data(tiny(dataloader__batch_size=4, dataloader__drop_last=True), CPU)
    assert [len(source) for source, _ in data.train.epoch(1)] == [4]
    assert [len(source) for source, _ in data.val.epoch()] == [3]
    with pytest.raises(ConfigError, match="batch_size is 7 with 6 training pairs"):
        build_data(tiny(dataloader__batch_size=7, dataloader__drop_last=True), CPU)
