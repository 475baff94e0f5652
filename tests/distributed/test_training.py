"""Two processes train a run as one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nectargan.dataset.loader import PairLoader
from nectargan.distributed import ALONE
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last
from nectargan.runs.resume import resumption_of
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.conftest import draw_pairs
from tests.distributed.launching import run_in_two
from tests.distributed.scenarios import DRAWN, OPTIONS, Found, config_of, measured, tensors_of

pytest.importorskip("resource", reason="the scenarios need POSIX")
if not torch.distributed.is_available():
    pytest.skip("torch without torch.distributed", allow_module_level=True)

SKIPPED = 101  # of them, one may be unreadable


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have played the scenarios."""
    folder = tmp_path_factory.mktemp("two")
    for name, count in (("pairs", 7), ("bad_image_pairs", 7), ("skipped_image_pairs", SKIPPED)):
        draw_pairs(folder / name, "train", count)
        draw_pairs(folder / name, "val", 5)
    write_masked(folder / "masked_pairs")
    names = [
        "tested",
        "undisturbed",
        "interrupted",
        "resumed",
        "nan",
        "unsteady_image",
        "bad_image",
        "skipped_image",
    ]
    names += [
        "forked",
        "tested_by_command",
        "normalized",
        "flat",
        "captured",
        "capture_fails_in_one",
    ]
    codes, told = run_in_two(folder, *OPTIONS, *names, "refused", "crash")
    # The second one is that of the error.
    assert codes == [0, 1], told
    assert "ZeroDivisionError: of rank 1" in told[1]
    codes, told = run_in_two(folder, "second_signal", "full_disk")
    assert codes == [0, 0], told
    return folder


def write_masked(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 5)):
        for side in "AB":
            (root / f"{split}{side}").mkdir(parents=True)
        for index in range(count):
            for side in "AB":
                image = rng.random((32, 32), np.float32)
                image[: 4 * index] = np.nan
                np.save(root / f"{split}{side}" / f"{index}.npy", image)


def found(two: Path, name: str, rank: int) -> Found:
    content: Found = torch.load(two / f"{name}.{rank}.pt", weights_only=True)
    return content


def table(run: Path | str, name: str = "losses") -> pd.DataFrame:
    return pd.read_csv(Path(run) / f"{name}.csv").drop(columns="time")


def assert_equal_tensors(ours: dict[str, Any], theirs: dict[str, Any], **tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[key], msg=lambda text, key=key: f"{key}: {text}", **tolerance
        )


@pytest.mark.parametrize("name", OPTIONS)
def test_the_run_of_two_equals_that_of_one(two: Path, tmp_path: Path, name: str) -> None:
    for root in two.glob("*pairs"):
        (tmp_path / root.name).symlink_to(root)
    one = Pix2pixTrainer(config_of(tmp_path, name, OPTIONS[name]))
    ours, theirs = one.train(display=None), found(two, name, 0)["directory"]
    pd.testing.assert_frame_equal(table(theirs), table(ours), rtol=1e-5, atol=1e-6)
    assert not table(theirs).duplicated(["step", "loss"]).any()
    metrics = [table(run, "metrics") for run in (theirs, ours)]
    timeless = [each[~each["metric"].str.startswith("time/")] for each in metrics]
    pd.testing.assert_frame_equal(*timeless, rtol=1e-4, atol=1e-5)
    gradients = [table(run, "gradients") for run in (theirs, ours)]
    pd.testing.assert_frame_equal(*gradients, rtol=1e-4, atol=1e-6)
    of_two, of_one = found(two, name, 0), tensors_of(one)
    assert_equal_tensors(of_two["gradients"], of_one["gradients"], rtol=1e-3, atol=1e-6)
    assert_equal_tensors(of_two["weights"], of_one["weights"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [*OPTIONS, "normalized", "undisturbed", "skipped_image"])
def test_both_processes_have_the_same_bits(two: Path, name: str) -> None:
    first, second = (found(two, name, rank) for rank in (0, 1))
    assert name != "normalized" or first["buffers"]
    for what in ("weights", "gradients", "buffers"):
        assert_equal_tensors(first[what], second[what], rtol=0, atol=0)


@pytest.mark.parametrize("name", OPTIONS)
def test_flat_gradients_are_those_of_ddp(two: Path, name: str) -> None:
    first, second = (found(two, "flat", rank)[name] for rank in (0, 1))
    assert first["captures"] == 0
    assert_equals_ddp(two, name, first, second)


@pytest.mark.parametrize("name", ["plain", "shares", "accumulated"])
def test_a_step_captured_by_both_is_that_of_ddp(two: Path, name: str) -> None:
    first, second = (found(two, "captured", rank)[name] for rank in (0, 1))
    assert first["captures"] == second["captures"] == 1
    assert_equals_ddp(two, name, first, second)


def assert_equals_ddp(two: Path, name: str, first: Found, second: Found) -> None:
    of_ddp = found(two, name, 0)
    for what in ("weights", "gradients"):
        assert_equal_tensors(first[what], second[what], rtol=0, atol=0)
        assert_equal_tensors(first[what], of_ddp[what], rtol=1e-3, atol=1e-5)
    for of in ("losses", "gradients"):
        tables = [table(each["directory"], of) for each in (first, of_ddp)]
        pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-5)


