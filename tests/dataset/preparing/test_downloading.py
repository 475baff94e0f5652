"""`nectargan data download` against a real HTTP server on the loopback interface."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from nectargan.cli.main import main
from nectargan.dataset import transfer
from nectargan.dataset.pairs import find_pairs
from nectargan.dataset.preparing import downloading, unpacking
from nectargan.dataset.preparing.downloading import PUBLISHED, download
from nectargan.errors import DataError
from tests.http_server import Server


def picture(number: int) -> bytes:
    values = np.random.default_rng(number).integers(0, 256, (16, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, to: str = "") -> object:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, to
    return info, data


def packed(*members: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for info, data in members:  # type: ignore[attr-defined]
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def good(top: str = "facades/") -> bytes:
    return packed(
        member(top, kind=tarfile.DIRTYPE) if top else member("train", kind=tarfile.DIRTYPE),
        *(member(f"{top}train/{i}.png", picture(i)) for i in range(3)),
        member(f"{top}val/0.png", picture(9)),
    )


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
def server(server: Server) -> Server:
    server.body = good()
    return server


@pytest.fixture
def get(server: Server, tmp_path: Path) -> Callable[..., downloading.Downloaded]:
    def run(**options: object) -> downloading.Downloaded:
        options = {"url": server.url("facades.tar.gz"), "digest": sha256(server.body), **options}
        return download("facades", tmp_path / "sets" / "facades", **options)  # type: ignore[arg-type]

    return run


Get = Callable[..., downloading.Downloaded]


def test_the_pairs_are_there_and_nothing_else(server: Server, get: Get, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    found = get(on_progress=lambda *at: seen.append(at))
    assert found.pairs == {"train": 3, "val": 1}
    assert [pair.a.read_bytes() for pair in find_pairs(tmp_path / "sets/facades", "train")] == [
        picture(i) for i in range(3)
    ]
    assert {path.name for path in (tmp_path / "sets").iterdir()} == {
        "facades",
        "facades.download.json",
    }
    record = json.loads(found.record.read_text())
    assert f"sha256:{record['sha256']}" == sha256(server.body)
    assert seen[-1] == (len(server.body), len(server.body))


@pytest.mark.parametrize("plan", [["cut", "cut"], ["cut", "503", "nothing"], ["500", "cut"]])
def test_a_cut_connection_is_continued(server: Server, get: Get, plan: list[str]) -> None:
    server.plan = plan
    assert get().pairs["train"] == 3
    half = len(server.body) // 2
    assert server.ranges[-1] in (
        f"bytes={half}-",
        f"bytes={half + (len(server.body) - half) // 2}-",
    )


def test_a_later_call_goes_on(server: Server, get: Get, tmp_path: Path) -> None:
    server.plan = ["cut", *["nothing"] * 9]
    half = len(server.body) // 2
    with pytest.raises(DataError, match=f"lost; {half:,} of {len(server.body):,} bytes were rec"):
        get()
    assert not (tmp_path / "sets" / "facades").exists()
    server.plan, server.ranges = [], []
    assert get().pairs["train"] == 3
    assert server.ranges == [f"bytes={half}-"]


def test_a_server_without_ranges_or_with_another_archive_starts_again(
    server: Server, get: Get
) -> None:
    server.plan = ["cut", "no ranges"]
    assert get().pairs["train"] == 3
    assert server.ranges == [None, f"bytes={len(server.body) // 2}-"]


def test_another_version_on_the_server_is_not_appended(server: Server, get: Get) -> None:
    server.plan = ["cut", *["nothing"] * 9]
    with pytest.raises(DataError):
        get()
    server.plan, server.body, server.etag = [], good("other/"), '"2"'
    assert get().pairs["train"] == 3


def test_a_part_that_is_too_long_is_dropped(server: Server, get: Get, tmp_path: Path) -> None:
    server.plan = ["cut", *["nothing"] * 9]
    with pytest.raises(DataError):
        get()
    part = tmp_path / "sets" / "facades.tar.gz.part"
    part.write_bytes(part.read_bytes() + bytes(len(server.body)))
    server.plan = []
    assert get().pairs["train"] == 3


@pytest.mark.parametrize("plan", [["chunked"], ["moved"]])
def test_other_answers(server: Server, get: Get, plan: list[str]) -> None:
    server.plan = plan
    assert get().pairs == {"train": 3, "val": 1}


def test_an_archive_without_a_folder_around_it(server: Server, get: Get) -> None:
    server.body = good("")
    assert get().pairs == {"train": 3, "val": 1}


def test_wrong_digests(server: Server, get: Get, tmp_path: Path) -> None:
    advice = rf"the published archive has 30,168,306\. .* {sha256(server.body)}\."
    with pytest.raises(DataError, match=advice):
        get(digest=None)
    with pytest.raises(DataError, match=r"its MD5 digest is [0-9a-f]{32}; expected is 0{32}\."):
        get(digest="md5:" + "0" * 32)
    assert {path.name for path in (tmp_path / "sets").iterdir()} == {"facades.download.json"}


def test_a_second_download_is_compared_with_the_first(
    server: Server, get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish() -> None:
        md5 = hashlib.md5(server.body, usedforsecurity=False).hexdigest()
        entry = PUBLISHED["facades"]._replace(md5=md5, size=len(server.body))
        monkeypatch.setitem(PUBLISHED, "facades", entry)

    publish()
    get(digest=None)
    out = tmp_path / "sets" / "facades"
    out.rename(out.with_name("kept"))
    get(digest=None)
    out.rename(out.with_name("kept too"))
    server.body, server.etag = good("else/"), '"2"'
    publish()
    with pytest.raises(DataError, match=r"SHA-256 digest is .*; it was .* before, see .*json"):
        get(digest=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digest": "sha256:12"}, "'sha256:12' is not a digest"),
        ({"digest": "crc32:12345678"}, "ALGORITHM:HEX with one of md5, sha1, sha256, sha512"),
        ({"url": "file:///etc/passwd"}, "not an http:// or https:// address"),
        ({"url": "ftp://host/x"}, "not an http:// or https:// address"),
        ({"url": "http://"}, "not an http:// or https:// address"),
        ({"url": "http://host:99999/x"}, "not an http:// or https:// address"),
        ({"url": "http://me:secret@host/x"}, "user names and passwords are not supported"),
        ({"url": "http://127.0.0.1:1/x"}, "no connection \\(Connection refused\\)"),
    ],
)
def test_what_cannot_be_asked_for(
    get: Get, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        get(**options)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "sets").exists()


def test_names_and_existing_folders(server: Server, get: Get, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'facades'"):
        download("facade", tmp_path / "x")
    mine = tmp_path / "sets" / "facades" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        get()
    assert server.ranges == []  # nothing was asked for
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("code", [404, 403, 410])
def test_an_archive_that_is_not_there(server: Server, get: Get, tmp_path: Path, code: int) -> None:
    server.plan = [str(code)]
    with pytest.raises(DataError, match=f"the server answered {code} .*--url"):
        get()
    assert not (tmp_path / "sets").exists()


ABSOLUTE = "/tmp/evil-of-nectargan.png"  # noqa: S108 - it must not be created
OUTSIDE = [
    member("../evil.png", picture(0)),
    member(ABSOLUTE, picture(0)),
    member("facades/train/../../../evil.png", picture(0)),
    member("facades\\train\\1.png", picture(0)),
    member("C:evil.png", picture(0)),
]
EVIL = [
    *((each, "does not stay in the archive") for each in OUTSIDE),
    (member("facades/link", kind=tarfile.SYMTYPE, to="/etc"), "neither a folder nor a regular"),
    (member("facades/hard", kind=tarfile.LNKTYPE, to="/etc/passwd"), "neither a folder nor"),
    (member("facades/null", kind=tarfile.CHRTYPE), "neither a folder nor a regular file"),
    (member("facades/pipe", kind=tarfile.FIFOTYPE), "neither a folder nor a regular file"),
    (member("facades/train/1.png", b"again"), "in the archive twice"),
    (member("facades/train/1.png/2.png", b"again"), "in the archive twice"),
    (member("facades/train/zeros.png", bytes(65 << 20)), "unpacks to more than 67,108,864 bytes"),
]


@pytest.mark.parametrize(("evil", "message"), EVIL)
def test_nothing_is_left_of_an_evil_archive(
    server: Server, get: Get, tmp_path: Path, evil: object, message: str
) -> None:
    first = [member(f"facades/train/{i}.png", picture(i)) for i in range(2)]
    server.body = packed(*first, evil, member("facades/val/1.png", picture(3)))
    with pytest.raises(DataError, match=message):
        get()
    left = {path.name for path in tmp_path.rglob("*")}
    assert left == {"sets", "facades.tar.gz.part", "facades.download.json"}
    assert not Path(ABSOLUTE).exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<!doctype html><title>Log in</title>", "not a .tar.gz archive"),
        (b"", "not a .tar.gz archive"),
        (good()[:-200], "damaged or incomplete"),
        (good()[:-2], "damaged or incomplete"),
        (good()[:300] + bytes(50) + good()[350:], "damaged or incomplete"),
        (packed(member("notes.txt", b"no pictures")), "the archive has no split 'train'"),
    ],
)
def test_what_is_not_a_data_set(
    server: Server, get: Get, tmp_path: Path, body: bytes, message: str
) -> None:
    server.body = body
    with pytest.raises(DataError, match=message):
        get()
    assert not (tmp_path / "sets" / "facades").exists()
    assert not list((tmp_path / "sets").glob(".*"))


def test_too_many_files(server: Server, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_MOST_MEMBERS", 3)
    with pytest.raises(DataError, match="more than 3 files"):
        get()


def test_a_full_disk_is_said_before_the_transfer(
    server: Server, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: type("U", (), {"free": 10}))
    with pytest.raises(DataError, match=r"10 bytes are free; .* needs about"):
        get()


def test_the_command_says_what_to_train_with(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "my sets" / "facades"
    arguments = [
        "data",
        "download",
        "facades",
        "--url",
        server.url("facades.tar.gz"),
        "-o",
        str(out),
    ]
    result = CliRunner().invoke(main, [*arguments, "--digest", sha256(server.body)])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"4 pairs (A|B: photo | label map of a building) in {out}: 3 in train, 1 in val.",
        f"SHA-256 of the archive: {sha256(server.body)[7:]}; it is kept in facades.download.json.",
        f"To train: nectargan-train -c facades -d '{out}'",
    ]


def test_the_table_has_the_six_sets() -> None:
    assert sorted(PUBLISHED) == [
        *("cityscapes", "edges2handbags", "edges2shoes", "facades", "maps", "night2day")
    ]
    for each in PUBLISHED.values():
        assert len(bytes.fromhex(each.md5)) == 16
        assert each.address == (
            f"https://efrosgans.eecs.berkeley.edu/pix2pix/datasets/{each.name}.tar.gz"
        )
