from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from nectargan.config import augmentation_options, choices, loss_options, schema
from nectargan.config.base import Section
from nectargan.config.config_manager import ConfigManager
from nectargan.config.loss_options import LossTerm, ScheduleConfig
from nectargan.config.network_options import LearningRate
from nectargan.config.schema import Config, Train
from nectargan.errors import ConfigError
from nectargan.losses.losses import ADVERSARIAL_MODES
from nectargan.models.blocks import BLOCKS, UPSAMPLE_TYPES
from nectargan.models.norms import NORMS


def sections() -> Iterator[type[BaseModel]]:
    for module in (schema, augmentation_options, loss_options):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Section):
                yield value


def test_every_field_has_a_description_that_is_a_sentence() -> None:
    for section in sections():
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert field.description.rstrip().endswith("."), f"{section.__name__}.{name}"


def test_the_defaults_are_those_of_the_paper() -> None:
    config = Config()
    assert (config.dataloader.load.load_size, config.dataloader.load.crop_size) == (286, 256)
    assert config.dataloader.batch_size == 1
    assert config.train.epochs == 200
    assert config.train.generator.optimizer.beta1 == 0.5
    assert config.train.generator.learning_rate.initial == 0.0002
    assert config.train.discriminator.n_layers == 3
    assert (config.logging.tensorboard.every_n_steps, config.logging.mlflow.every_n_steps) == (
        10,
        50,
    )


def test_choices_are_those_of_the_modules_they_name() -> None:
    from typing import get_args

    assert set(get_args(choices.GanMode)) == set(ADVERSARIAL_MODES)
    assert set(get_args(choices.Norm)) == set(NORMS)
    unet = schema.Unet.model_fields
    assert set(get_args(unet["block_type"].annotation)) == set(BLOCKS)
    assert set(get_args(unet["upsample_type"].annotation)) == set(UPSAMPLE_TYPES)


def test_two_configs_share_nothing() -> None:
    one, other = Config(), Config()
    one.train.loss["G_L1"] = 3.0
    one.common.seed = 4
    assert other == Config()


BASIC = {"G_GAN": 1.0, "G_L1": 100.0, "D_real": 0.5, "D_fake": 0.5}


def test_a_config_names_every_loss_once_it_is_made() -> None:
    assert Config().train.loss == BASIC
    config = Config.model_validate({"train": {"loss": {"G_L1": 7.0}}})
    assert config.train.loss == {**BASIC, "G_L1": 7.0}
    assert list(config.train.loss) == list(BASIC), "in the order of the objective"
    assert Config.model_validate(config.model_dump()) == config


def test_a_term_without_a_weight_has_the_default_one() -> None:
    term = {"function": "torch.nn.L1Loss"}
    loss = Train.model_validate({"loss": {"mine": term, "G_L1": term, "D_real": {}}}).loss
    weights = {name: option.weight for name, option in loss.items() if isinstance(option, LossTerm)}
    assert weights == {"mine": 1.0, "G_L1": 100.0, "D_real": 0.5}


def test_losses_of_weight_zero_that_the_objective_does_not_have_are_let_pass() -> None:
    # A migrated v0.2.3 config has all of them.
    assert Train.model_validate({"loss": {"G_VGG": 0.0}}).loss == BASIC


def test_losses_are_resolved_again_after_an_assignment() -> None:
    train = Train()
    train.loss = {"G_L1": 3.0}
    assert train.loss == {**BASIC, "G_L1": 3.0}
    train.objective = "basic+vgg"
    assert train.loss == {**BASIC, "G_L1": 3.0, "G_VGG": 10.0}
    with pytest.raises(ValueError, match="'basic' does not have this loss"):
        train.objective = "basic"


def test_an_assignment_is_checked() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Config().dataloader.batch_size = 0


@pytest.mark.parametrize(
    ("epochs", "decay", "expected"),
    [
        (2, 2, [1.0, 1.0, 2 / 3, 1 / 3, 0.0]),
        (0, 3, [0.75, 0.5, 0.25, 0.0, 0.0]),
        (3, 0, [1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_learning_rate_over_the_epochs(epochs: int, decay: int, expected: list[float]) -> None:
    rate = LearningRate(epochs=epochs, epochs_decay=decay, initial=1.0, target=0.0).build()
    assert [rate.value_at(epoch) for epoch in range(1, 6)] == pytest.approx(expected)


def test_a_schedule_takes_the_place_of_initial_and_target() -> None:
    schedule = ScheduleConfig(
        schedule="cosine", start_epoch=1, end_epoch=3, initial_value=0.5, target_value=0.1
    )
    rate = LearningRate(initial=9.0, schedule=schedule).build()
    assert [rate.value_at(epoch) for epoch in (1, 2, 3)] == pytest.approx([0.5, 0.3, 0.1])


@pytest.mark.parametrize(
    ("given", "value", "every"),
    [
        *[("on", "on", 1), (True, "on", 1), ("off", "off", None), (False, "off", None)],
        *[(10, 10, 10), ("every 10 steps", 10, 10), ("every 1 step", 1, 1), ("every 7", 7, 7)],
    ],
)
def test_gradients_are_on_off_or_a_number_of_steps(
    given: object, value: object, every: int | None
) -> None:
    config = ConfigManager(None, [("logging.gradients", given)]).data
    assert config.logging.gradients == value
    assert config.logging.gradients_every_n_steps == every
    assert Config().logging.gradients == "on"


@pytest.mark.parametrize(
    "given", [0, -1, 1.5, "10", "often", "every 0 steps", "every", None, 10**10]
)
def test_other_values_of_gradients_are_refused(given: object) -> None:
    sentence = "logging.gradients.*it must be on, off, or a whole number of steps from 1"
    with pytest.raises(ConfigError, match=sentence):
        ConfigManager(None, [("logging.gradients", given)])
