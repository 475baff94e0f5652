"""Kills a small run many times, resumes it each time, and compares it with an uninterrupted run.

    python tools/crash_test.py --kills 100
    python tools/crash_test.py --kills 20 --nproc 2

With several processes, torchrun starts them, and again after one has died; a random one of them is
killed, or all with torchrun, and the reference is a run in as many processes.

The weights, the states of Adam and the CSV files must be equal bit by bit, except for times.
TensorBoard and MLflow must have exactly one point for each series and step, with the value in the
CSV files. Where a run of several processes ended in mid-epoch because one of them died, and went on
from that step, MLflow may also have the means of the gradients of the epoch up to there.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import psutil
import torch

from nectargan.dataset.synthetic import synthesize
from nectargan.record.output_directory import list_runs
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last

NAME = "crash"
CONFIG: dict[str, Any] = {
    "common": {"deterministic": True, "device": "cpu", "experiment_name": NAME},
    "dataloader": {
        "batch_size": 2,
        "load": {"load_size": 36, "crop_size": 32},
        "augmentations": {
            "both": {"h_flip_chance": 0.5},
            "input": {"gaussnoise_chance": 0.5},
        },
    },
    "train": {
        "generator": {
            "features": 4,
            "n_downs": 1,
            "learning_rate": {"epochs": 6, "epochs_decay": 6},
        },
        "discriminator": {"base_channels": 4, "n_layers": 1},
        "loss": {
            "G_L1": {
                "schedule": "linear",
                "start_epoch": 1,
                "end_epoch": 12,
                "initial_value": 100.0,
                "target_value": 10.0,
                "interval": "step",
            }
        },
    },
    # A checkpoint every 60 ms, so that many kills occur while one is being written.
    "save": {"every_minutes": 0.001, "num_examples": 1, "keep_last": 3},
    "logging": {
        "window_steps": 7,
        "tensorboard": {"every_n_steps": 1},
        "mlflow": {"every_n_steps": 1},
    },
}


Key = tuple[str, int]  # series and step
Points = dict[Key, float]


class BrokenError(Exception):
    """A check has failed."""


def start(config: Path, output: Path, nproc: int) -> subprocess.Popen[bytes]:
    """Starts the command that a scheduler would repeat until the run is finished."""
    command = [sys.executable]
    if nproc > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--max-restarts", "100000"]
        command += ["--nproc-per-node", str(nproc)]
    command += ["-m", "nectargan.train", "--resume", "auto", "-c", str(config), "-o", str(output)]
    with (output / "log.txt").open("ab") as log:
        return subprocess.Popen(  # noqa: S603
            command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def kill_at_random(
    process: subprocess.Popen[bytes], output: Path, rng: random.Random, nproc: int
) -> bool:
    """Kills a run at a random time during its training, or sometimes during its start: all of its
    processes, or one of several. Returns whether it was still running."""
    before = _written(output)
    if rng.random() < 0.8:
        # The training has started when the record grows.
        while process.poll() is None and _written(output) == before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.5))
    else:
        time.sleep(rng.uniform(0, 4))
    alive = process.poll() is None
    if nproc > 1 and alive:
        ranks = psutil.Process(process.pid).children()
        if ranks and rng.random() < 0.6:
            rng.choice(ranks).kill()
            return True
    process.send_signal(signal.SIGKILL)
    process.wait()
    if nproc > 1 and alive:
        for rank in ranks:
            rank.kill()
        psutil.wait_procs(ranks)
    return alive


def _written(output: Path) -> tuple[tuple[str, int], ...]:
    found = sorted(output.glob(f"{NAME}_v*/losses.csv"))
    return tuple((path.parent.name, path.stat().st_size) for path in found)


def run_to_the_end(process: subprocess.Popen[bytes], output: Path) -> Path:
    """Waits until a process has finished a run; returns its directory."""
    code = process.wait()
    log = (output / "log.txt").read_text(errors="replace")
    if code != 0:
        raise BrokenError(f"the run ended with {code}:\n{log[-2000:]}")
    if "Traceback" in log:
        raise BrokenError(f"a traceback in the log:\n{log[log.index('Traceback') :][:2000]}")
    for run in reversed(list_runs(output, NAME)):
        if run.status == "FINISHED":
            return run.path
    raise BrokenError("no run is finished")


# --- comparisons -------------------------------------------------------------------------------


def compare(run: Path, reference: Path) -> dict[str, int]:
    """Raises `BrokenError` unless two runs are equal; returns the numbers of compared items."""
    counts = {"tensors": _compare_checkpoints(run, reference)}
    for file in ("losses.csv", "metrics.csv", "gradients.csv"):
        ours, theirs = _table(run / file), _table(reference / file)
        if not ours.equals(theirs):
            if len(ours) != len(theirs):
                raise BrokenError(f"{file} has {len(ours)} rows instead of {len(theirs)}")
            raise BrokenError(f"{file} differs:\n{ours.compare(theirs)}")
        counts[f"rows of {file}"] = len(ours)
    expected, gradients = points(run), gradients_of(run)
    counts["points in TensorBoard"] = _check(
        "TensorBoard", tensorboard_points(run), expected | gradients
    )
    counts["points in MLflow"] = _check(
        "MLflow",
        mlflow_points(run),
        expected | epoch_means(run, gradients),
        means_so_far(run, gradients),
    )
    return counts


def _compare_checkpoints(run: Path, reference: Path) -> int:
    ours, theirs = load_last(RunDirectory(run)), load_last(RunDirectory(reference))
    parts = [(each["networks"], each["training"]["optimizers"]) for each in (ours, theirs)]
    tensors = [dict(_leaves(part)) for part in parts]
    if tensors[0].keys() != tensors[1].keys():
        raise BrokenError("the checkpoints contain different tensors")
    for key, tensor in tensors[0].items():
        if not torch.equal(tensor, tensors[1][key]):
            raise BrokenError(f"{key} differs by {(tensor - tensors[1][key]).abs().max().item()}")
    return len(tensors[0])


def _leaves(tree: Any, path: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        return [(path, tree)]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [leaf for key, value in items for leaf in _leaves(value, f"{path}/{key}")]


def _table(path: Path) -> pd.DataFrame:
    """Reads a ledger without the values that depend on the clock."""
    table = pd.read_csv(path, dtype=str).drop(columns="time")
    if "metric" in table:
        table.loc[table["metric"].str.startswith("time/"), "value"] = ""
    return table


def points(run: Path) -> Points:
    """The points that the sinks must have, according to the ledgers."""
    losses, metrics = (_rows(run / file) for file in ("losses.csv", "metrics.csv"))
    found: Points = {}
    for row in losses:
        found[f"loss/{row['loss']}/raw", row["step"]] = row["raw"]
        found[f"loss/{row['loss']}/weighted", row["step"]] = row["weighted"]
        found[f"loss/{row['loss']}/weight", row["step"]] = row["weight"]
    for row in metrics:
        found[row["metric"], row["step"]] = row["value"]
    if len(found) != 3 * len(losses) + len(metrics):
        raise BrokenError("a series has a step twice in the ledgers")
    return found


def gradients_of(run: Path) -> Points:
    """The points of gradients that TensorBoard must have, according to the ledger."""
    return {
        (f"gradient/{row['loss']}/{measure}", row["step"]): row[measure]
        for row in _rows(run / "gradients.csv")
        for measure in ("norm", "share", "cosine")
    }


def epoch_means(run: Path, gradients: Mapping[Key, float], end: float = math.inf) -> Points:
    """The points that MLflow must have of them: the mean of each epoch, at its last step; with an
    end, as if the ledger ended with that step."""
    epochs = {row["step"]: row["epoch"] for row in _rows(run / "gradients.csv")}
    last = {epoch: step for step, epoch in sorted(epochs.items()) if step <= end}
    values: dict[Key, list[float]] = {}
    for (series, step), value in gradients.items():
        if step <= end:
            values.setdefault((series, last[epochs[step]]), []).append(value)
    return {key: math.fsum(each) / len(each) for key, each in values.items()}


def means_so_far(run: Path, gradients: Mapping[Key, float]) -> Points:
    """The points that MLflow may also have: means of an epoch up to a step from which a run was
    resumed."""
    resumptions = run / "resumptions.jsonl"
    lines = resumptions.read_text().splitlines() if resumptions.exists() else []
    ends = {json.loads(line)["step"] for line in lines}
    means = [epoch_means(run, gradients, end).items() for end in ends]
    return {key: value for each in means for key, value in each if key[1] in ends}


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pd.read_csv(path).to_dict("records")  # type: ignore[assignment]
    return rows


def tensorboard_points(run: Path) -> list[tuple[str, int, float]]:
    """All scalars in the event files, read by TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    return [(tag, each.step, each.value) for tag in tags for each in events.Scalars(tag)]


