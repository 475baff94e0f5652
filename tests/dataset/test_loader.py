"""Batches are a function of seed and epoch: not of cache, workers or what was read before."""

from __future__ import annotations

import pickle
import signal
import sys
from multiprocessing import queues
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nectargan.dataset.loader import PairLoader
from nectargan.dataset.paired_dataset import PairedDataset, normalize
from nectargan.dataset.pairs import Pair, find_pairs
from nectargan.dataset.workers import init_worker
from nectargan.errors import DataError
from nectargan.interrupts import STOPS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs(pairs_root: Path) -> list[Pair]:
    return find_pairs(pairs_root, "train")


def dataset(pairs: list[Pair], **options: object) -> PairedDataset:
    return PairedDataset(pairs, load_size=36, crop_size=32, h_flip_chance=0.5, seed=1, **options)


def epochs(loader: PairLoader, *numbers: int) -> Tensor:
    pairs = [pair for number in numbers for pair in loader.epoch(number)]
    return torch.cat([torch.cat(pair, dim=1) for pair in pairs])


@pytest.mark.parametrize(("cache", "workers"), [("ram", 0), ("device", 0), ("off", 2), ("ram", 2)])
def test_cache_and_workers_change_nothing(pairs: list[Pair], cache: str, workers: int) -> None:
    plain = PairLoader(dataset(pairs), 4, CPU, shuffle=True)
    other = PairLoader(dataset(pairs), 4, CPU, shuffle=True, cache=cache, num_workers=workers)
    expected = epochs(plain, 1, 2, 3)
    assert torch.equal(epochs(other, 1, 2, 3), expected)
    assert torch.equal(epochs(other, 2), expected[6:12]), "an epoch does not depend on the last"
    assert not torch.equal(expected[:6], expected[6:12])


def test_batches_are_the_items_of_the_data_set(pairs: list[Pair]) -> None:
    data = dataset(pairs)
    loader = PairLoader(data, 4, CPU, shuffle=True, cache="ram")
    served = epochs(loader, 5)
    items = [normalize(torch.cat(data[index, 5])) for index in range(6)]
    # Every item once, in an order of the epoch's own.
    order = [next(i for i, item in enumerate(items) if torch.equal(item, s)) for s in served]
    assert sorted(order) == list(range(6))
    assert order == np.random.default_rng((1, 5, 0)).permutation(6).tolist()


def test_without_shuffling_pairs_come_in_order(pairs: list[Pair]) -> None:
    data = PairedDataset(pairs, crop_size=32, augment=False)
    served = epochs(PairLoader(data, 4, CPU, cache="ram"), 0)
    assert torch.equal(served, torch.stack([normalize(torch.cat(pair)) for pair in data]))


def test_channels_are_divided_as_they_were_asked_for(pairs: list[Pair]) -> None:
    loader = PairLoader(dataset(pairs, input_nc=1, output_nc=4), 2, CPU)
    source, target = next(loader.epoch())
    assert (source.shape, target.shape) == ((2, 1, 32, 32), (2, 4, 32, 32))
    assert (target[:, 3] == 1).all(), "the alpha of an opaque image"


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_a_smaller_last_batch_may_be_dropped(pairs: list[Pair], cache: str) -> None:
    whole = PairLoader(dataset(pairs), 4, CPU, cache=cache)
    assert [len(source) for source, _ in whole.epoch()] == [4, 2]
    assert (len(whole), whole.images_per_epoch) == (2, 6)
    dropped = PairLoader(dataset(pairs), 4, CPU, cache=cache, drop_last=True)
    assert [len(source) for source, _ in dropped.epoch()] == [4]
    assert (len(dropped), dropped.images_per_epoch) == (1, 4)


def test_batches_are_augmented_last(pairs: list[Pair]) -> None:
    loader = PairLoader(dataset(pairs), 3, CPU, augment=lambda x, y: (y, x * 0))
    plain = PairLoader(dataset(pairs), 3, CPU)
    for (a, b), (_, target) in zip(loader.epoch(1), plain.epoch(1), strict=True):
        assert torch.equal(a, target)
        assert not b.any()


