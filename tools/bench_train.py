"""Measures a training step against a plain loop, with less and more of the record, and the floor.

    python tools/bench_train.py                      # all rows that this machine can run
    python tools/bench_train.py --json figures.json
    python tools/bench_train.py --trace step.json    # profile one step instead

Every variant trains the same networks on the same drawn pairs. Rounds of all variants alternate
within one process, so that a ratio compares like with like; peak memory is that of a process of its
own for each variant. `step_variants` has the steps, `step_floor` what none of them can beat.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import click
import torch
from benchmarking import LeftOut, Row, interleaved, peak_memory, report
from step_floor import best_of, floor
from step_variants import Loop, Setting, Stepper, Variant

from nectargan.dataset.synthetic import synthesize

SECONDS_PER_ROUND = 4.0


def variants(device: torch.device, batches: list[int]) -> tuple[list[list[Variant]], list[LeftOut]]:
    """The groups of variants that are measured together, and what this machine cannot run."""
    modes: list[tuple[str, str, tuple[str, ...]]] = [
        ("fp32", "eager", ("plain", "none", "csv", "sinks"))
    ]
    on_gpu: list[tuple[str, str, tuple[str, ...]]] = [
        ("bf16", "eager", ("plain", "none", "csv", "sinks")),
        ("bf16", "graph", ("none", "csv", "sinks", "all")),
        ("bf16", "compile + graph", ("none", "sinks")),
    ]
    groups, left_out = [], []
    if device.type == "cuda":
        modes += on_gpu
    for batch in batches:
        groups.append([Variant(r, m, p, batch) for p, m, records in modes for r in records])
        if device.type != "cuda":
            left_out += [
                LeftOut(str(Variant(r, m, p, batch)), "there is no CUDA device")
                for p, m, records in on_gpu
                for r in records
            ]
    return groups, left_out


def measure(setting: Setting, group: list[Variant], rounds: int) -> list[Row]:
    """Rows for variants of one batch size."""
    modes = {(v.mode, v.precision): v for v in group}
    loops = {mode: Loop(setting.config(variant)) for mode, variant in modes.items()}
    steppers = {str(v): Stepper(setting, v, loops[v.mode, v.precision]) for v in group}
    for stepper in steppers.values():
        stepper.run(3)  # captures, compiles, fills caches
    slowest = max(best_of(partial(s.run, 1), setting.device, 2) for s in steppers.values())
    count = 1 if setting.small else max(1, round(SECONDS_PER_ROUND / slowest))
    before = {name: stepper.waited for name, stepper in steppers.items()}
    seconds = interleaved({n: partial(s.run, count) for n, s in steppers.items()}, rounds)
    steps = {name: [1000 * s / count for s in each] for name, each in seconds.items()}
    floors = {
        p: floor(setting.config(group[0]), setting.device, p) for p in {v.precision for v in group}
    }

    rows = []
    for variant in group:
        name, stepper = str(variant), steppers[str(variant)]
        waited = (stepper.waited - before[name]) / sum(seconds[name])
        row = step_row(variant, group, steps)
        least, parts = floors[variant.precision]
        row.details = {
            "images_per_second": 1000 * variant.batch / row.median,
            "peak_memory_mib": memory_of(setting, variant) / 2**20,
            "floor": f"{1000 * least:.3g} ms: {parts}",
        }
        rows.append(row)
        if variant.record == "none":
            times = [ms / 1000 / least for ms in steps[name]]
            strict = variant.mode == "graph" and variant.batch == 1
            rows.append(Row.of(f"{name}, over the floor", "x", times, 2.5 if strict else None))
            rows.append(Row.of(f"{name}, waiting for data", "%", [100 * waited], 2.0))
        closing = stepper.close()
        if variant.record == "all":
            rows.append(Row.of(f"{name}, sinks behind at the end", "s", [closing], 30.0))
    return rows


def step_row(variant: Variant, group: list[Variant], steps: dict[str, list[float]]) -> Row:
    """Milliseconds a step, beside what the variant is to be compared with."""
    baseline, limit = variant._replace(record="none"), None
    match variant.record:
        case "plain":
            return Row.of(str(variant), "ms a step", steps[str(variant)])
        case "none" if variant.mode == "eager":
            baseline = variant._replace(record="plain")
            limit = 1.05 if variant.batch == 1 else None
        case "none":
            baseline = variant._replace(mode="eager")
            # A third of the time is three times the images.
            limit = 1 / 3 if variant.mode == "graph" and variant.batch == 1 else None
        case "sinks":
            limit = 1.02
        case "all":
            limit = 1.10
    return Row.compared(str(variant), "ms a step", steps, str(baseline), limit)


def memory_of(setting: Setting, variant: Variant) -> float:
    """Bytes: of the device where there is one, else resident in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", json.dumps(variant)]
    command += ["--data", str(setting.data), "--size", str(setting.size)]
    command += ["--device", str(setting.device)]
    if setting.small:
        command.append("--quick")
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return float(done.stdout.split()[-1])


