from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nectargan.loggers.base import Point
from nectargan.loggers.tensorboard import TensorBoardSink


def read(directory: Path) -> EventAccumulator:
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def test_values_steps_and_times_arrive(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=300).astype(np.float32)
    points = [
        Point("loss/a/raw", float(v), step, 1_700_000_000_123 + step)
        for step, v in enumerate(values, start=1)
    ]
    sink = TensorBoardSink(tmp_path / "tb")
    sink.open(0)
    sink.write(points[:100])
    sink.write([*points[100:], Point("val/x", float("nan"), 300, 1)])
    # Readable before the end.
    assert len(read(tmp_path / "tb").Scalars("loss/a/raw")) == 300
    sink.close("FINISHED", "")
    events = read(tmp_path / "tb").Scalars("loss/a/raw")
    assert [e.step for e in events] == [p.step for p in points]
    assert np.array_equal(np.float32([e.value for e in events]), values)
    assert [round(e.wall_time * 1000) for e in events] == [p.time for p in points]
    assert np.isnan(read(tmp_path / "tb").Scalars("val/x")[0].value)


def test_examples_arrive_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grid.png")
    sink = TensorBoardSink(tmp_path / "tb")
    sink.open(0)
    sink.add_file("examples", tmp_path / "grid.png", 40)
    sink.close("FINISHED", "")
    (event,) = read(tmp_path / "tb").Images("examples")
    assert event.step == 40
    shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert np.array_equal(shown, pixels)


def test_a_fresh_run_has_the_session_mark_that_a_resumed_one_needs(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    sink = TensorBoardSink(tmp_path / "tb")
    sink.open(0)
    sink.write([Point("loss/a/raw", float(step), step, step) for step in range(1, 11)])
    sink.close("KILLED", "")
    resumed = SummaryWriter(str(tmp_path / "tb"), purge_step=6)
    resumed.add_scalar("loss/a/raw", 60.0, 6)
    resumed.close()
    events = read(tmp_path / "tb").Scalars("loss/a/raw")
    assert [(e.step, e.value) for e in events][-2:] == [(5, 5.0), (6, 60.0)]
