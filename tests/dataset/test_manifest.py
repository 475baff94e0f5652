"""Data sets that are a list of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nectargan.config.config_manager import ConfigManager
from nectargan.dataset.data_check import check_data
from nectargan.dataset.pairs import Pair, find_pairs, list_splits
from nectargan.errors import DataError
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.dataset.test_pairs import draw


def write(root: Path, *rows: str, head: str = "input,target,split") -> Path:
    root.mkdir(exist_ok=True)
    (root / "pairs.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return root


def test_rows_are_pairs_in_their_order_and_split(tmp_path: Path) -> None:
    root = write(
        tmp_path / "d",
        "../x/b.png,../x/b.jpg,train",
        f'"{tmp_path}/x/a, 1.png",,train',
        "s1/0.png,s2/0.png,val",
        "s2/0.png,s1/0.png,val",
        "ignored.png,ignored.png,other",
    )
    assert find_pairs(root, "train") == [
        Pair("b", root / "../x/b.png", root / "../x/b.jpg"),
        Pair("a, 1", tmp_path / "x" / "a, 1.png"),
    ]
    assert [pair.name for pair in find_pairs(root, "val")] == ["s1_0", "s2_0"]
    assert list_splits(root) == ["train", "val"]


def test_columns_may_be_in_any_order_with_others(tmp_path: Path) -> None:
    root = write(tmp_path, "train,9,a.png,b.png", head="\ufeffsplit,id,input,target")
    assert find_pairs(root, "train") == [Pair("a", root / "a.png", root / "b.png")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"input,target\na,b\n", "no column split; the first line must name input, target, split"),
        (b"", "no column input or target or split"),
        (b"input,target,split\n,b.png,train\n", "line 2: the input is empty"),
        (b"input,target,split\na.png,b\0.png,train\n", "line 2: a path contains the character NUL"),
        (b"input,target,split\na.png,train\n", "line 2: it has another number of fields than"),
        (b"input,target,split\na.png,b.png,train,1\n", "line 2: it has another number of fields"),
        (b"input,target,split\n\xff.png,b.png,train\n", "not UTF-8 text"),
        (b'input,target,split\n"a.png"x,b.png,train\n', "after line 1: "),
        (b"input,target,split\na.png,b.png,train\na.png,c.png,train\n", "'a' is the input of 2"),
        (b"input,target,split\na.png,b.png,test\n", "the split 'train' is missing"),
    ],
)
def test_a_list_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        find_pairs(tmp_path, "train")


def test_spaces_and_line_ends_of_other_systems_are_no_part_of_a_split(tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.csv").write_bytes(b"input,target,split\r\na.png,b.png,train \r\n")
    assert [pair.name for pair in find_pairs(tmp_path, "train")] == ["a"]


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    write(tmp_path, "a.png,b.png,train")
    with pytest.raises(DataError, match=r"b\.png: unreadable \(No such file"):
        check_data(tmp_path)


def test_a_run_from_a_list_is_that_from_folders(tmp_path: Path) -> None:
    rows = []
    for i in range(3):
        for side in "AB":
            values = np.random.default_rng([i, ord(side)]).integers(0, 256, (32, 32, 3), np.uint8)
            path = tmp_path / "folders" / f"train{side}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
        rows.append(f"../folders/trainA/{i}.png,../folders/trainB/{i}.png,train")
    write(tmp_path / "list", *rows)
    ledgers = []
    for root in ("folders", "list"):
        config = ConfigManager(
            None,
            [
                ("dataloader.dataroot", str(tmp_path / root)),
                ("dataloader.load", {"load_size": 32, "crop_size": 32}),
                ("train.generator", {"features": 4, "n_downs": 1}),
                ("train.generator.learning_rate", {"epochs": 1, "epochs_decay": 0}),
                ("train.discriminator", {"base_channels": 4, "n_layers": 1}),
                ("common.output_directory", str(tmp_path / "runs" / root)),
                ("common.device", "cpu"),
                ("logging.mlflow.enable", False),
                ("logging.tensorboard.enable", False),
            ],
        ).data
        run = Pix2pixTrainer(config).train(None)
        lines = [line.split(",") for line in run.losses.read_text().splitlines()]
        ledgers.append([line[:2] + line[3:] for line in lines])  # without the time
    assert ledgers[0] == ledgers[1]
    assert len(ledgers[0]) == 1 + 3 * 4