def print_memory(setting: Setting, variant: Variant) -> None:
    """What `memory_of` reads: the peak of three steps."""
    stepper = Stepper(setting, variant, Loop(setting.config(variant)))
    stepper.run(3)
    peak = torch.cuda.max_memory_reserved() if setting.device.type == "cuda" else peak_memory()
    stepper.close()
    click.echo(peak)


def start_row(setting: Setting) -> Row:
    """Seconds from the start of a process to its first step done, with all sinks on."""
    code = (
        "import sys, time, psutil\n"
        "from nectargan.trainers import display\n"
        "class First(display.PlainDisplay):\n"
        "    def step(self, *_):\n"
        "        print(time.time() - psutil.Process().create_time()); raise SystemExit\n"
        "display.make_display = First\n"
        "from nectargan.cli.train import train\n"
        "train(sys.argv[1:])\n"
    )
    seconds = []
    for attempt in range(3):
        config = setting.config(Variant("none", "eager", "fp32", 1))
        path = setting.runs / f"start{attempt}.json"
        path.write_text(config.model_dump_json())
        command = [sys.executable, "-c", code, "-c", str(path), "-o", str(setting.runs)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        lines = done.stdout.splitlines()
        seconds.append(next(float(line) for line in lines if line.replace(".", "").isdecimal()))
    return Row.of("start to first step, 400 images cached", "s", seconds, 10.0)


def full_run_row(setting: Setting) -> Row:
    """200 epochs of 400 pairs at batch 1, by `nectargan-train`, with the full record."""
    config = setting.config(Variant("sinks", "graph", "bf16", 1))
    path = setting.runs / "full.json"
    path.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "nectargan.cli.train", "-c", str(path)]
    command += ["-o", str(setting.runs / "full")]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    minutes = (time.perf_counter() - began) / 60
    return Row.of("200 epochs of 400 pairs, batch 1, full record", "min", [minutes], 4.0)


def trace(setting: Setting, path: Path) -> None:
    """Profiles one step within a window, and counts what would wait for the device."""
    from torch.profiler import ProfilerActivity, profile

    cuda = setting.device.type == "cuda"
    variant = Variant("csv", "graph" if cuda else "eager", "bf16" if cuda else "fp32", 1)
    stepper = Stepper(setting, variant, Loop(setting.config(variant)))
    stepper.run(3)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=activities) as profiler:
        stepper.step()
    profiler.export_chrome_trace(str(path))
    stepper.close()
    names = [event.name for event in profiler.events()]
    click.echo(profiler.key_averages().table(sort_by="cpu_time_total", row_limit=15))
    for name in ("aten::item", "aten::_local_scalar_dense", "cudaStreamSynchronize"):
        click.echo(f"{name}: {names.count(name)}")


@click.command()
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
@click.option("--batch", "batches", type=int, multiple=True, default=(1, 4, 16), show_default=True)
@click.option("--rounds", default=9, show_default=True, help="Rounds of all variants in turn.")
@click.option("--size", default=256, show_default=True, help="Side of the images in pixels.")
@click.option("--device", default=None, help="cpu or cuda; the best there is by default.")
@click.option("--full-run", is_flag=True, help="Also train 200 epochs of 400 pairs (CUDA).")
@click.option("--trace", "trace_path", type=click.Path(path_type=Path), help="Profile a step.")
@click.option("--quick", is_flag=True, help="Tiny networks and few pairs: to try the tool itself.")
@click.option("--data", type=click.Path(path_type=Path), hidden=True)
@click.option("--memory-of", hidden=True)
def main(
    json_path: Path | None,
    batches: tuple[int, ...],
    rounds: int,
    size: int,
    device: str | None,
    full_run: bool,
    trace_path: Path | None,
    quick: bool,
    data: Path | None,
    memory_of: str | None,
) -> None:
    """Benchmark of the training step."""
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with tempfile.TemporaryDirectory(prefix="bench_train_") as scratch:
        root = Path(scratch)
        if data is None:
            data = root / "data"
            synthesize(data, train=20 if quick else 400, val=1, size=size, seed=0)
        setting = Setting(data, root / "runs", size, place, quick)
        setting.runs.mkdir()
        if memory_of is not None:
            print_memory(setting, Variant(*json.loads(memory_of)))
            return
        if trace_path is not None:
            trace(setting, trace_path)
            return
        groups, left_out = variants(place, list(batches))
        rows = [row for group in groups for row in measure(setting, group, rounds)]
        rows.append(start_row(setting))
        if place.type == "cuda" and full_run:
            rows.append(full_run_row(setting))
        else:
            reason = "give --full-run" if place.type == "cuda" else "there is no CUDA device"
            left_out.append(LeftOut("200 epochs of 400 pairs, batch 1, full record", reason))
        report(rows, left_out, json_path)


if __name__ == "__main__":
    main()
