"""Contents of files and of members of shards are read in the same way."""

from __future__ import annotations

import errno
import os
import tarfile
from pathlib import Path

import pytest

from nectargan.files import digest_of_file
from nectargan.sources import Member, ShardFile, as_file, copy_source, digest_of_source, open_source


@pytest.fixture
def member(tmp_path: Path) -> Member:
    """The second member of a shard, whose bytes are those of ``content``."""
    (tmp_path / "content").write_bytes(os.urandom(3000))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "content", "first.png")
        tar.add(tmp_path / "content", "folder/0001.input.PNG")
    with tarfile.open(tmp_path / "x.tar") as tar:
        info = tar.getmembers()[1]
    return Member(ShardFile.of(tmp_path / "x.tar"), info.name, info.offset_data, info.size)


def test_a_member_is_read_like_a_file(member: Member, tmp_path: Path) -> None:
    content = tmp_path / "content"
    for source in (content, member):
        with open_source(source, 3000) as file:
            assert file.read() == content.read_bytes()
        with as_file(source) as path:
            assert path.read_bytes() == content.read_bytes()
            assert path.suffix == source.suffix
        assert digest_of_source(source) == digest_of_file(content)
    assert content.exists()
    assert not path.exists()
    copy_source(member, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content.read_bytes()
    assert (member.name, str(member)) == (
        "0001.input.PNG",
        f"{tmp_path}/x.tar/folder/0001.input.PNG",
    )


def test_a_member_that_is_too_large_is_not_read(member: Member) -> None:
    with pytest.raises(OSError, match=r"it has 3,000 bytes; at most 2,999 are read") as caught:
        open_source(member, 2999)
    assert caught.value.errno == errno.EFBIG


def test_a_shard_that_has_changed_is_noticed(member: Member) -> None:
    status = member.shard.path.stat()
    os.utime(member.shard.path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(OSError, match="changed since its contents were listed"):
        open_source(member)


def test_a_member_behind_the_end_is_an_error(member: Member) -> None:
    behind = Member(member.shard, "x.png", member.shard.size - 10, 11)
    with pytest.raises(OSError, match="its shard ends before it"):
        behind.read()
