from __future__ import annotations

from nectargan.config.config_manager import ConfigManager
from nectargan.config.dotted import dotted


def test_every_option_under_the_key_that_set_takes() -> None:
    losses = {
        "G_L1": "linear 100->0 @ 100-200",
        "G_GAN": 2,
        "G_HUBER": {"function": "torch.nn.HuberLoss", "weight": "constant 5", "tags": ["G", "x"]},
    }
    options = dotted(
        ConfigManager({"train": {"loss": losses}}, [("dataloader.load.crop_size", [64, 32])]).data
    )
    assert options["train.loss.G_L1"] == "linear 100→0 @ 100–200"
    assert options["train.loss.G_GAN"] == 2.0
    assert options["train.loss.G_HUBER.weight"] == "constant 5"
    assert options["train.loss.G_HUBER.tags"] == '["G", "x"]'
    assert options["dataloader.load.crop_size"] == "[64, 32]"
    assert options["train.vgg_weights"] is None
    assert options["train.generator.learning_rate.initial"] == 0.0002


def test_the_keys_set_the_same_config() -> None:
    config = ConfigManager(None, [("common.seed", 7), ("train.generator.n_downs", 2)]).data
    scalars = [(k, v) for k, v in dotted(config).items() if isinstance(v, (int, float, str))]
    assert ConfigManager(None, scalars).data == config
