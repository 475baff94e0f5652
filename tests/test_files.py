from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nectargan.files import remove_parts, replacing


def test_replacing_shows_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_replacing_leaves_nothing_behind_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as part:
        part.write_text("ne")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_replaced_files_are_as_readable_as_others(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain", tmp_path / "file"
    plain.write_text("")
    with replacing(path) as part:
        part.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "file.part"
    path.write_text("whole")
    with replacing(path) as part:
        part.write_text("half")
        # Another process that was killed at this moment would leave the same.
        left = part.with_name(part.name.replace(".file", ".other"))
        left.write_text("half")
    remove_parts(tmp_path)
    assert os.listdir(path.parent) == ["file.part"]
    assert path.read_text() == "half"
