from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from nectargan.dataset import cache
from nectargan.dataset.cache import cached_bytes, choose_place, fill, free_ram
from nectargan.dataset.loader import PairLoader
from nectargan.dataset.paired_dataset import PairedDataset
from nectargan.dataset.pairs import find_pairs
from nectargan.errors import DataError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def dataset(pairs_root: Path) -> PairedDataset:
    return PairedDataset(find_pairs(pairs_root, "train"), load_size=(36, 40), crop_size=32)


def test_all_pairs_decoded_in_order(dataset: PairedDataset) -> None:
    images, problems = fill(dataset)
    assert problems == {}
    assert images.numel() * images.element_size() == cached_bytes(dataset) == 6 * 6 * 36 * 40
    assert torch.equal(images, torch.stack([dataset.decode(i) for i in range(6)]))


def test_the_same_pairs_in_a_file_that_has_no_name(
    dataset: PairedDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert choose_place("disk", [dataset], CUDA) == "disk"
    images, _ = fill(dataset, on_disk=True)
    assert torch.equal(images, fill(dataset)[0])
    assert not list(tmp_path.iterdir())
    batches = [
        list(PairLoader(dataset, 4, CPU, shuffle=True, cache=place).epoch(3))
        for place in ("ram", "disk")
    ]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_a_full_disk(dataset: PairedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"cannot be written in .* \(No space left on device\)"):
        fill(dataset, on_disk=True)
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(1, 1, cached_bytes(dataset) - 1))
    with pytest.raises(DataError, match=r"'disk', but the images need .* are free in "):
        choose_place("disk", [dataset], CPU)


@pytest.mark.parametrize(
    ("wanted", "device", "ram", "vram", "place"),
    [
        ("auto", CPU, 2.0, 0.0, "ram"),
        ("auto", CPU, 1.9, 0.0, "off"),
        ("auto", CUDA, 1.0, 4.0, "device"),
        ("auto", CUDA, 0.9, 4.0, "off"),  # one of the two would not get through the RAM
        ("auto", CUDA, 2.0, 3.9, "ram"),
        ("auto", CUDA, 1.9, 3.9, "off"),
        ("ram", CUDA, 1.0, 9.0, "ram"),
        ("device", CUDA, 0.5, 1.0, "device"),
        ("device", CPU, 1.0, 0.0, "ram"),
        ("off", CUDA, 9.0, 9.0, "off"),
    ],
)
def test_the_cache_depends_on_the_free_memory(
    dataset: PairedDataset,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    device: torch.device,
    ram: float,
    vram: float,
    place: str,
) -> None:
    """Free memory in multiples of what two data sets take."""
    size = 2 * cached_bytes(dataset)
    monkeypatch.setattr(cache, "free_ram", lambda: int(ram * size))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(vram * size), 0))
    assert choose_place(wanted, [dataset, dataset], device) == place


@pytest.mark.parametrize(("wanted", "device"), [("ram", CPU), ("device", CPU), ("device", CUDA)])
def test_what_does_not_fit_is_refused(
    dataset: PairedDataset, monkeypatch: pytest.MonkeyPatch, wanted: str, device: torch.device
) -> None:
    monkeypatch.setattr(cache, "free_ram", lambda: cached_bytes(dataset) - 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    with pytest.raises(DataError, match=f"cache is '{wanted}', but .* use 'auto' or 'off'"):
        choose_place(wanted, [dataset], device)


def test_what_would_not_get_through_the_ram_is_refused(
    dataset: PairedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "free_ram", lambda: cached_bytes(dataset) - 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 0))
    with pytest.raises(
        DataError, match="'device', but the images of a split are first decoded in RAM"
    ):
        choose_place("device", [dataset], CUDA)


Memory = namedtuple("Memory", "available")


def test_free_memory_is_that_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: Memory(1000))
    monkeypatch.setattr(cache, "_CGROUP", tmp_path)
    assert free_ram() == 1000
    (tmp_path / "memory.max").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 300\nfile 500\n")
    assert free_ram() == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert free_ram() == 1000
