"""The parameters of a run, as a table of runs shows them."""

from __future__ import annotations

from nectargan.config.config_manager import ConfigManager
from nectargan.runs.params import run_params


def test_losses_have_short_names_and_schedules_are_one_line() -> None:
    config = ConfigManager(
        {
            "train": {
                "loss": {
                    "G_L1": "linear 100->0 @ 100-200",
                    "G_GAN": 2,
                    "G_HUBER": {"function": "torch.nn.HuberLoss", "weight": 5.0},
                }
            }
        }
    ).data
    params = run_params(config)
    losses = {key: value for key, value in params.items() if key.startswith("loss.")}
    assert losses == {
        "loss.G_GAN": "2",
        "loss.G_L1": "linear 100→0 @ 100–200",
        "loss.D_real": "0.5",
        "loss.D_fake": "0.5",
        "loss.G_HUBER": "5",
        "loss.G_HUBER.function": "torch.nn.HuberLoss",
    }
    assert params["objective"] == "basic"
    assert params["epochs"] == 200
    assert params["lr.generator"] == "linear 0.0002→0 @ 100–201"
    assert "lr.discriminator" not in params


def test_augmentations_appear_when_they_are_on() -> None:
    options = {"both": {"h_flip_chance": 0.0, "rot90_chance": 0.25}}
    params = run_params(ConfigManager({"dataloader": {"augmentations": options}}).data)
    found = {key: value for key, value in params.items() if key.startswith("augmentation")}
    assert found == {"augmentation.both.rot90": 0.25}


def test_paths_are_not_parameters() -> None:
    one = ConfigManager({"common": {"output_directory": "a"}, "dataloader": {"dataroot": "b"}})
    assert run_params(one.data) == run_params(ConfigManager().data)
