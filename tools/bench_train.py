"""Measures a training step against a plain loop, with less and more of the record, and the floor.

    python tools/bench_train.py                      # all rows that this machine can run
    python tools/bench_train.py --json figures.json
    python tools/bench_train.py --group bf16 --batch 1
    python tools/bench_train.py --contended          # on idle and on busy cores
    python tools/bench_train.py --trace step.json    # profile some steps instead

Every variant trains the same networks on the same drawn pairs. Rounds of all variants alternate
within one process, so that a ratio compares like with like; peak memory is that of a process of its
own for each variant. Figures are written after each group of variants, which takes under four
minutes. `step_variants` has the steps, `step_floor` what none of them can beat, `cpu_rows` what
is measured on a CPU alone.
"""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nectargan import cpu

if __name__ == "__main__":
    cpu.prepare()  # as nectargan-train does, before torch is imported

import click
import torch
from benchmarking import LeftOut, Row, interleaved, machine, peak_memory, show, write
from cpu_rows import contended_rows, original_rows, work
from step_floor import best_of, floor, matmul_rate
from step_variants import Loop, Setting, Stepper, Variant, is_installed

from nectargan.dataset.synthetic import synthesize
from nectargan.trainers.memory import needed_memory

# What can be measured, in this order; "original" is the step of v0.2.3, "full" is 200 epochs with
# the full record.
GROUPS = ("fp32", "original", "contended", "bf16", "compile", "start", "full")
ON_A_CPU = ("original", "contended")
# The records of each way to make a step; the first is what others are compared with.
MODES: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {
    "fp32": [("fp32", "eager", ("plain", "none", "csv", "sinks"))],
    "bf16": [
        ("bf16", "eager", ("plain", "none", "csv", "sinks")),
        ("bf16", "graph", ("none", "csv", "sinks", "all")),
    ],
    "compile": [("bf16", "eager", ("none",)), ("bf16", "compile + graph", ("none", "sinks"))],
}
SECONDS_PER_ROUND = 4.0
TIME = "time/epoch_seconds"
TRACED_STEPS = 5
WAITS = (
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "cudaDeviceSynchronize",
)


def variants(group: str, batch: int) -> list[Variant]:
    """The variants of a group, which are measured together."""
    return [Variant(r, mode, p, batch) for p, mode, records in MODES[group] for r in records]


def without_sinks() -> str | None:
    """Why variants with all sinks cannot be measured."""
    missing = [name for name in ("mlflow", "tensorboard") if not is_installed(name)]
    return f"without {' and '.join(missing)}" if missing else None


def obstacle(group: str, setting: Setting) -> str | None:
    """Why this machine cannot measure a group."""
    if group in ON_A_CPU:
        return None if setting.device.type == "cpu" else "it is for a CPU"
    tiny = group == "full" and setting.small
    on_any_device = group in ("fp32", "start") or tiny
    return None if on_any_device or setting.device.type == "cuda" else "there is no CUDA device"


