"""Options that do nothing, and schedules outside the run, are one warning each."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import ConfigError
from nectargan.trainers.doubts import doubts_about
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

Make = Callable[..., Config]
CONFIGS = Path(__file__).parents[2] / "configs"
L1 = {"function": "torch.nn.L1Loss"}
BOTH, INPUT = "dataloader.augmentations.both", "dataloader.augmentations.input"
LINEAR = {"schedule": "linear", "initial_value": 100.0, "target_value": 10.0}


def doubts(epochs: int = 200, **options: Any) -> list[str]:
    overrides = [(key.replace("__", "."), value) for key, value in options.items()]
    manager = ConfigManager({}, overrides)
    if epochs != 200:
        manager.set_epochs(epochs)
    return doubts_about(manager.data)


@pytest.mark.parametrize("epochs", [1, 2, 3, 199, 200])
@pytest.mark.parametrize("objective", ["basic", "extended+vgg"])
def test_the_defaults_raise_none(epochs: int, objective: str) -> None:
    assert doubts(epochs=epochs, train__objective=objective) == []


@pytest.mark.parametrize("path", [*CONFIGS.glob("*.json"), *CONFIGS.glob("*.yaml")], ids=str)
def test_neither_do_the_configs_that_come_with_it(path: Path) -> None:
    assert doubts_about(ConfigManager(path).data) == []


UNUSED: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"train.vgg_weights": "vgg.pth"},
        ["train.vgg_weights is vgg.pth and is not used: no loss is the objective's G_VGG."],
    ),
    ({"train.vgg_weights": "vgg.pth", "train.objective": "basic+vgg"}, []),
    (
        {"train.vgg_weights": "v", "train.objective": "basic+vgg", "train.loss.G_VGG": L1},
        ["train.vgg_weights is v and is not used"],
    ),
    (
        {"train.gan_mode": "hinge", "train.loss": dict.fromkeys(("G_GAN", "D_real", "D_fake"), L1)},
        ["train.gan_mode is hinge and is not used"],
    ),
    ({"train.gan_mode": "hinge", "train.loss": {"G_GAN": L1}}, []),
    (
        {"train.discriminator.learning_rate.initial": 0.001},
        [
            "train.discriminator.learning_rate is {'initial': 0.001} and is not used: "
            "train.separate_lr_schedules is off"
        ],
    ),
    (
        {"train.discriminator.learning_rate.epochs": 50},
        ["is {'epochs': 50, 'epochs_decay': 100} and"],
    ),
    (
        {
            "train.discriminator.learning_rate.initial": 0.001,
            "train.generator.learning_rate.initial": 0.001,
        },
        [],
    ),
    (
        {
            "train.discriminator.learning_rate.initial": 0.001,
            "train.separate_lr_schedules": True,
        },
        [],
    ),
    (
        {"train.generator.learning_rate": {"initial": 0.001, "schedule": "cosine 1->0 @ 1-200"}},
        ["train.generator.learning_rate.initial is 0.001 and is not used"],
    ),
    (
        {"train.generator.learning_rate": {"epochs": 200, "epochs_decay": 0, "target": 0.1}},
        ["train.generator.learning_rate.target is 0.1 and is not used: "],
    ),
    (
        {"dataloader.num_workers": 4, "dataloader.cache": "ram"},
        ["dataloader.num_workers is 4 and is not used: dataloader.cache is ram, and nothing is"],
    ),
    (
        {f"{BOTH}.elastic_transform_alpha": 3.0},
        [f"{BOTH}.elastic_transform_alpha is 3.0 and is not used: {BOTH}.elastic_transform_chance"],
    ),
    (
        {f"{INPUT}.gaussnoise_max": 0.9, f"{INPUT}.colorjitter_max_brightness": 2.0},
        [f"{INPUT}.colorjitter_max_brightness is 2.0", f"{INPUT}.gaussnoise_max is 0.9"],
    ),
    ({f"{INPUT}.gaussnoise_max": 0.9, f"{INPUT}.gaussnoise_chance": 0.5}, []),
    (
        {"save.save_model": False, "save.keep_last": 1, "save.keep_best": "val/l1"},
        ["save.keep_last is 1 and is not", "save.keep_best is val/l1 and is not used"],
    ),
    (
        {"save.save_examples": False, "save.example_save_rate": 3},
        ["save.example_save_rate is 3 and is not used: save.save_examples is off."],
    ),
    (
        {"logging.histogram_every_n_epochs": 2, "logging.tensorboard.enable": False},
        ["logging.histogram_every_n_epochs is 2 and is not used: only TensorBoard shows"],
    ),
    # What a switch turns off is meant to do nothing.
    ({"logging.mlflow.enable": False, "logging.mlflow.group": "a"}, []),
]


@pytest.mark.parametrize(("options", "told"), UNUSED)
def test_an_option_that_is_not_used_is_one_sentence(
    options: dict[str, Any], told: list[str]
) -> None:
    found = doubts(**options)
    assert len(found) == len(told)
    for sentence, part in zip(found, told, strict=True):
        assert part in sentence


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_workers_may_be_used_where_images_are_not_kept(cache: str) -> None:
    assert doubts(dataloader__num_workers=4, dataloader__cache=cache) == []


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        (100, 200, None),
        (0, 200, None),
        (1, 201, None),
        (
            200,
            300,
            "moves from epoch 200 to epoch 300, but the run has 200 epochs: its value is always",
        ),
        (300, 400, "its value is always 100"),
        (-10, 0, "its value is always 10"),
        (100, 300, "in them it goes from 100 to 55"),
        (-100, 100, "in them it goes from 54.55 to 10"),
    ],
)
def test_a_schedule_outside_the_run(start: int, end: int, told: str | None) -> None:
    schedule = {**LINEAR, "start_epoch": start, "end_epoch": end}
    found = doubts(**{"train.loss.G_L1": schedule})
    assert len(found) == (told is not None)
    assert told is None or told in found[0]
    assert not found or found[0].startswith("train.loss.G_L1 moves from epoch")


def test_a_learning_rate_outside_the_run() -> None:
    schedule = {**LINEAR, "initial_value": 0.001, "target_value": 0.0, "end_epoch": 400}
    (found,) = doubts(**{"train.generator.learning_rate.schedule": schedule})
    assert found.startswith(
        "train.generator.learning_rate.schedule moves from epoch 1 to epoch 400"
    )


def test_negative_weights() -> None:
    schedule = {**LINEAR, "target_value": -8.0, "end_epoch": 10}
    found = doubts(**{"train.loss.G_GAN": -2.5, "train.loss.G_L1": schedule})
    assert found == [
        "train.loss.G_GAN has the weight -2.5 in epoch 1: with a negative weight, "
        "training increases the loss.",
        "train.loss.G_L1 has the weight -8 in epoch 10: with a negative weight, "
        "training increases the loss.",
    ]


# --- told at the start -----------------------------------------------------------------------


def test_a_run_tells_each_once(tiny: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "nectargan"):
        Pix2pixTrainer(tiny(train__vgg_weights="vgg.pth", train__loss={"G_L1": -1.0}))
    told = [r.message for r in caplog.records]
    assert [text.partition(" ")[0] for text in told] == [
        "train.vgg_weights",
        "train.loss.G_L1",
    ]


@pytest.mark.parametrize("folder", ["valid", "validation", "Val", "eval_A"])
def test_what_needs_validation_images_is_refused_without_them(
    tiny: Make, pairs_root: Path, tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    shutil.copytree(pairs_root / "train", root / "train")
    shutil.copytree(pairs_root / "val", root / folder)
    config = tiny(dataloader__dataroot=str(root), save__keep_best="val/ssim")
    with pytest.raises(
        ConfigError,
        match=r"^save.keep_best needs validation images to find the best .*, but .* has none",
    ):
        Pix2pixTrainer(config)
    (told,) = [r.message for r in caplog.records]
    assert told == (
        f"{root / folder} is not read: 'val' is read from val/, valA/ and valB/, val/A/ and "
        "val/B/, pairs.csv, or val-*.tar."
    )
    mlflow = {"enable": True, "register_model": "m"}
    config = tiny(dataloader__dataroot=str(root), logging__mlflow=mlflow)
    with pytest.raises(ConfigError, match="register_model needs validation images"):
        Pix2pixTrainer(config)
    assert not Path(config.common.output_directory).exists()


def test_a_folder_that_is_read_is_not_named(
    tiny: Make, pairs_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = shutil.copytree(pairs_root, tmp_path / "data")
    for name in ("test", "testA", "other", "values", ".valid"):
        (root / name).mkdir()
    Pix2pixTrainer(tiny(dataloader__dataroot=str(root)))
    assert caplog.records == []
