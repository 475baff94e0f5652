"""Rows of `bench_train` for whole runs of ``nectargan-train``."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time

from benchmarking import Row
from step_variants import Setting, Variant, without_sinks

TIME = "time/epoch_seconds"


def start_row(setting: Setting) -> Row:
    """Seconds from the start of the process to the end of its first step, with all sinks."""
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
    """200 epochs of 400 pairs at batch 1, with the full record; or as many epochs as fit into the
    given time."""
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
            run.send_signal(signal.SIGINT)  # it saves and exits
            code = 0
            run.wait()
    if code:
        raise subprocess.CalledProcessError(code, command)
    row = Row.of(name, "min", [(time.perf_counter() - began) / 60], 4.0)
    with next(output.glob("*/metrics.csv")).open(newline="", encoding="utf-8") as file:
        each = [float(r["value"]) for r in csv.DictReader(file) if r["metric"] == TIME]
    if len(each) < epochs:
        row = Row.of(f"an epoch of {pairs} pairs, batch 1, full record", "s", each, 1.2)
        row.details["time"] = f"{len(each)} of {epochs} epochs were trained in {seconds:.0f} s."
    if without_sinks():
        row.details["record"] = f"The record is {without_sinks()}."
    return row
