from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nectargan.files import append_line, open_regular, read_regular_text, remove_parts, replacing


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
        left = part.with_name(f".another{part.name}")
        left.write_text("half")
    remove_parts(tmp_path)
    assert os.listdir(path.parent) == ["file.part"]
    assert path.read_text() == "half"


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_a_link_stays_one_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    (tmp_path / "far" / "middle").symlink_to("target")
    link.symlink_to(Path("far") / "middle")
    for text in ("made where it leads", "replaced"):
        with replacing(link) as part:
            part.write_text(text)
        assert link.is_symlink()
        assert (target.is_symlink(), target.read_text()) == (False, text)
    assert sorted(os.listdir(tmp_path / "far")) == ["middle", "target"]


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_links_that_lead_to_each_other(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"), replacing(tmp_path / "a"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.skipif(os.name == "nt", reason="devices of POSIX")
def test_devices_and_pipes_are_written_to(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    with replacing(link, or_stream=True) as part:
        part.write_text("gone")
    assert link.is_symlink()
    assert Path("/dev/null").is_char_device()

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    with replacing(pipe, or_stream=True) as part:
        part.write_text("data")
    reader.join(10)
    assert got == ["data"]
    assert pipe.is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["null", "pipe"]


@pytest.mark.skipif(os.name == "nt", reason="devices of POSIX")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null")])
def test_a_file_of_a_run_is_no_pipe_and_no_device(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "status.json"
    make(path)
    with pytest.raises(OSError, match="it is not a regular file"), replacing(path):
        pass
    with pytest.raises(OSError, match="not a regular file"):
        append_line(path, "{}")
    assert os.listdir(tmp_path) == ["status.json"]
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(os.name == "nt", reason="devices of POSIX")
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_is_appended_to(tmp_path: Path, name: str) -> None:
    """Also where it is a file: its other lines stay, and so does the file."""
    if name.startswith("/proc") and not Path(name).parent.is_dir():
        pytest.skip("no /proc here")
    if name == "link":
        (tmp_path / name).symlink_to("/dev/stdout")
        name = str(tmp_path / name)
    code = (
        "import sys; from pathlib import Path; from nectargan.files import replacing\n"
        "print('before', flush=True)\n"
        "with replacing(Path(sys.argv[1]), or_stream=True) as part: part.write_text('data\\n')\n"
        "print('after')"
    )
    out = tmp_path / "out"
    with out.open("w") as file:
        subprocess.run([sys.executable, "-c", code, name], stdout=file, check=True, timeout=60)
    assert out.read_text() == "before\ndata\nafter\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_no_file_is_writable_by_others_at_any_moment(tmp_path: Path) -> None:
    done = threading.Event()
    modes = set()

    def replace(name: str) -> None:
        while not done.is_set():
            with replacing(tmp_path / name) as part:
                modes.add(stat.S_IMODE(part.stat().st_mode))

    before = os.umask(0o022)
    threads = [threading.Thread(target=replace, args=(name,)) for name in "ab"]
    try:
        for thread in threads:
            thread.start()
        for number in range(500):
            path = tmp_path / f"plain{number}"
            path.touch()
            modes.add(stat.S_IMODE(path.stat().st_mode))
    finally:
        done.set()
        for thread in threads:
            thread.join()
        left = os.umask(before)
    assert (modes, left) == ({0o644}, 0o022)


def test_a_regular_file_is_read_whole_through_links(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"one\r\ntwo")
    link.symlink_to(path)
    with open_regular(link) as file:
        assert file.read() == b"one\r\ntwo"
    assert read_regular_text(link, 8) == "one\r\ntwo"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(10 << 30)
    told = {
        tmp_path: "it is a directory, not a regular file",
        tmp_path / "none": "No such file or directory",
        tmp_path / "a\0b": "embedded null byte",
        sparse: "it has 10,737,418,240 bytes; at most 1,000 are read",
    }
    if os.name != "nt":
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to(tmp_path / "pipe")
        told[tmp_path / "pipe"] = told[tmp_path / "link"] = "it is a pipe, not a regular file"
        told[Path("/dev/zero")] = "it is a device, not a regular file"
    for path, reason in told.items():
        with pytest.raises(OSError, match=re.escape(reason)) as raised:
            read_regular_text(path, 1000)
        assert raised.value.strerror == reason
        assert raised.value.filename == str(path)
