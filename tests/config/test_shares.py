"""Shares and balancers in a config: how they are written, and which cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from nectargan.config.choices import BalancerName
from nectargan.config.config_manager import ConfigManager, load_config, parse_override, save_config
from nectargan.config.dotted import dotted
from nectargan.config.loss_options import LossTerm, ShareConfig, weight_of
from nectargan.config.reference import explain_key, json_schema
from nectargan.config.run_schedules import all_schedules, loss_shares
from nectargan.config.schema import Config
from nectargan.errors import ConfigError
from nectargan.losses.balancing import BALANCERS
from nectargan.runs.params import run_params
from nectargan.scheduling.data import Schedule
from nectargan.sweeps.axes import parse_axes


def config_with(*sets: str) -> Config:
    return ConfigManager(None, map(parse_override, sets)).data


def share_of(text: str) -> ShareConfig:
    share = weight_of(config_with(f"train.loss.G_GAN={text}").train.loss["G_GAN"])
    assert isinstance(share, ShareConfig)
    return share


@pytest.mark.parametrize(
    "text",
    [
        "share 0.2",
        "share  0.2",
        "share constant 0.2",
        '{"share": 0.2}',
        '{"share": "constant 0.2"}',
        '{"share": {"schedule": "constant", "initial_value": 0.2, "target_value": 0.2}}',
        '{"weight": "share 0.2"}',
        '{"weight": {"share": 0.2, "min": 0, "max": 1e4}}',
    ],
)
def test_one_share_in_many_ways(text: str) -> None:
    share = share_of(text)
    assert share.schedule == Schedule("constant", initial_value=0.2, target_value=0.2)
    assert (share.smoothing, share.min, share.max) == (0.99, 0.0, 1e4)


@pytest.mark.parametrize(
    ("text", "notation"),
    [
        ('{"share": 0.2, "smoothing": 0.99, "min": 0, "max": 1e4}', "share 0.2"),
        ("share linear 0->0.3 @ 1-20", "share linear 0→0.3 @ 1–20"),
        (
            "share polynomial 0->0.3 @ 1-20 power=3 interval=step max=5 min=0.5",
            "share polynomial 0→0.3 @ 1–20 power=3 interval=step min=0.5 max=5",
        ),
        ("share piecewise 1:0 10:0.2", "share piecewise 1:0 10:0.2"),
        ('{"weight": "share 0.25 smoothing=0.5"}', "share 0.25 smoothing=0.5"),
    ],
)
def test_a_share_in_one_line(text: str, notation: str, tmp_path: Path) -> None:
    share = share_of(text)
    assert share.notation == notation
    assert share_of(notation) == share
    config = config_with(f"train.loss.G_GAN={text}")
    key = "train.loss.G_GAN"
    whole = isinstance(config.train.loss["G_GAN"], LossTerm)
    assert dotted(config)[f"{key}.weight" if whole else key] == notation
    assert run_params(config)["loss.G_GAN"] == notation
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config


def test_the_schedules_of_a_run_have_its_shares() -> None:
    config = config_with("train.loss.G_GAN=share linear 0->0.3 @ 1-20")
    schedules = all_schedules(config)
    assert schedules["share/G_GAN"].value_at(20) == 0.3
    assert "weight/G_GAN" not in schedules
    assert schedules["weight/G_L1"].value_at(1) == 100.0


SHARE = "train.loss.G_GAN=share"


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (
            [f"{SHARE} 1"],
            "--set train.loss.G_GAN has the share 1 in epoch 1; a share is at least 0",
        ),
        ([f"{SHARE} -0.1"], "has the share -0.1 in epoch 1; a share is at least 0 and below 1."),
        ([f"{SHARE} linear 0->1.3 @ 1-20"], "has the share 1.02632 in epoch 16"),
        ([SHARE], "cannot be \"share\": write 'share 0.2', 'share linear 0->0.3 @ 1-20' or"),
        ([f"{SHARE} 20%"], "write 'share 0.2'"),
        ([f"{SHARE} 0.2 maximum=3"], "write 'share 0.2'"),
        ([f"{SHARE} linear 0->0.3"], "is not a schedule"),
        ([f"{SHARE} nan"], "train.loss.G_GAN.share cannot be nan"),
        ([f"{SHARE} 0.2 smoothing=1"], "G_GAN.smoothing cannot be 1.0: it should be less than 1"),
        ([f"{SHARE} 0.2 min=5 max=2"], "min 5 is above max 2"),
        ([f"{SHARE} 0.2 max=much"], 'G_GAN.max cannot be "much"'),
        (['train.loss.G_GAN={"share": true}'], "share cannot be true: it must be a number or a sc"),
        (['train.loss.G_GAN={"share": 0.2, "smothing": 1}'], "Did you mean 'smoothing'?"),
        (
            ['train.loss.G_GAN={"weight": {"share": 2, "x": 1}}'],
            "G_GAN.weight.x is not a known key",
        ),
        (["train.loss.D_real=share 0.2"], "shares are for the losses of the generator"),
        (
            [f"{SHARE} 0.2", "train.loss.G_L1=share 0.7"],
            "train.loss.G_L1 brings the sum of all shares to 0.9 in epoch 1; where every loss of",
        ),
        (
            [f"{SHARE} 0.2", "train.objective=extended", "train.loss.G_L1=share 0.8"],
            "to 1 in epoch 1; beside G_L2, which has a weight, it must stay below 1",
        ),
        (
            [f"{SHARE} 0.2", "train.loss.G_L1=linear 100->0 @ 100-150"],
            "beside G_L1, which must not all weigh 0, as in epoch 150",
        ),
        ([f"{SHARE} 0.2", "train.balancer=dwa"], "loss.G_GAN has a share; remove one of the two"),
        (["train.balancer=foo"], "train.balancer.name cannot be \"foo\": it should be 'vqgan'"),
        (["train.balancer={}"], 'it needs either a "name" or a "function"'),
        (['train.balancer={"name": "dwa", "function": "a.B"}'], "either"),
        (["train.balancer=3"], "train.balancer cannot be 3"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(sets: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_with(*sets)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shares_may_move_against_each_other() -> None:
    config = config_with(
        f"{SHARE} linear 0->0.9 @ 1-20", "train.loss.G_L1=share linear 1->0.1 @ 1-20"
    )
    assert loss_shares(config)["G_L1"].value_at(20) == 0.1


def below_half(schedule: Schedule, epoch: float) -> float:
    return 0.4


def above_one(schedule: Schedule, epoch: float) -> float:
    return 1.5


def test_a_custom_schedule_function_is_checked_when_it_is_imported() -> None:
    good, bad = (
        config_with(f"{SHARE} tests.config.test_shares.{name}")
        for name in ("below_half", "above_one")
    )
    assert loss_shares(good)["G_GAN"].value_at(7) == 0.4
    with pytest.raises(ConfigError, match=r"has the share 1\.5 in epoch 1; a share is"):
        loss_shares(bad)


def test_a_sweep_over_shares() -> None:
    (axis,) = parse_axes(["train.loss.G_GAN=share 0.1,share linear 0->0.3 @ 1-20,0.5"])
    values = [axis.value_of(item) for item in axis.items]
    assert values == ["share 0.1", "share linear 0->0.3 @ 1-20", 0.5]
    (axis,) = parse_axes(["train.loss.G_GAN.share=0.1..0.3"])
    assert share_of('{"share": 0.1}') == weight_of(
        load_config(None, {axis.key: axis.range.low if axis.range else None}).train.loss["G_GAN"]
    )


def test_balancers_by_name_and_by_path() -> None:
    assert set(get_args(BalancerName)) == set(BALANCERS)
    assert dotted(config_with("train.balancer=dwa"))["train.balancer.name"] == "dwa"
    own = config_with("train.balancer=my_package.Mine").train.balancer
    assert own is not None
    assert own.function == "my_package.Mine"


def test_a_balancer_is_a_parameter_of_the_run() -> None:
    rule = '{"name": "dwa", "arguments": {"temperature": 2.0}}'
    params = run_params(config_with(f"train.balancer={rule}"))
    assert (params["balancer"], params["balancer.temperature"]) == ("dwa", 2.0)
    assert "balancer" not in run_params(config_with())


def test_the_reference_has_them() -> None:
    assert any("share" in each.lower() for each in explain_key("train.loss.G_GAN").types)
    assert explain_key("train.loss.G_GAN.smoothing").default == "0.99"
    assert explain_key("train.balancer.name").types[0].startswith('"vqgan", "softadapt"')
    text = json.dumps(json_schema())
    assert "share 0.2" in text
