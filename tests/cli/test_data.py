from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .conftest import Run


def test_check_prints_a_line_per_split(run: Run, pairs_root: Path) -> None:
    result = run("data", "check", pairs_root)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "train: 6 pairs in train (side by side), 32 x 32",
        "val: 3 pairs in val (side by side), 32 x 32",
    ]


def test_check_lists_all_that_is_wrong(run: Run, tmp_path: Path) -> None:
    train = tmp_path / "data" / "train"
    train.mkdir(parents=True)
    Image.new("RGB", (64, 32)).save(train / "good.png")
    Image.new("RGB", (63, 32)).save(train / "odd.png")
    (train / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (train / "notes.txt").write_text("not an image")
    result = run("data", "check", tmp_path / "data")
    assert result.exit_code == 2
    assert "odd.png" in result.stderr
    assert "broken.jpg" in result.stderr
    assert "good.png" not in result.stderr
    assert "notes.txt" not in result.stderr


def test_synth_draws_a_data_set_that_passes_the_check(run: Run) -> None:
    result = run("data", "synth", "fronts", "--train", 3, "--val", 2, "--size", 64, "--seed", 5)
    assert result.exit_code == 0, result.output
    lines = run("data", "check", "fronts").stdout.splitlines()
    assert lines == [
        "train: 3 pairs in train (side by side), 64 x 64",
        "val: 2 pairs in val (side by side), 64 x 64",
    ]


def test_synth_does_not_touch_what_is_there(run: Run) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    result = run("data", "synth", "mine", "--train", 1, "--val", 1, "--size", 64)
    assert result.exit_code == 2
    assert "mine" in result.stderr
    assert [path.name for path in Path("mine").iterdir()] == ["letter.txt"]


def test_check_says_what_may_not_be_meant(run: Run, tmp_path: Path) -> None:
    for folder, value in (("trainA", 4095), ("trainB", 65535)):
        (tmp_path / folder).mkdir()
        image = Image.fromarray(np.full((4, 4), value, np.uint16))
        image.save(tmp_path / folder / "1.png")
    result = run("data", "check", tmp_path)
    assert result.exit_code == 0
    assert result.stdout == "train: 1 pair in trainA + trainB, 4 x 4\n"
    warning = "Warning: trainA: no value is above 4095, but the range goes up to 65535, so"
    assert warning in result.stderr
    assert "Hint: trainB: at most 1 color in an image." in result.stderr
