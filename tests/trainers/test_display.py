from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from nectargan.config.schema import Config
from nectargan.record.ledger import LossRow
from nectargan.record.run_directory import RunDirectory
from nectargan.trainers import display
from nectargan.trainers.display import PlainDisplay
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    shown = PlainDisplay()
    shown.start(RunDirectory(Path("runs/x_v1")), 4, 100)
    shown.step(1, 100, {"G_L1": LossRow(100, 1, 0, "G_L1", np.float32(0.25), 50.0, 12.5)})
    shown.epoch_end(1, {"val/ssim": 0.5, "time/images_per_second": 12.25, "lr/generator": 1.0})
    shown.stop()
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"Training in {Path('runs/x_v1')}"
    assert second == "epoch 1/4  G_L1 0.25 x 50  ssim 0.5  images/s 12.25  0:00:00 left"


def test_a_long_epoch_has_lines_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.0)
    shown = PlainDisplay()
    shown.start(RunDirectory(Path("x")), 2, 3)
    shown.step(2, 4, {"G_L1": LossRow(4, 2, 0, "G_L1", np.float32(0.25), 50.0, 12.5)})
    assert capsys.readouterr().out.splitlines()[1] == "epoch 2/2  step 4/6  G_L1 0.25 x 50"


def test_progress_is_shown_without_being_asked_for(
    tiny: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Pix2pixTrainer(tiny()).train()
    first, *epochs = capsys.readouterr().out.splitlines()
    assert first == f"Training in {run}"
    assert [line.split()[:2] for line in epochs] == [["epoch", "1/2"], ["epoch", "2/2"]]
    Pix2pixTrainer(tiny()).train(display=None)
    assert capsys.readouterr().out == ""


def test_output_that_is_lost_ends_no_run(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a program of one's own, whose standard output is as Python made it."""
    reader, writer = os.pipe()
    os.close(reader)
    lost = os.fdopen(writer, "w")
    monkeypatch.setattr("sys.stdout", lost)
    run = Pix2pixTrainer(tiny()).train()
    monkeypatch.undo()
    with suppress(BrokenPipeError):
        lost.close()
    assert RunDirectory(run).read_status() == ("FINISHED", "")


def test_a_display_in_another_encoding(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", shown)
    Pix2pixTrainer(tiny(common__experiment_name="雪")).train()
    monkeypatch.undo()
    first, second = shown.buffer.getvalue().splitlines()[:2]  # type: ignore[attr-defined]
    assert first.endswith(b"runs/?_v1")
    assert second.startswith(b"epoch 1/")
