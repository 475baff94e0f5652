"""Shards on a server: in the cache folder as far as there is room, else read in place."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from nectargan.dataset import remote_shards
from nectargan.dataset.loader import PairLoader
from nectargan.dataset.paired_dataset import PairedDataset
from nectargan.dataset.pairs import Pair, find_pairs
from nectargan.dataset.remote_shards import LIMIT, RemoteShard
from nectargan.errors import DataError
from nectargan.sources import Member, ShardFile, open_source
from tests.dataset.test_shards import png, write
from tests.http_server import Server

IMAGES = [png(i) for i in (0, 9, 1, 10, 2, 11)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NECTARGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(LIMIT, "1G")  # however full the disk is
    return tmp_path / "cache" / "shards"


@pytest.fixture
def local(tmp_path: Path, server: Server) -> Path:
    """A shard, which the server has as well."""
    samples = [{"__key__": str(i), "input.png": png(i), "target.png": png(i + 9)} for i in range(3)]
    path = write(tmp_path / "train-0.tar", samples)
    server.bodies["train-0.tar"] = path.read_bytes()
    return path


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "0")


def images_of(pairs: Iterable[Pair]) -> list[bytes]:
    return [open_source(each).read() for pair in pairs for each in (pair.a, pair.b) if each]


def shard_of(pair: Pair) -> object:
    assert isinstance(pair.a, Member)
    return pair.a.shard


def test_a_shard_is_received_once(server: Server, local: Path) -> None:
    server.plan = ["whole", "cut", "503", "cut"]
    address = server.url("set/train-0.tar")
    pairs = find_pairs(address, "train")
    assert [pair.name for pair in pairs] == [pair.name for pair in find_pairs(local, "train")]
    assert images_of(pairs) == IMAGES
    assert isinstance(shard_of(pairs[0]), ShardFile)
    assert server.ranges[0] == "bytes=0-0"
    assert [bool(each) for each in server.ranges[1:]] == [False, True, True, True]
    server.ranges = []
    assert find_pairs(address, "train") == pairs
    assert server.ranges == ["bytes=0-0"]


def test_one_that_has_changed_is_received_again(server: Server, local: Path) -> None:
    find_pairs(server.url("train-0.tar"), "train")
    samples = [{"__key__": "new", "input.png": png(20), "target.png": png(21)}]
    server.bodies["train-0.tar"] = write(local, samples).read_bytes()
    server.etag = '"2"'
    pairs = find_pairs(server.url("train-0.tar"), "train")
    assert [pair.name for pair in pairs] == ["new"]
    assert images_of(pairs) == [png(20), png(21)]


def test_the_copies_are_used_while_the_server_is_away(
    server: Server, local: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.bodies["train-1.tar"] = local.read_bytes()
    address = server.url("train-{0..1}.tar")
    pairs = find_pairs(address, "train")
    server.plan, server.ranges = ["503"] * 10, []
    monkeypatch.setattr(remote_shards, "_away", {})
    assert list(find_pairs(address, "train")) == list(pairs)
    (warning,) = caplog.messages
    assert "the server answered 503 Service Unavailable. The copies of its shards in" in warning
    # It is not asked again for a while.
    server.plan, server.ranges = ["503"] * 10, []
    assert list(find_pairs(address, "train")) == list(pairs)
    assert server.ranges == []


def test_a_copy_of_what_the_server_no_longer_has_is_not_used(server: Server, local: Path) -> None:
    find_pairs(server.url("train-0.tar"), "train")
    server.plan = ["404"]
    with pytest.raises(DataError, match=r"train-0\.tar: the server answered 404 Not Found"):
        find_pairs(server.url("train-0.tar"), "train")


@pytest.mark.usefixtures("in_place", "local")
def test_without_room_only_the_parts_that_are_needed_are_asked_for(
    server: Server, cache: Path
) -> None:
    pairs = find_pairs(server.url("train-0.tar"), "train")
    assert isinstance(shard_of(pairs[0]), RemoteShard)
    server.ranges = []
    assert images_of(pairs[1:2]) == IMAGES[2:4]
    sources = (pairs[1].a, pairs[1].b)
    assert server.ranges == [
        f"bytes={each.offset}-{each.offset + each.size - 1}"
        for each in sources
        if isinstance(each, Member)
    ]
    assert not list(cache.glob("*/*.tar"))
    # The places of the images are kept.
    server.ranges = []
    assert find_pairs(server.url("train-0.tar"), "train") == pairs
    assert server.ranges == ["bytes=0-0"]


@pytest.mark.usefixtures("in_place")
def test_batches_are_those_of_a_local_shard(server: Server, local: Path) -> None:
    def batches(root: object, workers: int) -> list[torch.Tensor]:
        pairs = find_pairs(str(root), "train")
        dataset = PairedDataset(pairs, load_size=18, crop_size=16, h_flip_chance=0.5, seed=3)
        loader = PairLoader(dataset, 2, torch.device("cpu"), shuffle=True, num_workers=workers)
        return [torch.cat(batch) for epoch in (1, 2) for batch in loader.epoch(epoch)]

    wanted = batches(local, 0)
    for workers in (0, 2):
        found = batches(server.url("train-0.tar"), workers)
        assert len(found) == len(wanted) == 4
        assert all(map(torch.equal, found, wanted))


@pytest.mark.usefixtures("in_place", "local")
@pytest.mark.parametrize("plan", [["cut"], ["503", "nothing"], ["429", "500", "502"]])
def test_a_request_that_fails_is_repeated(server: Server, plan: list[str]) -> None:
    pairs = find_pairs(server.url("train-0.tar"), "train")
    server.plan = plan
    assert images_of(pairs) == IMAGES


@pytest.mark.usefixtures("in_place", "local")
def test_a_failure_that_stays_is_an_error(server: Server) -> None:
    pairs = find_pairs(server.url("train-0.tar"), "train")
    dataset = PairedDataset(pairs, load_size=18, crop_size=16)
    server.plan = ["503"] * 5
    with pytest.raises(DataError, match=r"train-0\.tar/0\.input\.png: .*answered 503 Service Un"):
        dataset.decode(0)
    server.etag = '"2"'
    with pytest.raises(DataError, match="it has changed since its contents were listed"):
        dataset.decode(0)


@pytest.mark.usefixtures("in_place", "local")
def test_a_server_that_sends_only_whole_files(server: Server) -> None:
    server.plan = ["no ranges"]
    with pytest.raises(DataError, match=r"does not send parts of a file.*or set NECTARGAN_SH"):
        find_pairs(server.url("train-0.tar"), "train")


@pytest.mark.parametrize(("limit", "kept"), [("1M", ShardFile), ("1k", RemoteShard)])
def test_the_limit_of_the_cache(
    server: Server, local: Path, monkeypatch: pytest.MonkeyPatch, limit: str, kept: type
) -> None:
    assert 2**10 < local.stat().st_size < 2**20
    monkeypatch.setenv(LIMIT, limit)
    assert isinstance(shard_of(find_pairs(server.url("train-0.tar"), "train")[0]), kept)


@pytest.mark.parametrize(("free", "kept"), [(2**30, ShardFile), (10_000, RemoteShard)])
def test_without_a_limit_a_tenth_of_the_disk_stays_free(
    server: Server, local: Path, monkeypatch: pytest.MonkeyPatch, free: int, kept: type
) -> None:
    monkeypatch.delenv(LIMIT)
    usage = shutil.disk_usage(local)._replace(total=100_000, free=free)
    assert local.stat().st_size > 10_000 - 100_000 * 0.1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert isinstance(shard_of(find_pairs(server.url("train-0.tar"), "train")[0]), kept)


@pytest.mark.usefixtures("local")
def test_a_limit_that_is_no_size(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "much")
    with pytest.raises(DataError, match="NECTARGAN_SHARD_CACHE is 'much'; allowed: a size such as"):
        find_pairs(server.url("train-0.tar"), "train")


@pytest.mark.usefixtures("local")
def test_several_first_starts_at_a_time(server: Server, cache: Path) -> None:
    address = server.url("train-0.tar")
    server.plan = ["whole", "whole", "cut", "cut"]
    context = multiprocessing.get_context("fork")
    with context.Pool(3) as pool:
        results = [pool.apply_async(_names, (address,)) for _ in range(3)]
        assert [each.get(60) for each in results] == [["0", "1", "2"]] * 3
    assert [path.name for path in cache.glob("*/*")].count("part") == 0


def _names(address: str) -> list[str]:
    return [pair.name for pair in find_pairs(address, "train")]


def test_a_shard_that_a_server_does_not_have(server: Server) -> None:
    server.plan = ["404", "404"]
    with pytest.raises(DataError, match=r"train-0\.tar: the server answered 404 Not Found"):
        find_pairs(server.url("train-{0..1}.tar"), "train")


def test_no_server(server: Server) -> None:
    address = server.url("train-0.tar").replace(str(server.server_port), "1")
    with pytest.raises(DataError, match=r"train-0\.tar: no connection \(ConnectionError\)"):
        find_pairs(address, "train")
