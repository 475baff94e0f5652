from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
import yaml

from nectargan import load_config
from nectargan.config.reference import json_schema
from nectargan.config.shipped import shipped_configs

from .conftest import Run


def test_the_list_has_every_config(run: Run) -> None:
    lines = run("config", "list").stdout.splitlines()
    for name in shipped_configs():
        (line,) = (line for line in lines if f"│ {name} " in line)
        assert str(load_config(name).train.epochs) in line


@pytest.mark.parametrize("name", ["demo", "facades_scheduled"])
def test_a_config_is_shown_as_it_is_or_in_full(run: Run, name: str) -> None:
    written = json.loads(shipped_configs()[name].read_text())
    assert json.loads(run("config", "show", name).stdout) == written
    assert yaml.safe_load(run("config", "show", name, "--format", "yaml").stdout) == written
    full = load_config(name)
    for form in ("json", "yaml"):
        shown = run("config", "show", name, "--all", "--format", form).stdout
        Path(f"full.{form}").write_text(shown, encoding="utf-8")
        assert load_config(f"full.{form}") == full


def test_a_config_of_v023_is_shown_as_it_would_be_written_today(run: Run) -> None:
    old = Path(__file__).parents[1] / "data" / "nectargan_v0.2.3_example_UNet_extended.json"
    with pytest.warns(UserWarning, match=r"v0\.2\.3"):
        expected = load_config(old)
    result = run("config", "show", old)
    assert "Warning: v0.2.3 config: " in result.stderr
    Path("new.json").write_text(result.stdout, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_config("new.json") == expected


def test_a_difference_is_shown_once_and_a_schedule_in_its_notation(run: Run) -> None:
    Path("mine.yaml").write_text(
        "train: {loss: {G_L1: linear 100->0 @ 1-20}}\nsave: {keep_last: null}"
    )
    Path("other.json").write_text('{"train": {"loss": {"G_L1": 100.0}}, "common": {"seed": 0}}')
    told = run("config", "diff", "mine.yaml", "other.json").stdout
    rows = [[c.strip() for c in line.strip("│").split("│")] for line in told.splitlines()[3:-1]]
    assert rows == [
        ["train.loss.G_L1", "linear 100→0 @ 1–20", "100.0"],
        ["save.keep_last", "null", "5"],
    ]


def test_equal_configs(run: Run) -> None:
    assert run("config", "diff", "maps", "maps").stdout == "maps and maps do not differ.\n"


def test_a_key_is_explained(run: Run) -> None:
    assert run("config", "explain", "train.generator.features").stdout == (
        "train.generator.features\n"
        "    Channels of the first level. They double with each level, up to 8 times this number.\n"
        "    Type:    whole number, at least 1, at most 8192\n"
        "    Default: 64\n"
    )
    told = run("config", "explain", "train.loss").stdout
    assert told.startswith("train.loss\n    Losses by name. ")
    assert "train.loss.NAME" in told
    assert "│ function " in told
    everything = run("config", "explain").stdout
    for section in ("common", "dataloader", "train", "save", "logging"):
        assert f"│ {section} " in everything


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "facade"], "Did you mean 'facades'?"),
        (["diff", "maps", "nothing"], "These come with NectarGAN: demo, "),
        (["explain", "train.los"], "Did you mean 'loss'?"),
        (["schema", "-o", "no/where.json"], "cannot be written"),
        (["show", "$NOWHERE/x"], "$NOWHERE is not set"),
    ],
)
def test_unknown_names_are_one_sentence(run: Run, arguments: list[str], told: str) -> None:
    result = run("config", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert told in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("output", [[], ["-o", "-"], ["-o", "x.json"]])
def test_the_schema_is_printed_or_written(run: Run, output: list[str]) -> None:
    result = run("config", "schema", *output)
    assert result.exit_code == 0
    text = Path("x.json").read_text(encoding="utf-8") if "x.json" in output else result.stdout
    assert json.loads(text) == json_schema()
    assert [path.name for path in Path().iterdir()] == output[1:] * ("x.json" in output)


def test_a_config_that_names_its_schema_is_read(run: Run) -> None:
    Path("mine.json").write_text('{"$schema": "x.json", "common": {"seed": 4}}')
    assert load_config("mine.json").common.seed == 4


def test_other_commands_take_the_name_as_well(run: Run) -> None:
    result = run("schedule", "facades_scheduled", "-o", "weights.png")
    assert result.exit_code == 0, result.stderr
    assert Path("weights.png").read_bytes().startswith(b"\x89PNG")
    result = run("train", "-c", "facades", "--dry-run")
    assert result.exit_code == 2
    assert os.path.join("datasets", "facades") in result.stderr
