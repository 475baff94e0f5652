"""Data sets of shards, written and read by the package webdataset."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from nectargan.config.schema import Config
from nectargan.dataset.data_check import check_data
from nectargan.dataset.loader import PairLoader
from nectargan.dataset.paired_dataset import PairedDataset
from nectargan.dataset.pairs import find_pairs, list_splits
from nectargan.dataset.remote_shards import LIMIT
from nectargan.errors import DataError
from nectargan.runs.describe import digest_of_pairs
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.conftest import draw_pairs
from tests.http_server import Server
from tests.runs.test_resume import assert_same, resumed, stopped

_CPU = torch.device("cpu")


def png(value: int, width: int = 16) -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(value).integers(0, 256, (16, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def write(path: Path, samples: Iterable[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def add(path: Path, *names: str) -> Path:
    """A shard with files of these names, one after the other."""
    with tarfile.open(path, "w") as tar:
        for i, name in enumerate(names):
            data = png(i, 32 if name.count(".") == 1 else 16)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def sharded(pairs_root: Path, tmp_path: Path) -> Path:
    """The images of ``pairs_root`` in three shards, with the same names."""
    for split, shards in (("train", 2), ("val", 1)):
        files = sorted((pairs_root / split).iterdir(), key=lambda path: int(path.stem))
        size = len(files) // shards
        for shard in range(shards):
            write(
                tmp_path / "sharded" / f"{split}-{shard:06d}.tar",
                (
                    {"__key__": file.stem, "png": file.read_bytes(), "json": b"{}"}
                    for file in files[shard * size : (shard + 1) * size]
                ),
            )
    return tmp_path / "sharded"


def test_two_images_or_one_with_both_halves(tmp_path: Path) -> None:
    """What webdataset reads in a shard that it wrote is what is read here."""
    samples: list[dict[str, object]] = [
        {"__key__": "x/01", "input.png": png(1), "target.png": png(2), "txt": b"words"},
        {"__key__": "x/02", "a.png": png(3), "b.png": png(4), "cls": b"1"},
        {"__key__": "03", "png": png(5, 32)},
    ]
    path = write(tmp_path / "train-0.tar", samples)
    pairs = find_pairs(path, "train")
    assert [pair.name for pair in pairs] == ["x_01", "x_02", "03"]
    dataset = PairedDataset(pairs, load_size=16, crop_size=16, augment=False)
    for sample, images in zip(
        webdataset.WebDataset(str(path), shardshuffle=False).decode("pil"), dataset, strict=False
    ):
        known = [value for key, value in sample.items() if key.endswith("png")]
        if len(known) == 1:
            known = [known[0].crop((x, 0, x + 16, 16)) for x in (0, 16)]
        for image, tensor in zip(known, images, strict=True):
            assert (np.asarray(image) == tensor.permute(1, 2, 0).numpy()).all()


def test_named_images_of_a_sample(tmp_path: Path) -> None:
    path = add(tmp_path / "train.tar", "1.rgb.png", "1.depth.png", "1.png", "2.PNG", "2.x.y.png")
    with pytest.raises(
        DataError, match=r"train\.tar/1: it has the images rgb\.png, depth\.png, pn"
    ):
        find_pairs(path, "train")
    (pair,) = find_pairs(f"{path}#rgb,depth", "train")
    assert (pair.name, str(pair.a), str(pair.b)) == (
        "1",
        f"{path}/1.rgb.png",
        f"{path}/1.depth.png",
    )
    assert [(p.name, p.b) for p in find_pairs(f"{path}#png", "train")] == [("1", None), ("2", None)]
    with pytest.raises(DataError, match=r"train\.tar/1: it has no image for 'x\.y'"):
        find_pairs(f"{path}#X.y,png", "train")


def test_shards_and_files_give_the_same_data(sharded: Path, pairs_root: Path) -> None:
    text = f"{sharded}/{{train-{{000000..000001}},val-000000}}.tar"
    assert list_splits(text) == list_splits(sharded) == ["train", "val"]
    for root in (text, str(sharded)):
        summaries, files = check_data(root), check_data(pairs_root)
        assert str(summaries["train"]) == "train: 6 pairs in 2 shards, 32 x 32"
        batches = []
        for pairs in (summaries["train"].pairs, files["train"].pairs):
            dataset = PairedDataset(pairs, load_size=36, crop_size=32, seed=3, h_flip_chance=0.5)
            loader = PairLoader(dataset, 2, _CPU, shuffle=True)
            batches.append([torch.cat(batch) for batch in loader.epoch(2)])
        assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_the_digest_is_that_of_the_contents(sharded: Path, tmp_path: Path) -> None:
    digest = digest_of_pairs(find_pairs(sharded, "train"), str(sharded))
    moved = shutil.copytree(sharded, tmp_path / "moved")
    assert digest_of_pairs(find_pairs(moved, "train"), str(moved)) == digest
    samples: list[dict[str, object]] = [{"__key__": str(i), "png": png(i, 32)} for i in range(3)]
    write(moved / "train-000001.tar", samples)
    assert digest_of_pairs(find_pairs(moved, "train"), str(moved)) != digest


def test_workers_read_shards(sharded: Path) -> None:
    loaders = [
        PairLoader(
            PairedDataset(find_pairs(sharded, "train"), load_size=36, crop_size=32),
            2,
            _CPU,
            shuffle=True,
            num_workers=workers,
        )
        for workers in (0, 2)
    ]
    one, two = ([torch.cat(batch) for batch in loader.epoch(1)] for loader in loaders)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.fixture
def roots(sharded: Path, pairs_root: Path, tmp_path: Path, server: Server) -> dict[str, str]:
    """One data set in four ways."""
    for path in sharded.iterdir():
        server.bodies[path.name] = path.read_bytes()
    rows = [
        f"{path},,{path.parent.name}"
        for split in ("train", "val")
        for path in sorted((pairs_root / split).iterdir(), key=lambda path: int(path.stem))
    ]
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "pairs.csv").write_text("\n".join(["input,target,split", *rows]) + "\n")
    names = "{train-000000,train-000001,val-000000}.tar"
    return {
        "files": str(pairs_root),
        "shards": f"{sharded}/{{train,val}}-00000*.tar",
        "on a server": server.url(names),
        "manifest": str(tmp_path / "listed"),
    }


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["shards", "on a server", "manifest"])
def test_a_run_is_resumed_in_the_middle_of_an_epoch_as_one_on_files(
    roots: dict[str, str],
    tiny: Callable[..., Config],
    tmp_path: Path,
    kind: str,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(LIMIT, "0")

    def config(root: str) -> Config:
        options = {"dataloader__dataroot": root, "dataloader__cache": "off"}
        return tiny(**options, dataloader__num_workers=workers)

    whole = Pix2pixTrainer(config(roots["files"]))
    whole.train(display=None)
    assert_same(resumed(stopped(config(roots[kind]), 2)), whole)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["1.input.png"], r"train\.tar/1: it has no image for 'target'"),
        (["1.b.png"], r"train\.tar/1: it has no image for 'a'"),
        (["1.input.png", "1.target.heic"], r"'target'; 'target\.heic' has an unsupported suffix"),
        (["1.input.png", "1.input.jpg", "1.target.png"], "it has several images for 'input'"),
        (["1.png", "2.png", "1.png"], r"1\.png: this name occurs twice in the shard"),
        (["README", "1.txt", "._1.png", "__x__/2.png"], "no image is in the 1 shard of 'train'"),
    ],
)
def test_samples_that_are_no_pairs(tmp_path: Path, names: list[str], sentence: str) -> None:
    path = add(tmp_path / "train.tar", *names)
    with pytest.raises(DataError, match=sentence):
        find_pairs(path, "train")


def test_an_empty_shard_is_a_warning_if_there_are_others(tmp_path: Path) -> None:
    add(tmp_path / "train-0.tar", "1.png", "2.txt")
    add(tmp_path / "train-1.tar")
    assert check_data(tmp_path)["train"].warnings == (
        f"{tmp_path}/train-0.tar: 1 sample ignored, such as 2.",
        f"{tmp_path}/train-1.tar: it has no images.",
    )


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    whole = add(tmp_path / "train-0.tar", *(f"{i}.png" for i in range(4)))
    data = whole.read_bytes()
    (tmp_path / "train-1.tar").write_bytes(b"")
    (tmp_path / "train-2.tar").write_bytes(gzip.compress(data))
    (tmp_path / "train-3.tar").write_bytes(b"text " * 400)
    (tmp_path / "train-5.tar").write_bytes(data)
    (tmp_path / "train-5.tar").chmod(0)
    root = f"{tmp_path}/train-{{0..5}}.tar"
    with pytest.raises(DataError) as caught:
        find_pairs(root, "train")
    text = str(caught.value)
    for sentence in (
        "train-1.tar: it is empty, not a tar file",
        "train-2.tar: it is compressed with gzip; images are read at their place in the tar file",
        "train-3.tar: it is not a tar file",
        "train-4.tar: cannot be read (No such file or directory)",
        *([] if os.geteuid() == 0 else ["train-5.tar: cannot be read (Permission denied)"]),
    ):
        assert sentence in text


def test_a_truncated_shard_is_never_read(tmp_path: Path) -> None:
    whole = add(tmp_path / "train.tar", *(f"{i}.png" for i in range(3)))
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        end = max(info.offset_data + info.size for info in tar)
    for size in range(1, end, 97):
        whole.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"damaged or incomplete|not a tar file"):
            find_pairs(whole, "train")


def test_a_damaged_header_is_noticed(tmp_path: Path) -> None:
    whole = add(tmp_path / "train.tar", *(f"{i}.png" for i in range(3)))
    with tarfile.open(whole) as tar:
        header = tar.getmembers()[1].offset
    data = bytearray(whole.read_bytes())
    data[header + 10] ^= 255
    whole.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged or incomplete after 0\.png"):
        find_pairs(whole, "train")


def test_a_member_that_is_no_image_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.tar", [{"__key__": "1", "a.png": b"text", "b.png": png(1)}])
    with pytest.raises(DataError, match=r"train\.tar/1\.a\.png: not an image: it is text"):
        check_data(tmp_path / "train.tar")


def test_a_shard_that_changes_under_way_is_noticed(sharded: Path) -> None:
    dataset = PairedDataset(find_pairs(sharded, "train"), load_size=36, crop_size=32)
    shutil.copyfile(sharded / "val-000000.tar", sharded / "train-000001.tar")
    dataset.decode(0)
    with pytest.raises(DataError, match=r"train-000001\.tar.*changed since its contents were"):
        dataset.decode(3)


def test_keys_that_several_shards_use(tmp_path: Path) -> None:
    for shard in range(2):
        add(tmp_path / f"train-{shard}.tar", "0.png")
    assert [p.name for p in find_pairs(tmp_path, "train")] == ["train-0_0", "train-1_0"]
    draw_pairs(tmp_path, "train", 1)
    with pytest.raises(DataError, match="'train' exists in several layouts"):
        find_pairs(tmp_path, "train")
