from __future__ import annotations

import errno
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

from nectargan.loggers.tensorboard.event_file import EventFile
from nectargan.loggers.tensorboard.sink import TensorBoardSink
from nectargan.record.histogram_file import Histogram, save_histograms
from nectargan.record.points import Point

D = ("D_real", "D_fake")
PARAMS: dict[str, str | float | bool] = {
    "loss.G_L1.weight": 100.0,
    "objective": "basic",
    "epochs": 200,
    "flip": True,
}


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
    sink = TensorBoardSink(tmp_path / "tb")
    sink.open(0)
    sink.write([Point("loss/a/raw", float(step), step, step) for step in range(1, 11)])
    sink.close("KILLED", "")
    resumed = TensorBoardSink(tmp_path / "tb")
    resumed.open(6)
    resumed.write([Point("loss/a/raw", 60.0, 6, 11)])
    resumed.close("KILLED", "")
    events = read(tmp_path / "tb").Scalars("loss/a/raw")
    assert [(e.step, e.value) for e in events][-2:] == [(5, 5.0), (6, 60.0)]


class Page:
    """What TensorBoard's own plugins answer about a directory of runs."""

    def __init__(self, directory: Path) -> None:
        self.runs = EventMultiplexer()
        self.runs.AddRunsFromDirectory(str(directory))
        self.runs.Reload()
        self.names = sorted(self.runs.Runs())
        provider = MultiplexerDataProvider(self.runs, str(directory))
        self._context = TBContext(logdir=str(directory), data_provider=provider)

    def layout(self) -> dict[str, dict[str, str]]:
        """The pattern of each chart, by category and title."""
        plugin = CustomScalarsPlugin(self._context)
        found = json.loads(plugin.layout_impl(RequestContext(), ""))
        return {
            category["title"]: {
                chart["title"]: "|".join(chart["multiline"]["tag"]) for chart in category["chart"]
            }
            for category in found["category"]
        }

    def table(self) -> tuple[Any, list[Any]]:
        """The experiment of the HParams tab, and its rows."""
        context = Context(self._context)
        metadata = context.hparams_metadata(RequestContext(), "")
        experiment = context.experiment_from_metadata(RequestContext(), "", True, metadata, [])
        request = api_pb2.ListSessionGroupsRequest(
            allowed_statuses=list(api_pb2.Status.values()),
            col_params=[api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos],
            slice_size=100,
        )
        rows = Handler(RequestContext(), context, "", request).run().session_groups
        return experiment, sorted(rows, key=lambda row: str(row.name))


def write_run(
    directory: Path,
    hparams: dict[str, str | float | bool],
    ssim: float,
    columns: dict[str, type] | None = None,
) -> None:
    sink = TensorBoardSink(directory, 1, D, hparams, columns)
    sink.open(0)
    sink.write([Point("val/ssim", value, step, step) for step, value in ((3, 0.1), (6, ssim))])
    sink.close("FINISHED", "")


def test_the_charts_show_the_series_that_we_write(tmp_path: Path) -> None:
    write_run(tmp_path / "a", PARAMS, 0.5)
    layout = Page(tmp_path).layout()
    series = [
        f"loss/{name}/{kind}"
        for name in ("D_real", "D_fake", "G_GAN", "G_L1", "D_real/mine", "edges", "D_real2")
        for kind in ("raw", "weighted")
    ]
    series += ["loss/G_L1/weight", "lr/generator", "val/ssim", "val/psnr", "val/l1"]
    series += ["epoch/loss/G_L1", "time/epoch_seconds", "epoch", "best/ssim", "val/l10"]
    series += [f"gradient/G_L1/{kind}" for kind in ("norm", "share", "cosine")]
    series += ["gradient/cosine/G_GAN vs G_L1"]

    def shown(category: str, chart: str) -> list[str]:
        # As TensorBoard does it.
        return [tag for tag in series if re.match(layout[category][chart], tag)]

    own = ["G_GAN", "G_L1", "D_real/mine", "edges", "D_real2"]
    for kind in ("raw", "weighted"):
        assert shown("Losses", f"generator, {kind}") == [f"loss/{name}/{kind}" for name in own]
    assert shown("Losses", "discriminator, weighted") == [f"loss/{name}/weighted" for name in D]
    assert shown("Losses", "D(real) against D(fake), raw") == [f"loss/{name}/raw" for name in D]
    assert shown("Schedules", "weights") == ["loss/G_L1/weight"]
    assert shown("Schedules", "learning rates") == ["lr/generator"]
    assert shown("Gradients", "share of each loss") == ["gradient/G_L1/share"]
    assert shown("Gradients", "cosine to the sum of the others") == ["gradient/G_L1/cosine"]
    assert shown("Gradients", "cosine of each pair") == ["gradient/cosine/G_GAN vs G_L1"]
    assert shown("Gradients", "norm") == ["gradient/G_L1/norm"]
    for metric in ("val/ssim", "val/psnr", "val/l1"):
        assert shown("Validation", metric) == [metric]


