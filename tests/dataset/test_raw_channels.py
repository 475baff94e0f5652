"""Data sets whose files have channels to choose from, such as OpenEXR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import pytest
import torch
from click.testing import CliRunner

from nectargan.build_data import build_data
from nectargan.cli.main import main
from nectargan.config.schema import Load
from nectargan.dataset.data_check import check_data
from nectargan.dataset.examination import inspect
from nectargan.errors import DataError
from tests.image_kinds import IMAGE_KINDS, ImageKind, draw

CHANNELS = ("R", "G", "B", "Z", "N.X")


def write_exr(path: Path, seed: int, width: int = 72) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    bands = {name: rng.standard_normal((72, width)).astype(np.float16) for name in CHANNELS}
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, dict(bands)).write(str(path))
    return bands


@pytest.fixture
def one_file_for_both(tmp_path: Path) -> Path:
    """Input and target are channels of one file."""
    for i in range(2):
        write_exr(tmp_path / "renders" / f"{i}.exr", i)
    rows = [f"renders/{i}.exr,renders/{i}.exr,train" for i in range(2)]
    (tmp_path / "pairs.csv").write_text("\n".join(["input,target,split", *rows]))
    return tmp_path


def test_the_channels_must_be_named(one_file_for_both: Path) -> None:
    with pytest.raises(DataError, match=r"0\.exr: it has the channels B, G, N\.X, R, Z; say which"):
        check_data(one_file_for_both)


def test_each_side_reads_its_own(one_file_for_both: Path) -> None:
    found = check_data(one_file_for_both, selections=(["R", "G", "B"], ["Z"]))["train"]
    assert (len(found.pairs), found.smallest) == (2, (72, 72))
    assert [each.name for each in found.dtypes] == ["float16", "float16"]
    measured = inspect(found.pairs, (["R", "G", "B"], ["Z"]))
    assert measured["channels"].tolist() == [[3, 1], [3, 1]]
    assert not measured["is_grey"][0, 0]


def test_a_channel_that_one_file_lacks(one_file_for_both: Path) -> None:
    with pytest.raises(DataError, match="no channel 'A'"):
        check_data(one_file_for_both, selections=(["R"], ["A"]))


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_the_trainer_reads_them(one_file_for_both: Path, tiny: Any, direction: str) -> None:
    config = tiny(
        dataloader__dataroot=str(one_file_for_both),
        dataloader__direction=direction,
        dataloader__load__input_channels=["B", "R"],
        dataloader__load__target_channels=["Z"],
        dataloader__load__input_range=[-6, 6],
        dataloader__load__target_range=[-6, 6],
        dataloader__load__input_nc=2,
        dataloader__load__output_nc=1,
        dataloader__load__load_size=72,
        dataloader__load__crop_size=72,
    )
    built = build_data(config, torch.device("cpu"))
    loader = built.train
    assert [tuple(part.shape[1:]) for part in next(iter(loader.epoch(1)))[:2]] == [
        (2, 72, 72),
        (1, 72, 72),
    ]


@pytest.mark.parametrize(
    ("given", "found"), [("R,G", ["R", "G"]), ("[4, 3,2]", [4, 3, 2]), (5, [5]), (["Z"], ["Z"])]
)
def test_channels_as_set_gives_them(given: Any, found: list[Any]) -> None:
    assert Load(input_channels=given).input_channels == found


@pytest.mark.parametrize("given", ["R,,G", "0", [], [0], [True], [1.0], {"R": 1}])
def test_what_is_no_list_of_channels(given: Any) -> None:
    with pytest.raises(ValueError, match="a list of 1 to 64 names, or numbers from 1"):
        Load(input_channels=given)


def test_halves_of_a_file(tmp_path: Path) -> None:
    write_exr(tmp_path / "train" / "0.exr", 0, width=144)
    selections = (["R", "G", "B"], ["Z"])
    found = check_data(tmp_path, selections=selections)["train"]
    assert found.smallest == (72, 72)
    assert inspect(found.pairs, selections)["channels"].tolist() == [[3, 1]]


def test_the_command(one_file_for_both: Path) -> None:
    options = ["--channels-a", "R,G,B", "--channels-b", "5", "--json"]
    done = CliRunner().invoke(main, ["data", "check", str(one_file_for_both), *options])
    assert done.exit_code == 0, done.output
    assert isinstance(json.loads(done.stdout), list)
    wrong = CliRunner().invoke(
        main, ["data", "check", str(one_file_for_both), "--channels-a", "R,,B"]
    )
    assert wrong.exit_code == 2
    assert "not a list of channels" in wrong.output


@pytest.mark.parametrize("kind", IMAGE_KINDS, ids=str)
def test_every_kind_is_checked_and_measured(tmp_path: Path, kind: ImageKind) -> None:
    for side in "AB":
        folder = tmp_path / f"train{side}"
        folder.mkdir()
        for i in range(2):
            kind.write(folder / f"{i}{kind.suffix}", draw(kind, 72, 68, i))
    selections = (kind.channels, kind.channels)
    found = check_data(tmp_path, selections=selections)["train"]
    assert (found.smallest, found.largest) == ((72, 68), (72, 68))
    if not found.is_plain:
        assert found.dtypes[0] == np.dtype(kind.dtype)
    measured = inspect(found.pairs, selections)
    assert measured["size"].tolist() == [[72, 68]] * 2
    assert (measured["hash"][:, 0] == measured["hash"][:, 1]).all()
    assert (measured["mean"] > 0).all()
    assert (measured["mean"] < 1).all()
    assert not measured["is_upscaled"].any()


def test_two_formats_with_one_stem(tmp_path: Path) -> None:
    """The input is a 16-bit PNG, the target an array of floats."""
    png, floats = (k for k in IMAGE_KINDS if k.name in ("png-16-3", "npy-float32-CHW"))
    for side, kind in zip("AB", (png, floats), strict=True):
        (tmp_path / f"train{side}").mkdir()
        kind.write(tmp_path / f"train{side}" / f"scene{kind.suffix}", draw(kind))
    found = check_data(tmp_path)["train"]
    assert [each.name for each in found.dtypes] == ["uint16", "float32"]