def measure(
    setting: Setting, group: list[Variant], rounds: int, until: float
) -> tuple[list[Row], list[LeftOut]]:
    """Rows for variants of one batch size, and what there was no time for.

    Args:
        setting: See `Setting`.
        group: The variants.
        rounds: Rounds of all of them in turn.
        until: When to come to an end, a time of `time.perf_counter`.
    """
    modes = {(v.mode, v.precision): v for v in group}
    loops = {mode: Loop(setting.config(variant)) for mode, variant in modes.items()}
    steppers = {str(v): Stepper(setting, v, loops[v.mode, v.precision]) for v in group}
    for stepper in steppers.values():
        stepper.run(3)  # captures, compiles, fills caches
    floors = {
        p: floor(setting.config(group[0]), setting.device, p) for p in {v.precision for v in group}
    }
    longest = [best_of(partial(s.run, 1), setting.device, 2) for s in steppers.values()]
    # Half of the time that is left; the other half is for the peaks of memory.
    left = (until - time.perf_counter()) / 2
    per_round = min(SECONDS_PER_ROUND / max(longest), left / rounds / sum(longest))
    count = 1 if setting.small else max(1, round(per_round))
    before = {name: stepper.waited for name, stepper in steppers.items()}
    runs = {n: partial(s.run, count) for n, s in steppers.items()}
    seconds = interleaved(runs, rounds, time.perf_counter() + left)
    steps = {name: [1000 * s / count for s in each] for name, each in seconds.items()}

    rows, left_out = [], []
    for variant in group:
        name, stepper = str(variant), steppers[str(variant)]
        waited = (stepper.waited - before[name]) / sum(seconds[name])
        row = step_row(variant, group, steps)
        least, parts = floors[variant.precision]
        row.details = {
            "images_per_second": 1000 * variant.batch / row.median,
            "floor": f"{1000 * least:.3g} ms: {parts}",
        }
        if variant.record == "none" and setting.device.type == "cpu":
            flops = needed_memory(setting.config(variant), "fp32").flops
            rate = matmul_rate(setting.device, variant.precision)
            row.details |= work(flops, row.median, rate)
        if time.perf_counter() < until:
            row.details["peak_memory_mib"] = memory_of(setting, variant) / 2**20
        else:
            left_out.append(LeftOut(f"{name}, peak memory", "its group had no time left"))
        rows.append(row)
        if variant.record == "none":
            times = [ms / 1000 / least for ms in steps[name]]
            strict = variant.mode == "graph" and variant.batch == 1
            rows.append(Row.of(f"{name}, over the floor", "x", times, 2.5 if strict else None))
            rows.append(Row.of(f"{name}, waiting for data", "%", [100 * waited], 2.0))
        closing = stepper.close()
        if variant.record == "all":
            rows.append(Row.of(f"{name}, sinks behind at the end", "s", [closing], 30.0))
    return rows, left_out


def step_row(variant: Variant, group: list[Variant], steps: dict[str, list[float]]) -> Row:
    """Milliseconds a step, beside what the variant is to be compared with."""
    baseline, limit = variant._replace(record="none"), None
    match variant.record:
        case "plain":
            return Row.of(str(variant), "ms a step", steps[str(variant)])
        case "none" if variant.mode == "eager":
            baseline = variant._replace(record="plain")
            if baseline not in group:
                return Row.of(str(variant), "ms a step", steps[str(variant)])
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


def full_run_row(setting: Setting, seconds: float) -> Row:
    """200 epochs of 400 pairs at batch 1, by `nectargan-train`, with the full record; or as many of
    them as can be made in the time given."""
    variant = Variant("sinks", "graph", "bf16", 1)
    if setting.small:
        variant = variant._replace(mode="eager", precision="fp32")
    config = setting.config(variant)
    epochs = 2 if setting.small else 200
    pairs = len(list((setting.data / "train").iterdir()))
    name = f"{epochs} epochs of {pairs} pairs, batch 1, full record"
    path, output = setting.runs / "full.json", setting.runs / "full"
    path.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "nectargan.cli.train", "-c", str(path), "-o", str(output)]
    command += ["--epochs", str(epochs)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as run:  # noqa: S603
        try:
            code = run.wait(seconds)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGINT)  # it saves, and ends
            code = 0
            run.wait()
    if code:
        raise subprocess.CalledProcessError(code, command)
    row = Row.of(name, "min", [(time.perf_counter() - began) / 60], 4.0)
    with next(output.glob("*/metrics.csv")).open(newline="", encoding="utf-8") as file:
        each = [float(r["value"]) for r in csv.DictReader(file) if r["metric"] == TIME]
    if len(each) < epochs:
        row = Row.of(f"an epoch of {pairs} pairs, batch 1, full record", "s", each, 1.2)
        row.details["time"] = f"{len(each)} of {epochs} epochs were made in {seconds:.0f} s."
    if without_sinks():
        row.details["record"] = f"The record is {without_sinks()}."
    return row


def trace(setting: Setting, path: Path) -> dict[str, int]:
    """Profiles some steps within a window; returns how often each wait for the device was met."""
    from torch.profiler import ProfilerActivity, profile, record_function

    cuda = setting.device.type == "cuda"
    variant = Variant("csv", "graph" if cuda else "eager", "bf16" if cuda else "fp32", 1)
    stepper = Stepper(setting, variant, Loop(setting.config(variant)))
    stepper.run(3)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=activities) as profiler:
        stepper.step()  # a window may end here: starting the profiler can take as long as one
        with record_function("traced steps"):
            for _ in range(TRACED_STEPS):
                stepper.step()
    profiler.export_chrome_trace(str(path))
    stepper.close()
    click.echo(profiler.key_averages().table(sort_by="cpu_time_total", row_limit=15))
    events = profiler.events()
    # On the device's own time line the span is noted as well, where it begins later.
    span = min(
        (e.time_range for e in events if e.name == "traced steps"), key=lambda time: time.start
    )
    names = [e.name for e in events if span.start <= e.time_range.start <= span.end]
    waits = {name: names.count(name) for name in WAITS}
    for name, times in waits.items():
        click.echo(f"{name}: {times}")
    return waits


