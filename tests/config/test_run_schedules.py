from __future__ import annotations

from nectargan.config.config_manager import ConfigManager
from nectargan.config.run_schedules import all_schedules, loss_weights, lr_schedules
from nectargan.config.schema import Config


def config_of(**options: object) -> Config:
    return ConfigManager(None, [(key.replace("__", "."), v) for key, v in options.items()]).data


def test_learning_rates_are_shared_unless_separate() -> None:
    lr = {"epochs": 3, "epochs_decay": 1, "initial": 0.1, "target": 0.0}
    rates = lr_schedules(config_of(train__discriminator__learning_rate=lr))
    assert rates["discriminator"] == rates["generator"]
    rates = lr_schedules(
        config_of(train__discriminator__learning_rate=lr, train__separate_lr_schedules=True)
    )
    # One epoch after the last the rate would be 0: the last one is half-way.
    assert [rates["discriminator"].value_at(e) for e in (1, 3, 4, 5)] == [0.1, 0.1, 0.05, 0.0]
    assert rates["generator"].value_at(1) == 0.0002


def test_every_loss_has_a_weight_over_the_epochs() -> None:
    ramp = {"function": "torch.nn.L1Loss", "weight": "linear 0->1 @ 1-3"}
    weights = loss_weights(
        config_of(train__objective="extended+vgg", train__loss={"G_L1": 3, "mine": ramp})
    )
    assert weights["G_L1"].value_at(9) == 3
    assert weights["G_VGG"].value_at(1) == 10.0
    assert [weights["mine"].value_at(epoch) for epoch in (1, 2, 3)] == [0.0, 0.5, 1.0]


def test_all_schedules_go_by_the_names_of_their_series() -> None:
    losses = ("G_GAN", "G_L1", "D_real", "D_fake")
    rates = ("lr/generator", "lr/discriminator")
    assert set(all_schedules(Config())) == {*rates, *(f"weight/{name}" for name in losses)}