def test_a_cache_reads_every_file_once(pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    data, read = dataset(pairs), []
    decode = data.decode
    monkeypatch.setattr(data, "decode", lambda index: (read.append(index), decode(index))[1])
    loader = PairLoader(data, 4, CPU, cache="ram")
    assert read == [], "nothing is read before the first epoch"
    epochs(loader, 1, 2)
    assert sorted(read) == list(range(6))


def test_images_on_the_device_are_taken_there_whatever_it_is_called(pairs: list[Pair]) -> None:
    """As "cuda" and "cuda:0" are, this device and that of its tensors are one, and not equal."""
    device = torch.device("meta", 0)
    assert torch.empty(0, device=device).device != device
    loader = PairLoader(dataset(pairs), 4, device, shuffle=True, cache="device")
    for _ in range(2):
        assert [(s.device.type, len(s)) for s, _ in loader.epoch(1)] == [("meta", 4), ("meta", 2)]


WAYS = [("ram", 0), ("device", 0), ("off", 0), ("off", 1)]


@pytest.mark.parametrize(("cache", "workers"), WAYS)
def test_a_file_that_went_bad_is_named(tmp_path: Path, cache: str, workers: int) -> None:
    path = tmp_path / "bad.png"
    path.write_text("no image")
    loader = PairLoader(dataset([Pair("bad", path)]), 1, CPU, cache=cache, num_workers=workers)
    with pytest.raises(DataError, match=r"bad\.png: not an image: it is text") as raised:
        next(loader.epoch())
    assert "\n" not in str(raised.value)
    del raised, loader  # whose frames hold the workers


@pytest.fixture(scope="module")
def hundred(pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """A hundred pairs, the sixth of which cannot be read."""
    path = tmp_path_factory.mktemp("hundred") / "bad.png"
    path.write_text("no image")
    many = [pairs[i % len(pairs)] for i in range(100)]
    many[5] = Pair("bad", path)
    return many


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(("cache", "workers"), WAYS)
def test_one_bad_file_in_a_hundred_may_be_skipped(
    hundred: list[Pair],
    pairs: list[Pair],
    caplog: pytest.LogCaptureFixture,
    cache: str,
    workers: int,
    size: int,
) -> None:
    options = {"cache": cache, "num_workers": workers, "shuffle": True, "skip_bad": True}
    loader = PairLoader(dataset(hundred), size, CPU, **options)
    whole = PairLoader(dataset([*hundred[:5], pairs[0], *hundred[6:]]), size, CPU, shuffle=True)
    for epoch in (1, 2):
        order = np.random.default_rng((1, epoch, 0)).permutation(100)
        expected = epochs(whole, epoch)[torch.from_numpy(order != 5)]
        assert torch.equal(epochs(loader, epoch), expected)
        sizes = [len(source) for source, _ in loader.epoch(epoch)]
        assert sorted(set(sizes)) == [size - 1, size]
        assert len(sizes) == len(loader)
    (message,) = [record.getMessage() for record in caplog.records]
    assert (
        "bad.png: not an image: it is text that begins with 'no image'. It is skipped." in message
    )
    assert message.endswith("It is skipped.")


@pytest.mark.parametrize(("cache", "workers"), WAYS)
def test_more_than_a_hundredth_is_never_skipped(
    hundred: list[Pair], cache: str, workers: int
) -> None:
    few = hundred[:99]
    loader = PairLoader(dataset(few), 4, CPU, cache=cache, num_workers=workers, skip_bad=True)
    with pytest.raises(DataError, match="1 of 99 pairs cannot be read, more than 1 %"):
        epochs(loader, 1)


def test_everything_a_worker_gets_can_be_pickled(
    pairs: list[Pair], capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(pairs)
    copy, init = pickle.loads(pickle.dumps((data, init_worker)))  # noqa: S301
    assert torch.equal(copy[1, 2][0], data[1, 2][0])
    numbers = STOPS
    before, threads = [signal.getsignal(n) for n in numbers], torch.get_num_threads()
    error, feeder_error = sys.stderr, queues.Queue._on_queue_feeder_error
    try:
        init(0)
        assert [signal.getsignal(n) for n in numbers] == [signal.SIG_IGN] * len(numbers)
        assert torch.get_num_threads() == 1
        sys.excepthook(ConnectionResetError, ConnectionResetError("gone"), None)
        assert capsys.readouterr().err == ""
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        torch.set_num_threads(threads)
        sys.stderr, queues.Queue._on_queue_feeder_error = error, feeder_error


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cache", ["ram", "device", "off"])
def test_a_gpu_gets_the_same_batches_without_waiting(pairs: list[Pair], cache: str) -> None:
    expected = epochs(PairLoader(dataset(pairs), 4, CPU, shuffle=True), 1, 2)
    loader = PairLoader(dataset(pairs), 4, torch.device("cuda"), shuffle=True, cache=cache)
    first = epochs(loader, 1)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = epochs(loader, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(torch.cat([first, second]).cpu(), expected, rtol=0, atol=1e-6)
