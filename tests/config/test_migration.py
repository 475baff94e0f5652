from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from nectargan.build import build_discriminator, build_generator
from nectargan.config.config_manager import ConfigManager
from nectargan.config.loss_options import LossTerm
from nectargan.config.migration import migrate
from nectargan.config.objectives import objective_weights
from nectargan.config.schema import Config
from nectargan.errors import ConfigError

DATA = Path(__file__).parents[1] / "data"


def term(name: str, weight: float) -> LossTerm:
    return LossTerm(function=f"nectargan.losses.v023.{name}", weight=weight)


OLD = {
    "nectargan_v0.2.3_default": ("basic", {}),
    "nectargan_v0.2.3_example_ResUNet_basic_vgg": (
        "basic+vgg",
        {"G_VGG": term("ShallowVGGLoss", 10.0)},
    ),
    "nectargan_v0.2.3_example_UNet_extended": (
        "extended+vgg",
        {
            "G_SOBEL": term("GreySobelLoss", 3.0),
            "G_LAP": term("GreyLaplacianLoss", 1.0),
            "G_VGG": term("ShallowVGGLoss", 10.0),
        },
    ),
}


def load(source: Any) -> tuple[Config, list[str]]:
    with pytest.warns(UserWarning) as caught:
        config = ConfigManager(source).data
    return config, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("name", OLD)
def test_the_originals_files_load_as_they_are(name: str, tmp_path: Path) -> None:
    objective, weights = OLD[name]
    config, told = load(DATA / f"{name}.json")
    assert config.train.objective == objective
    # Those of weight 0 that are not the objective's are left out.
    zeros = dict.fromkeys(objective_weights(objective).keys() & {"G_L2", "G_SOBEL", "G_LAP"}, 0.0)
    assert config.train.loss == objective_weights("basic") | zeros | weights
    for word in ("lambda_gan", "lambda_vgg", "visualizer", "train.objective"):
        assert sum(word in line for line in told) == 1
    ConfigManager(config.model_dump(mode="json")).save(tmp_path / "new.json")
    assert ConfigManager(tmp_path / "new.json").data == config


def test_everything_else_keeps_its_name_and_value() -> None:
    path = DATA / "nectargan_v0.2.3_example_ResUNet_basic_vgg.json"
    old = json.loads(path.read_text())["config"]
    new = load(path)[0].model_dump()
    assert new["dataloader"]["direction"] == "BtoA"
    assert new["common"]["device"] == "cuda"
    # Of these, one means the same by another number.
    old["train"]["discriminator"]["n_layers"] -= 1
    for section, key in [
        ("dataloader", "augmentations"),
        ("train", "generator"),
        ("train", "discriminator"),
        ("save", None),
    ]:
        was = old[section] if key is None else old[section][key]
        now = new[section] if key is None else new[section][key]
        assert contains(now, was), (section, key)


def contains(now: Any, was: Any) -> bool:
    if isinstance(was, dict):
        return all(key in now and contains(now[key], value) for key, value in was.items())
    return bool(now == was)


def test_our_own_configs_come_back_unchanged() -> None:
    document = {"train": {"loss": {"G_L1": 3}}, "common": {"device": "cuda"}}
    assert migrate(document) is document


def test_the_old_document_is_left_alone() -> None:
    document = {"config": {"train": {"loss": {"lambda_l1": 5.0}}}}
    copy = json.loads(json.dumps(document))
    load(document)
    assert document == copy


def test_old_keys_without_the_wrapper() -> None:
    config, _ = load({"train": {"loss": {"lambda_l2": 2.0}}})
    assert config.train.objective == "extended"
    assert config.train.loss == objective_weights("extended") | {"G_L2": 2.0}


def test_devices_and_resuming() -> None:
    old: dict[str, Any] = {"common": {"device": "cuda", "gpu_ids": [1, 2]}, "visualizer": {}}
    old["train"] = {"load": {"continue_train": True, "load_epoch": 7}}
    config, told = load({"config": old})
    assert config.common.device == "cuda:1"
    assert any("gpu_ids [1, 2] is ignored" in line for line in told)
    assert any("continue_train" in line for line in told)


def strides_of_old(n_layers: int) -> list[int]:
    """Of v0.2.3's discriminator: a first layer of stride 2, n_layers - 1 more of which the last has
    stride 1, and one of stride 1; all 4 x 4."""
    return [2, *([2] * (n_layers - 2) + [1] if n_layers > 1 else []), 1]


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4, 5])
def test_the_discriminator_sees_what_it_saw(n_layers: int) -> None:
    field = 1
    for stride in reversed(strides_of_old(n_layers)):
        field = (field - 1) * stride + 4
    config, told = load({"config": {"train": {"discriminator": {"n_layers": n_layers}}}})
    ours = build_discriminator(config)
    assert ours.receptive_field == (field if n_layers > 1 else 16)
    (line,) = [line for line in told if "n_layers" in line]
    assert f"{ours.receptive_field} x {ours.receptive_field}" in line
    assert f"{field} x {field}" in line


def test_the_default_discriminator_has_its_665665_parameters() -> None:
    config, told = load({"config": {"visualizer": {}}})
    count = sum(parameter.numel() for parameter in build_discriminator(config).parameters())
    assert count == 665_665
    assert any("its activations now come before the convolutions" in line for line in told)


def test_borders_are_mirrored_and_the_discriminator_begins_with_torchs_weights() -> None:
    config, told = load({"config": {"train": {"generator": {"upsample_type": "Bilinear"}}}})
    generator, discriminator = build_generator(config), build_discriminator(config)
    assert (config.train.generator.padding, config.train.generator.init) == ("reflect", "normal")
    # Where v0.2.3 mirrored: each strided convolution, those after an interpolation, and all of D.
    kernels = {4: generator.downs, 3: generator.ups}
    for side, blocks in kernels.items():
        layers = [layer for layer in blocks.modules() if isinstance(layer, nn.Conv2d)]
        assert {(layer.kernel_size[0], layer.reflection) for layer in layers} == {(side, 1)}
    judged = [layer for layer in discriminator.layers if isinstance(layer, nn.Conv2d)]
    assert {layer.reflection for layer in judged} == {1}
    # Torch draws uniform weights within 1 / sqrt(inputs), also for biases.
    assert judged[1].weight.abs().max().item() == pytest.approx((64 * 16) ** -0.5, rel=0.01)
    assert judged[0].bias.abs().max() > 0
    for place in ("generator.padding is 'reflect'", "discriminator.padding is 'reflect'",
                  "discriminator.init is 'default'"):  # fmt: skip
        assert any(f"train.{place}, as in v0.2.3" in line for line in told)


def test_both_images_have_the_channels_of_the_input() -> None:
    config, _ = load({"config": {"dataloader": {"load": {"input_nc": 1}}}})
    assert (config.dataloader.load.input_nc, config.dataloader.load.output_nc) == (1, 1)


@pytest.mark.parametrize("nonsense", ["x", -1, 2.5, None, [3]])
def test_nonsense_is_left_for_the_schema_to_refuse(nonsense: object) -> None:
    with pytest.warns(UserWarning), pytest.raises(ConfigError, match="n_layers"):
        ConfigManager({"config": {"train": {"discriminator": {"n_layers": nonsense}}}})
