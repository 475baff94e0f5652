from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
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


def test_synth_does_not_change_existing_files(run: Run) -> None:
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
    result = run("data", "check", tmp_path, "--quick")
    assert result.exit_code == 0
    assert result.stdout == "train: 1 pair in trainA + trainB, 4 x 4\n"
    warning = "Warning: trainA: no value is above 4095, but the range goes up to 65535, so"
    assert warning in result.stderr
    assert "Hint: trainB: at most 1 color in an image." in result.stderr


def test_findings_are_listed_and_strict_about(run: Run) -> None:
    assert run("data", "synth", "fronts", "--train", 14, "--val", 2, "--size", 64).exit_code == 0
    for i in range(1, 13):
        with Image.open(f"fronts/train/00{i:02}.png") as image:
            Image.new(image.mode, image.size, "gray").save(f"fronts/train/00{i:02}.png")
    result = run("data", "check", "fronts")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2] == (
        f"Finding: empty: {Path('fronts/train/0001.png')} (left half): its brightness has a "
        "standard deviation of 0.0 %; leave it out unless it is intended."
    )
    assert result.stdout.splitlines()[-2:] == ["and 14 more; --json lists all.", "24 findings."]
    result = run("data", "check", "fronts", "--strict", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [each["kind"] for each in found] == ["empty"] * 24
    assert found[1]["files"] == [f"{Path('fronts/train/0001.png')} (right half)"]


def test_pair_split_and_crop_make_data_sets_that_pass_the_check(run: Run) -> None:
    assert run("data", "synth", "fronts", "--train", 8, "--val", 1, "--size", 64).exit_code == 0
    for side, box in (("labels", (0, 0, 64, 64)), ("photos", (64, 0, 128, 64))):
        Path(side).mkdir()
        for path in Path("fronts/train").iterdir():
            with Image.open(path) as image:
                image.crop(box).save(Path(side, f"{side}_{path.name}"))

    result = run("data", "pair", "labels", "photos", "-o", "pairs", "--pattern", r"(\d+)$")
    assert result.stdout == "8 pairs for train in pairs.\n"
    result = run("data", "split", "pairs", "-o", "parts", "--val", "0.25", "--test", "1")
    assert result.stdout == "8 pairs in parts: 5 in train, 2 in val, 1 in test.\n"
    result = run("data", "crop", "parts", "-o", "tiles", "--size", "32", "--keep-empty")
    assert result.stdout == "32 tiles from 8 pairs in tiles.\n"
    assert run("data", "check", "tiles").stdout.splitlines() == [
        "train: 20 pairs in trainA + trainB, 32 x 32",
        "val: 8 pairs in valA + valB, 32 x 32",
        "test: 4 pairs in testA + testB, 32 x 32",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pair no photos -o out", "no: no such folder"),
        ("pair fronts/train fronts/val -o out --by-order", "the numbers must be equal"),
        ("pair fronts/train fronts/train -o fronts", "fronts: it is not empty"),
        ("pair fronts/train fronts/train -o out --by-order --pattern x", "exclude each other"),
        ("pair fronts/train fronts/train -o out --as links --grey", "leave out --as"),
        ("pair fronts/train fronts/train -o out --resize 0", "'0' is not a size in pixels"),
        ("pair fronts/train fronts/train -o file/out", "file"),
        ("split fronts -o out --val nan", "--val nan is neither"),
        ("split fronts -o out --val inf", "--val inf is neither"),
        ("split fronts -o out --from test", "the split 'test' is missing"),
        ("crop fronts -o out --size 65", "less than a tile of 65"),
        ("crop fronts -o out --size 8 --overlap 8", "--overlap 8 must be less than --size 8"),
        ("crop fronts -o out --empty nan", "--empty is nan; it must be between 0 and 1"),
        ("crop nowhere -o out", "nowhere: no such directory"),
    ],
)
def test_what_cannot_be_prepared(run: Run, arguments: str, message: str) -> None:
    assert run("data", "synth", "fronts", "--train", 3, "--val", 1, "--size", 64).exit_code == 0
    Path("file").write_text("")
    result = run("data", *arguments.split())
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["file", "fronts"]