@click.command()
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
@click.option(
    "--group", "groups", type=click.Choice(GROUPS), multiple=True, default=GROUPS, help="Only this."
)
@click.option("--batch", "batches", type=int, multiple=True, default=(1, 4, 16), show_default=True)
@click.option("--rounds", default=9, show_default=True, help="Most rounds of all variants in turn.")
@click.option("--seconds", default=200.0, show_default=True, help="For each group, about.")
@click.option("--size", default=256, show_default=True, help="Side of the images in pixels.")
@click.option("--device", default=None, help="cpu or cuda; the best there is by default.")
@click.option("--contended", is_flag=True, help="Only --group contended: idle and busy cores.")
@click.option("--trace", "trace_path", type=click.Path(path_type=Path), help="Profile some steps.")
@click.option("--quick", is_flag=True, help="Tiny networks and few pairs: to try the tool itself.")
@click.option("--data", type=click.Path(path_type=Path), help="Pairs to use instead of drawn ones.")
@click.option("--memory-of", hidden=True)
def main(
    json_path: Path | None,
    groups: tuple[str, ...],
    batches: tuple[int, ...],
    rounds: int,
    seconds: float,
    size: int,
    device: str | None,
    contended: bool,
    trace_path: Path | None,
    quick: bool,
    data: Path | None,
    memory_of: str | None,
) -> None:
    """Benchmark of the training step. Figures are printed and written after each group."""
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
            waits = trace(setting, trace_path)
            if place.type == "cuda" and any(waits.values()):
                raise click.ClickException("a step waits for the device")
            return
        if contended:
            groups = ("contended",)
        run_groups(setting, groups, batches, rounds, seconds, json_path)


def run_groups(
    setting: Setting,
    groups: Sequence[str],
    batches: Sequence[int],
    rounds: int,
    seconds: float,
    path: Path | None,
) -> None:
    """Measures group by group, and puts down at once what each has shown."""
    click.echo("\n".join(f"{key}: {value}" for key, value in machine().items()))
    plan = [(group, batch) for group in groups if group in MODES for batch in batches]
    plan += [(group, 1) for group in groups if group not in MODES]
    rows: list[Row] = []
    left_out: list[LeftOut] = []
    for group, batch in plan:
        reason = obstacle(group, setting)
        if reason is not None:
            names = names_of(group, batch)
            left_out += [e for n in names if (e := LeftOut(n, reason)) not in left_out]
            continue
        new, missing = measured(setting, group, batch, rounds, seconds)
        rows += [row for row in new if row.name not in {known.name for known in rows}]
        left_out += missing
        show(new)
        if path is not None:
            write(rows, left_out, path)
    for name, reason in left_out:
        click.echo(f"left out: {name} ({reason})")
    if path is not None:
        write(rows, left_out, path)


def names_of(group: str, batch: int) -> list[str]:
    """What a group measures, for a machine that cannot."""
    if group in MODES:
        return [str(variant) for variant in variants(group, batch)]
    return ["200 epochs of 400 pairs, batch 1, full record" if group == "full" else group]


def measured(
    setting: Setting, group: str, batch: int, rounds: int, seconds: float
) -> tuple[list[Row], list[LeftOut]]:
    """The rows of a group, and what there was no time for."""
    if group == "start":
        return [start_row(setting)], []
    if group in ON_A_CPU:
        rows_of = original_rows if group == "original" else contended_rows
        return rows_of(setting, rounds, seconds), []
    if group == "full":
        return [full_run_row(setting, seconds)], []
    members, reason = variants(group, batch), without_sinks()
    sinkless = [v for v in members if reason is None or v.record not in ("sinks", "all")]
    rows, left_out = measure(setting, sinkless, rounds, time.perf_counter() + seconds)
    return rows, left_out + [LeftOut(str(v), str(reason)) for v in members if v not in sinkless]


if __name__ == "__main__":
    main()