def test_two_runs_share_their_charts(tmp_path: Path) -> None:
    write_run(tmp_path / "a", PARAMS, 0.5)
    one = Page(tmp_path).layout()
    write_run(tmp_path / "b", {**PARAMS, "loss.G_L2.weight": 1.0}, 0.6)
    assert Page(tmp_path).layout() == one
    assert sum(len(charts) for charts in one.values()) == 13


def test_a_loop_without_a_discriminator_has_its_losses_on_one_chart(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.open(0)
    sink.close("FINISHED", "")
    losses = Page(tmp_path).layout()["Losses"]
    assert losses == {
        "losses, raw": "^loss/.+/raw$",
        "losses, weighted": "^loss/.+/weighted$",
    }


def test_the_hparams_table_has_a_row_for_each_run_and_no_more(tmp_path: Path) -> None:
    columns = {"loss.G_L1.weight": float, "loss.G_L1.schedule": str}
    write_run(tmp_path / "a" / "tensorboard", PARAMS, 0.5, columns)
    scheduled = {**PARAMS, "loss.G_L1.schedule": "linear 100→0 @ 1–9"}
    del scheduled["loss.G_L1.weight"]
    write_run(tmp_path / "b" / "tensorboard", scheduled, 0.25, columns)
    page = Page(tmp_path)
    assert page.names == ["a/tensorboard", "b/tensorboard"]
    experiment, rows = page.table()
    kinds = {info.name: info.type for info in experiment.hparam_infos}
    assert kinds == {
        "loss.G_L1.weight": api_pb2.DATA_TYPE_FLOAT64,
        "loss.G_L1.schedule": api_pb2.DATA_TYPE_STRING,
        "objective": api_pb2.DATA_TYPE_STRING,
        "epochs": api_pb2.DATA_TYPE_FLOAT64,
        "flip": api_pb2.DATA_TYPE_BOOL,
    }
    # The first of the five columns that are shown without a click.
    first = [info.name for info in experiment.hparam_infos if info.differs]
    assert first in (["loss.G_L1.weight"], ["loss.G_L1.schedule"])
    assert experiment.hparam_infos[0].name == first[0]
    assert [m.name.tag for m in experiment.metric_infos] == ["val/ssim", "val/psnr", "val/l1"]
    assert [row.name for row in rows] == page.names
    values = [dict(row.hparams.items()) for row in rows]
    assert values[0]["loss.G_L1.weight"].number_value == 100.0
    assert values[0]["flip"].bool_value is True
    assert values[1]["loss.G_L1.schedule"].string_value == "linear 100→0 @ 1–9"
    assert "loss.G_L1.weight" not in values[1]
    for row, ssim in zip(rows, (0.5, 0.25), strict=True):
        (metric,) = row.metric_values
        assert (metric.name.tag, metric.value, metric.training_step) == ("val/ssim", ssim, 6)
        assert [s.status for s in row.sessions] == [api_pb2.STATUS_SUCCESS]


def test_a_resumed_run_stays_one_row_and_one_layout(tmp_path: Path) -> None:
    for first_step, status in ((0, "KILLED"), (4, "FAILED"), (5, "FINISHED")):
        sink = TensorBoardSink(tmp_path / "a", 1, D, PARAMS)
        sink.open(first_step)
        sink.write([Point("val/ssim", 0.1 * step, step, step) for step in range(first_step, 7)])
        sink.close(status, "")  # type: ignore[arg-type]
        page = Page(tmp_path)
        assert page.names == ["a"]
        (row,) = page.table()[1]
        expected = "STATUS_SUCCESS" if status == "FINISHED" else "STATUS_UNKNOWN"
        assert [api_pb2.Status.Name(s.status) for s in row.sessions] == [expected]
        assert sum(len(charts) for charts in page.layout().values()) == 13
    assert len(read(tmp_path / "a").Tensors("custom_scalars__config__")) == 1


def test_a_run_without_parameters_has_no_row(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.open(0)
    sink.close("FINISHED", "")
    experiment, rows = Page(tmp_path).table()
    assert not experiment.hparam_infos
    assert rows == []


def test_histograms_and_pictures_arrive_with_their_step_and_time(tmp_path: Path) -> None:
    edges, counts = np.float32([-1, 0, 0.5, 4]), np.int64([3, 0, 2])
    path = tmp_path / "epoch_0002_step_00000040.npz"
    save_histograms({"weights/g": Histogram(edges, counts, np.float64([-0.75, 2, 1, 9]))}, path)
    Image.new("RGB", (4, 3)).save(tmp_path / "map.png")
    sink = TensorBoardSink(tmp_path / "tb")
    sink.open(0)
    for kind, file in (("histograms", path), ("loss_maps", tmp_path / "map.png")):
        os.utime(file, (1_700_000_000, 1_700_000_000))
        sink.add_file(kind, file, 40)
    sink.add_file("something new", path, 40)
    sink.close("FINISHED", "")
    events = read(tmp_path / "tb")
    (event,) = events.Histograms("histograms/weights/g")
    assert (event.step, event.wall_time) == (40, 1_700_000_000)
    value = event.histogram_value
    assert (value.min, value.max, value.num, value.sum, value.sum_squares) == (-0.75, 2, 5, 1, 9)
    assert value.bucket_limit == [0, 0.5, 4]
    assert value.bucket == [3, 0, 2]
    assert [(e.step, e.wall_time) for e in events.Images("loss_maps")] == [(40, 1_700_000_000)]
    # As the plugin shows it: left and right edge and count of each bin.
    (shown,) = Page(tmp_path).runs.Tensors("tb", "histograms/weights/g")
    bins = np.frombuffer(shown.tensor_proto.tensor_content, np.float32).reshape(-1, 3)
    assert bins.tolist() == [[-0.75, 0, 3], [0, 0.5, 0], [0.5, 2, 2]]


def times_in(directory: Path) -> list[float]:
    """The time of every event, in the order in which TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = sorted(directory.iterdir())
    return [event.wall_time for file in files for event in EventFileLoader(str(file)).Load()]


def test_a_clock_that_was_set_back_loses_no_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's times go on; the system's clock is a day behind when the run is resumed."""
    day, now = 86_400, 1_700_000_000
    picture = tmp_path / "picture.png"
    Image.new("RGB", (4, 4)).save(picture)
    for session, clock in enumerate((now, now - day, now - 2 * day)):
        monkeypatch.setattr("time.time", lambda clock=clock: float(clock))
        os.utime(picture, (clock, clock))
        sink = TensorBoardSink(tmp_path / "tb", hparams={"a": 1.0})
        sink.open(session * 10 + 1 if session else 0)
        steps = range(session * 10 + 1, session * 10 + 11)
        sink.write([Point("loss/a/raw", float(s), s, (now + s) * 1000) for s in steps])
        sink.add_file("examples", picture, steps[-1])
        sink.close("FINISHED" if session == 2 else "KILLED", "")
    events = read(tmp_path / "tb")
    assert [e.step for e in events.Scalars("loss/a/raw")] == [*range(1, 31)]
    assert [e.step for e in events.Images("examples")] == [10, 20, 30]
    for series in (events.Scalars("loss/a/raw"), events.Images("examples")):
        assert [e.wall_time for e in series] == sorted(e.wall_time for e in series)
    assert len(times_in(tmp_path / "tb")) > 36
    assert min(times_in(tmp_path / "tb")) == now + 1


def test_what_could_not_be_written_comes_once_when_it_is_sent_again(tmp_path: Path) -> None:
    events = EventFile(tmp_path, 0)
    events.flush()
    size = next(tmp_path.iterdir()).stat().st_size

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(bytes(data)[:7])
            raise OSError(errno.ENOSPC, "No space left on device")

    whole, events._file = events._file, Full(next(tmp_path.iterdir()), "r+")
    events._file.seek(0, os.SEEK_END)
    events.add(scalar_summary(1.0), 1, 5.0)
    with pytest.raises(OSError, match="No space left"):
        events.flush()
    assert next(tmp_path.iterdir()).stat().st_size == size
    events._file.close()
    events._file = whole
    events.add(scalar_summary(1.0), 1, 5.0)
    events.close()
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("a")] == [(1, 1.0)]


def scalar_summary(value: float) -> Any:
    from torch.utils.tensorboard.summary import scalar

    return scalar("a", value)