def test_a_capture_that_fails_in_one_process_is_given_up_by_both(two: Path) -> None:
    first, second = (found(two, "capture_fails_in_one", rank) for rank in (0, 1))
    assert first["obstacle"] == second["obstacle"] == "no memory for a graph"
    tags = json.loads((two / "runs" / "capture_fails_v1" / "metadata.json").read_text())["tags"]
    assert tags["cuda_graph"] == "off"
    flat = found(two, "flat", 0)["plain"]
    assert_equal_tensors(first["weights"], second["weights"], rtol=0, atol=0)
    assert_equal_tensors(first["weights"], flat["weights"], rtol=1e-4, atol=1e-6)


def test_there_is_one_directory_with_one_record(two: Path) -> None:
    directory = found(two, "plain", 0)["directory"]
    assert directory == found(two, "plain", 1)["directory"]
    assert [p.name for p in (two / "runs").glob("plain*")] == ["plain_v1"]
    run = RunDirectory(directory)
    assert run.status == "FINISHED"
    checkpoint = load_last(run)
    one = Pix2pixTrainer(config_of(two, "plain", OPTIONS["plain"]))
    assert checkpoint["networks"]["generator"].keys() == one.generator.state_dict().keys()
    assert len(list(run.path.glob("examples/*"))) == 3


def test_dropout_differs_between_processes_and_not_from_run_to_run(two: Path) -> None:
    """Both begin with the same weights; only what is drawn differs."""
    states = load_last(RunDirectory(found(two, "undisturbed", 0)["directory"]))["training"]
    (other,) = states["random_of_others"]
    assert not torch.equal(states["random"]["torch"], other["torch"])


def test_ctrl_c_in_one_process_stops_both_after_the_same_step(two: Path) -> None:
    for rank in (0, 1):
        assert found(two, "interrupted", rank) == {"error": "KeyboardInterrupt: ", "step": 6}
    run = RunDirectory(two / "one" / "interrupted_v1")
    assert run.status == "KILLED"
    assert load_last(run)["step"] == 6
    assert table(run.path)["step"].max() == 6