def mlflow_points(run: Path) -> list[tuple[str, int, float]]:
    """All training metrics of the MLflow run of a run directory."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(NAME)
    if experiment is None:
        raise BrokenError("MLflow has no experiment")
    found = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{run.name}'")
    if len(found) != 1:
        raise BrokenError(f"{len(found)} MLflow runs are named '{run.name}'")
    if found[0].info.status != "FINISHED":
        raise BrokenError(f"MLflow says {found[0].info.status}")
    run_id = found[0].info.run_id
    return [
        (key, each.step, each.value)
        for key in found[0].data.metrics
        if not key.startswith("system/")  # of the machine, at times of its own
        for each in client.get_metric_history(run_id, key)
    ]


def _check(
    name: str,
    found: list[tuple[str, int, float]],
    expected: Mapping[Key, float],
    allowed: Mapping[Key, float] | None = None,
) -> int:
    keys = [(series, step) for series, step, _ in found]
    if len(set(keys)) != len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise BrokenError(f"{name} has {len(twice)} points twice, such as {twice[:3]}")
    known = {**(allowed or {}), **expected}
    missing, surplus = expected.keys() - set(keys), set(keys) - known.keys()
    if missing or surplus:
        raise BrokenError(
            f"{name} lacks {sorted(missing)[:3]} and has {sorted(surplus)[:3]} too many"
        )
    for series, step, value in found:
        if series.startswith("time/"):
            continue
        if np.float32(value) != np.float32(known[series, step]):
            raise BrokenError(f"{name} has {value} for {series} in step {step}")
    return len(found)


@click.command()
@click.option("--kills", default=100, show_default=True, help="How often to kill the run.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random times.")
@click.option("--nproc", default=1, show_default=True, help="Processes that train the run.")
def main(kills: int, seed: int, nproc: int) -> None:
    """Kill a run many times, resume it, and compare it with an uninterrupted run."""
    rng = random.Random(seed)  # noqa: S311
    with tempfile.TemporaryDirectory(prefix="crash_test_") as scratch:
        root = Path(scratch)
        synthesize(root / "data", train=20, val=2, size=36, seed=0)
        CONFIG["dataloader"]["dataroot"] = str(root / "data")
        config = root / "config.json"
        config.write_text(json.dumps(CONFIG))
        outputs = [root / name for name in ("reference", "killed")]
        for output in outputs:
            output.mkdir()
        reference = run_to_the_end(start(config, outputs[0], nproc), outputs[0])
        done, rows, finished = 0, 0, 0
        process = start(config, outputs[1], nproc)
        while done < kills:
            if process.poll() is not None:
                process = start(config, outputs[1], nproc)
            done += kill_at_random(process, outputs[1], rng, nproc)
            run = next(iter(reversed(list_runs(outputs[1], NAME))), None)
            if run is not None and run.status == "FINISHED":
                # The run has finished: compare it, and start another one.
                counts = compare(run.path, reference)
                rows += counts["rows of losses.csv"]
                finished += 1
            click.echo(f"\r{done} kills, {finished} runs compared", nl=False)
        if process.poll() is not None:
            process = start(config, outputs[1], nproc)
        counts = compare(run_to_the_end(process, outputs[1]), reference)
        click.echo(
            f"\r{done} kills, {finished + 1} runs compared, {rows + counts['rows of losses.csv']} "
            "rows of losses equal to the bit."
        )
        click.echo(", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    try:
        main(standalone_mode=True)
    except BrokenError as error:
        click.echo(f"\nBroken: {error}", err=True)
        sys.exit(1)
