"""`nectargan data check` decodes each file once, and goes on where it was interrupted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nectargan.dataset import examination
from nectargan.dataset.data_check import check_data
from nectargan.dataset.examination import Examination
from nectargan.dataset.synthetic import synthesize
from nectargan.errors import DataError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "set"
    synthesize(root, train=9, val=3, size=64, seed=4)
    for path in sorted((root / "train").iterdir())[:3]:  # JPEGs are probed in full size here
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"))
        path.unlink()
    return root


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "set"))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(examination, "_CHUNK", 2)
    return tmp_path / "kept" / "results.jsonl"


def check(root: Path, kept: Path | None = None) -> Examination:
    found = Examination(kept=kept)
    check_data(root, ("train",), ("val",), examine=found)
    return found


def test_the_summary_is_that_of_the_training(root: Path) -> None:
    found = Examination()
    summaries = check_data(root, ("train",), ("val",), examine=found)
    assert summaries == check_data(root, ("train",), ("val",))
    assert found.found.shape == (12,)
    assert (found.found["size"] == 64).all()


def test_kept_results_are_equal_and_only_changed_files_are_read_again(
    root: Path, kept: Path
) -> None:
    first = check(root, kept)
    assert first.reused == 0
    second = check(root, kept)
    assert second.reused == 12
    assert second.found.tobytes() == first.found.tobytes() == check(root).found.tobytes()
    changed = sorted((root / "train").iterdir())[4]
    with Image.open(changed) as image:
        image.rotate(180).save(changed)
    third = check(root, kept)
    assert third.reused == 11
    assert (third.found != first.found).nonzero()[0].tolist() == [4]


def test_a_touched_file_is_read_again(root: Path, kept: Path) -> None:
    check(root, kept)
    path = next((root / "val").iterdir())
    os.utime(path, ns=(1, 1))
    assert check(root, kept).reused == 11


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_last_line_is_dropped(root: Path, kept: Path, cut: int) -> None:
    check(root, kept)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-cut])
    assert check(root, kept).reused == 11
    assert sorted(kept.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert check(root, kept).reused == 12


@pytest.mark.parametrize("damage", [b"[]\n", b"null\n", b'["00", "!", 1, 2]\n', b"\xff\xfe\n"])
def test_a_damaged_line_ends_what_is_reused(root: Path, kept: Path, damage: bytes) -> None:
    check(root, kept)
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join([*lines[:5], damage, *lines[6:]]))
    assert check(root, kept).reused == 5
    assert check(root, kept).reused == 12


def test_an_interrupted_check_goes_on(root: Path, kept: Path) -> None:
    files = [path for split in ("train", "val") for path in sorted((root / split).iterdir())]
    last = files[-1].read_bytes()
    files[-1].write_bytes(last[: len(last) // 2])
    with pytest.raises(DataError, match="truncated"):
        check(root, kept)
    files[-1].write_bytes(last)
    assert check(root, kept).reused == 11


def test_another_selection_is_not_reused(root: Path, kept: Path) -> None:
    check(root, kept)
    found = Examination((["R"], ["R", "G", "B"]), kept)
    check_data(root, ("train",), ("val",), found._selections, examine=found)
    assert found.reused == 0
    assert found.found["channels"][0].tolist() == [1, 3]


def test_results_that_cannot_be_kept_do_not_matter(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert check(root, tmp_path / "file" / "results.jsonl").found["size"].all()


def test_a_file_of_results_does_not_grow_for_ever(
    root: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "_MOST_UNUSED", 1)
    for time in range(4):
        for path in root.rglob("*.*"):
            os.utime(path, ns=(time, time))
        check(root, kept)
    assert len(kept.read_bytes().splitlines()) <= 24


def test_large_jpegs_are_measured_reduced_with_their_own_shift(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    picture = Image.fromarray(noise).resize((1280, 1280), Image.Resampling.BICUBIC)
    for side, values in (("A", np.asarray(picture)), ("B", np.roll(np.asarray(picture), 60, 0))):
        (tmp_path / f"train{side}").mkdir()
        Image.fromarray(values).save(tmp_path / f"train{side}" / "1.jpg", quality=90)
    found = Examination()
    check_data(tmp_path, ("train",), (), examine=found)
    assert found.found["size"].tolist() == [[1280, 1280]]
    assert found.found["shift"][0] == pytest.approx([-60, 0], abs=10)