def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(two: Path) -> None:
    for rank in (0, 1):
        resumed, undisturbed = found(two, "resumed", rank), found(two, "undisturbed", rank)
        for what in ("weights", "gradients"):
            assert_equal_tensors(resumed[what], undisturbed[what], rtol=0, atol=0)
    tables = [table(two / "runs" / f"{name}_v1") for name in ("interrupted", "undisturbed")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    (line,) = resumptions(two / "runs" / "interrupted_v1")
    assert "processes" not in line


def test_one_process_goes_on_with_a_run_of_two(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(two / "one" / "interrupted_v1")
    read: list[int] = []
    decode = PairLoader._cached

    def spy(self: PairLoader, order: torch.Tensor, sizes: list[int]) -> Any:
        read.extend(order.tolist() if len(self.dataset) == 7 else [])
        return decode(self, order, sizes)

    monkeypatch.setattr(PairLoader, "_cached", spy)
    config = config_of(two, "interrupted", DRAWN)
    resumption = resumption_of(directory, load_last(directory), config)
    Pix2pixTrainer(config, resumption).train(display=None)
    rows = table(directory.path)
    assert rows["step"].tolist() == sorted(list(range(1, 9)) * 4)
    (line,) = resumptions(directory.path)
    assert line["processes"] == [2, 1]
    # The images of the second epoch that two processes had not seen yet: 7 - 2 batches of 2.
    assert len(set(read)) == len(read) == 3


def test_a_test_in_two_processes_equals_that_of_one(two: Path) -> None:
    of_one = measured(two, two / "runs" / "plain_v1", ALONE)
    assert of_one["images"] == [0, 1, 2, 3, 4]
    for rank in (0, 1):
        of_two = found(two, "tested", rank)
        assert_equal_tensors(of_two["values"], of_one["values"], rtol=1e-5, atol=1e-6)
        assert of_two["low"] == pytest.approx(of_one["low"], rel=1e-5)
        assert of_two["images"] == of_one["images"]
        torch.testing.assert_close(of_two["generated"], of_one["generated"])


def resumptions(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "resumptions.jsonl").read_text().splitlines()]


def test_nan_in_one_process_stops_both(two: Path) -> None:
    first, second = (found(two, "nan", rank) for rank in (0, 1))
    assert first == second
    assert first["error"].startswith("NonFiniteError: Loss 'G_own' is nan with weight 1")
    assert RunDirectory(two / "runs" / "nan_v1").status == "FAILED"


def test_a_bad_image_in_one_process_stops_both(two: Path) -> None:
    first, second = (found(two, "bad_image", rank)["error"] for rank in (0, 1))
    assert first == second
    assert "3.png: not an image" in first
    run = RunDirectory(two / "runs" / "bad_image_v1")
    assert run.status == "FAILED"
    assert run.last_checkpoint.exists()


def test_a_bad_image_in_one_process_is_skipped_in_both(two: Path) -> None:
    for rank in (0, 1):
        assert found(two, "skipped_image", rank)["bad"] == [3]
    run = RunDirectory(two / "runs" / "skipped_image_v1")
    assert run.status == "FINISHED"
    assert table(run.path)["step"].max() == -(-SKIPPED // 4)


def test_an_image_that_one_process_cannot_cache_is_skipped_in_both(two: Path) -> None:
    for rank in (0, 1):
        assert found(two, "unsteady_image", rank) == {"error": "", "bad": [5]}


def test_a_parent_is_read_by_the_main_process_alone(two: Path) -> None:
    first, second = (found(two, "forked", rank) for rank in (0, 1))
    assert_equal_tensors(first["weights"], second["weights"], rtol=0, atol=0)
    run = RunDirectory(first["directory"])
    assert load_last(run)["epoch"] == 3
    # The rows before are those of the parent.
    assert table(run.path)["step"].min() == 5


def test_the_command_checks_the_images_in_the_main_process_alone(two: Path) -> None:
    record = json.loads((two / "runs" / "plain_v1" / "test" / "val.json").read_text())
    assert record["n"] == 5
    assert record["metrics"]["l1"]["value"] > 0


def test_what_several_processes_cannot_train_is_said(two: Path) -> None:
    odd, batch_norm = found(two, "refused", 1)["told"]
    assert odd == (
        "dataloader.batch_size is 3, the pairs of all processes together, and 2 processes cannot "
        "share it equally; make it a multiple of 2."
    )
    assert batch_norm.startswith("train.generator has batch norm, which several processes")


def test_an_error_of_another_process_is_said_in_the_status(two: Path) -> None:
    told = "Rank 1 ended: ZeroDivisionError: of rank 1"
    assert found(two, "crash", 0)["error"] == f"PeerError: {told}"
    assert RunDirectory(two / "runs" / "crash_v1").read_status() == ("FAILED", told)


def test_a_process_that_a_signal_ends_at_once_is_no_failure(two: Path) -> None:
    assert [found(two, "second_signal", rank)["error"] for rank in (0, 1)] == [
        "SystemExit: 143"
    ] * 2
    assert RunDirectory(two / "runs" / "second_signal_v1").read_status() == ("KILLED", "")


def test_a_full_disk_of_the_main_process_ends_both(two: Path) -> None:
    first, second = (found(two, "full_disk", rank)["error"] for rank in (0, 1))
    directory = two / "runs" / "full_disk_v1"
    assert first.startswith(f"RunError: '{directory}")
    told, _, advice = first.removeprefix("RunError: ").partition(": File too large")
    assert advice == "; free some space and start again."
    assert second == f"PeerError: Rank 0 ended: {told}: File too large."
    assert RunDirectory(directory).status == "FAILED"
