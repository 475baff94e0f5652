"""Measures the training step: compared with a plain loop, and with more and more of the record.

    python tools/bench_train.py                      # all rows that this machine can run
    python tools/bench_train.py --json figures.json
    python tools/bench_train.py --group bf16 --batch 1
    python tools/bench_train.py --contended          # on idle and on busy cores
    python tools/bench_train.py --trace step.json    # profile some steps instead

Every variant trains the same networks on the same drawn pairs. The variants of a group run in turn
in one process, so that their times can be compared; peak memory is measured in a separate process
for each variant. The results are written after each group, which takes less than four minutes.
`step_variants` has the steps, `step_floor` a lower bound of their time, `whole_runs` what is
measured of nectargan-train, `step_trace` the profile, and `cpu_rows` what only a CPU measures.
"""

from __future__ import annotations

import json
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
from benchmarking import (
    COUNT,
    LeftOut,
    Row,
    count_option,
    interleaved,
    json_option,
    machine,
    peak_memory,
    show,
    write,
)
from cpu_rows import contended_rows, original_rows, work
from step_floor import best_of, floor, matmul_rate
from step_trace import trace
from step_variants import Loop, Setting, Stepper, Variant, without_sinks
from whole_runs import full_run_row, start_row

from nectargan.dataset.synthetic import synthesize
from nectargan.trainers.memory import needed_memory

# The groups, in the order of measurement; "original" is the step of v0.2.3, "full" is 200 epochs
# with the full record.
GROUPS = ("fp32", "original", "contended", "bf16", "compile", "start", "full")
ON_A_CPU = ("original", "contended")
# The kinds of record for each precision and mode. The others are compared with the first one.
MODES: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {
    "fp32": [("fp32", "eager", ("plain", "none", "csv", "gradients", "sinks"))],
    "bf16": [
        ("bf16", "eager", ("plain", "none", "csv", "gradients", "sinks")),
        ("bf16", "graph", ("none", "csv", "gradients", "sinks", "all")),
    ],
    "compile": [("bf16", "eager", ("none",)), ("bf16", "compile + graph", ("none", "sinks"))],
}
SECONDS_PER_ROUND = 4.0


def variants(group: str, batch: int) -> list[Variant]:
    """The variants of a group, which are measured in turn."""
    return [Variant(r, mode, p, batch) for p, mode, records in MODES[group] for r in records]


def obstacle(group: str, setting: Setting) -> str | None:
    """Why this machine cannot measure a group; ``None`` if it can."""
    if group in ON_A_CPU:
        return None if setting.device.type == "cpu" else "it is for a CPU"
    tiny = group == "full" and setting.small
    on_any_device = group in ("fp32", "start") or tiny
    return None if on_any_device or setting.device.type == "cuda" else "there is no CUDA device"


def measure(
    setting: Setting, group: list[Variant], rounds: int, until: float
) -> tuple[list[Row], list[LeftOut]]:
    """Measures variants of one batch size; returns rows, and what there was no time for.

    Args:
        setting: See `Setting`.
        group: The variants.
        rounds: Number of rounds; each runs all variants in turn.
        until: The time of `time.perf_counter` at which to stop.
    """
    modes = {v.loop: v for v in group}
    loops = {mode: Loop(setting.config(variant)) for mode, variant in modes.items()}
    steppers = {str(v): Stepper(setting, v, loops[v.loop]) for v in group}
    for stepper in steppers.values():
        stepper.run(3)  # captures, compiles, fills caches
    floors = {
        p: floor(setting.config(group[0]), setting.device, p) for p in {v.precision for v in group}
    }
    longest = [best_of(partial(s.run, 1), setting.device, 2) for s in steppers.values()]
    # Half of the remaining time; the other half is for measuring peak memory.
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
    """A row of milliseconds per step, compared with the baseline of the variant."""
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
            # Three times as many images per second.
            limit = 1 / 3 if variant.mode == "graph" and variant.batch == 1 else None
        case "gradients":
            baseline, limit = variant._replace(record="csv"), 1.03
        case "sinks":
            limit = 1.02
        case "all":
            limit = 1.10
    return Row.compared(str(variant), "ms a step", steps, str(baseline), limit)


def memory_of(setting: Setting, variant: Variant) -> float:
    """Peak memory in bytes, of the GPU or of a separate process."""
    command = [sys.executable, __file__, "--memory-of", json.dumps(variant)]
    command += ["--data", str(setting.data), "--size", str(setting.size)]
    command += ["--device", str(setting.device)]
    if setting.small:
        command.append("--quick")
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return float(done.stdout.split()[-1])


def print_memory(setting: Setting, variant: Variant) -> None:
    """Prints the peak memory of three steps for `memory_of`."""
    stepper = Stepper(setting, variant, Loop(setting.config(variant)))
    stepper.run(3)
    peak = torch.cuda.max_memory_reserved() if setting.device.type == "cuda" else peak_memory()
    stepper.close()
    click.echo(peak)


@click.command()
@json_option
@click.option(
    "--group",
    "groups",
    type=click.Choice(GROUPS),
    multiple=True,
    default=GROUPS,
    help="Only this group.",
)
@click.option(
    "--batch", "batches", type=COUNT, multiple=True, default=(1, 4, 16), show_default=True
)
@count_option("--rounds", 9, "Maximum number of rounds.")
@click.option(
    "--seconds", default=200.0, show_default=True, help="Approximate time for each group."
)
@count_option("--size", 256, "Side of the images in pixels.")
@click.option("--device", default=None, help="cpu or cuda; by default cuda if available.")
@click.option("--contended", is_flag=True, help="Same as --group contended.")
@click.option(
    "--trace",
    "trace_path",
    type=click.Path(path_type=Path),
    help="Profile some steps into this file.",
)
@click.option("--quick", is_flag=True, help="Small, to test the tool.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Data set to use instead of drawn pairs."
)
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
    """Benchmark of the training step. Results are printed and written after each group."""
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
    """Measures group by group, and writes the results after each one."""
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
    """The names of the rows of a group, for a machine that cannot measure it."""
    if group in MODES:
        return [str(variant) for variant in variants(group, batch)]
    return ["200 epochs of 400 pairs, batch 1, full record" if group == "full" else group]


def measured(
    setting: Setting, group: str, batch: int, rounds: int, seconds: float
) -> tuple[list[Row], list[LeftOut]]:
    """Measures a group; returns its rows, and what there was no time for."""
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
