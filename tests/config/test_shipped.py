from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from nectargan import load_config
from nectargan.config.shipped import shipped_configs
from nectargan.errors import ConfigError

from ..documents import ROOT


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_files_of_the_repository_have_a_name() -> None:
    assert {path.name for path in shipped_configs().values()} == {
        path.name for path in (ROOT / "configs").iterdir()
    }
    assert {"demo", "facades", "maps"} <= set(shipped_configs())


@pytest.mark.parametrize("name", shipped_configs())
def test_a_name_stands_for_its_file(name: str) -> None:
    assert load_config(name) == load_config(shipped_configs()[name])
    assert load_config(name).common.experiment_name == name


def test_a_file_of_that_very_name_comes_first() -> None:
    Path("facades").write_text('{"common": {"seed": 5}}')
    assert load_config("facades").common.seed == 5


def test_a_directory_of_that_name_is_no_config() -> None:
    Path("facades").mkdir()
    assert load_config("facades").common.experiment_name == "facades"


@pytest.mark.parametrize("own", ["facades.json", "facades.yaml", "configs/facades.json"])
def test_a_file_that_may_be_meant_is_told_apart(own: str) -> None:
    Path(own).parent.mkdir(exist_ok=True)
    Path(own).write_text("{}")
    with pytest.warns(UserWarning, match="comes with NectarGAN") as told:
        assert load_config("facades").common.experiment_name == "facades"
    assert f"write '{Path(own)}'" in str(told[0].message)
    assert load_config(own).common.experiment_name == "NectarGAN"
    # A copy says the same.
    Path(own).write_bytes(shipped_configs()["facades"].read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_config("facades")


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("facade", "Did you mean 'facades'? These come with NectarGAN: demo, "),
        ("nothing", "These come with NectarGAN: demo, "),
        ("facades.json", "Did you mean 'facades', which comes with NectarGAN?"),
        ("configs/maps.yaml", "Did you mean 'maps', which comes with NectarGAN?"),
        ("other/facades", ""),
        ("nothing.json", ""),
    ],
)
def test_an_unknown_name(typed: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(typed)
    start = f"The config file '{typed}' cannot be read: No such file or directory."
    assert str(caught.value).startswith(f"{start} {told}".rstrip())
    assert str(caught.value).endswith(".") or str(caught.value).endswith("?")


def test_an_error_in_an_option_names_the_config() -> None:
    with pytest.raises(ConfigError, match=r"^--set train\.loss\.G_LI"):
        load_config("facades", {"train.loss.G_LI": "x"})


def test_home_and_variables_in_the_path_of_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("common: {seed: 3}\n")
    assert load_config("~/mine.yaml").common.seed == 3
    assert load_config("$HOME/mine.yaml").common.seed == 3
