"""Measures a training step in several processes against plain DistributedDataParallel.

    python tools/bench_distributed.py --nproc 2
    python tools/bench_distributed.py --nproc 8 --size 256 --batch 32 --cuda --precision bf16

For each number of processes, 1 and ``--nproc``, both loops run in the same processes and take
turns: a plain pix2pix loop, whose networks DistributedDataParallel wraps (none in one process), and
our step, with and without a recorder. The batch is that of all processes together. The
ratio of several processes to one tells how training scales.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from benchmarking import Row, count_option, interleaved, report
from step_variants import Setting, Stopwatch, Variant, our_steps, plain_steps
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nectargan import cpu
from nectargan.cpu import THREADS, usable_cores
from nectargan.dataset.synthetic import synthesize
from nectargan.distributed import World, joined
from nectargan.record.recorder import LossRecorder
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

LIMIT = 1.03
PLAIN, OURS, RECORDED = "plain DDP", "our step, no hooks", "our step, with recorder"


def actions(setting: Setting, variant: Variant, features: int, steps: int, world: World) -> Any:
    """What is measured, by name; and the trainer of our step."""
    networks = [
        ("train.generator.features", features),
        ("train.discriminator.base_channels", features),
    ]
    ours, plain = (Pix2pixTrainer(setting.config(variant, networks), world=world) for _ in range(2))

    def wrapped(network: nn.Module) -> nn.Module:
        ids = [plain.device.index] if plain.device.type == "cuda" else None
        return network if world.size == 1 else DistributedDataParallel(network, device_ids=ids)

    # Not those of the trainer, which it has wrapped itself.
    plain.generator, plain.discriminator = (
        _fresh(network) for network in (plain.generator, plain.discriminator)
    )
    loops = {PLAIN: plain_steps(plain, wrapped), OURS: our_steps(ours, Stopwatch(cuda=False))}
    recorder = LossRecorder(lambda rows: None, world=world)

    def run(name: str) -> Callable[[], None]:
        def act() -> None:
            world.gather_numbers([0])  # all begin together
            handles = []
            if name == RECORDED:
                handles = [
                    ours.losses.register_hook(recorder),
                    ours.losses.register_metric_hook(recorder.note_metric),
                ]
            for _ in range(steps):
                next(loops[PLAIN if name == PLAIN else OURS])
            if name == RECORDED:
                recorder.flush()
            for handle in handles:
                handle.remove()
            if ours.device.type == "cuda":
                torch.cuda.synchronize()

        return act

    return {name: run(name) for name in (PLAIN, OURS, RECORDED)}, ours


def _fresh(network: nn.Module) -> nn.Module:
    """A copy without the hooks of a wrapper."""
    import copy

    return copy.deepcopy(network)


def measure(
    setting: Setting, variant: Variant, features: int, steps: int, rounds: int, part: Path
) -> None:
    """Measures in this process, one of several; the main one writes the milliseconds per step."""
    with joined() as world:
        acts, trainer = actions(setting, variant, features, steps, world)
        interleaved(acts, 1)
        seconds = interleaved(acts, rounds)
        if world.is_main:
            parameters = {
                name: sum(each.numel() for each in network.parameters())
                for name, network in trainer.networks.items()
            }
            milliseconds = {
                name: [1000 * each / steps for each in values] for name, values in seconds.items()
            }
            part.write_text(json.dumps({"values": milliseconds, "parameters": parameters}))


@click.command()
@count_option("--nproc", 2, "Processes.")
@count_option("--size", 256, "Height and width of the images.")
@count_option("--batch", 4, "Pairs in a step of all processes.")
@count_option("--features", 16, "Width of both networks.")
@click.option("--precision", default="fp32", show_default=True, help="fp32 or bf16.")
@click.option("--cuda", is_flag=True, help="On GPUs, one for each process.")
@count_option("--steps", 10, "Steps in a round.")
@count_option("--rounds", 12, "Rounds.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures to this file.")
@click.option("--part", type=click.Path(path_type=Path), hidden=True)
@click.option("--data", type=click.Path(path_type=Path), hidden=True)
def main(
    nproc: int,
    size: int,
    batch: int,
    features: int,
    precision: str,
    cuda: bool,
    steps: int,
    rounds: int,
    output: Path | None,
    part: Path | None,
    data: Path | None,
) -> None:
    """Measure a step in one and in several processes, against plain DDP."""
    cpu.prepare()
    if part is not None and data is not None:
        device = torch.device("cuda" if cuda else "cpu")
        setting = Setting(data, data.parent, size, device, small=False)
        measure(setting, Variant("none", "eager", precision, batch), features, steps, rounds, part)
        return
    rows, medians = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        synthesize(data, train=4 * batch, val=batch, size=size * 286 // 256, seed=0)
        for count in dict.fromkeys((1, nproc)):
            part = Path(scratch) / f"{count}.json"
            command = [sys.executable]
            if count > 1:
                command += ["-m", "torch.distributed.run", "--standalone"]
                command += ["--nproc-per-node", str(count)]
            own = {THREADS[0]: str(max(1, usable_cores() // count))}
            subprocess.run(  # noqa: S603 - this tool
                [*command, *sys.argv, "--part", str(part), "--data", str(data)],
                check=True,
                env={**own, **os.environ},
            )
            found = json.loads(part.read_text())
            for name in (PLAIN, OURS, RECORDED):
                row = Row.compared(
                    name, "ms a step", found["values"], PLAIN, None if name == PLAIN else LIMIT
                )
                row.name = f"{count} x {batch // count} pairs: {name}"
                row.details = {"pairs_per_second": 1000 * batch / row.median}
                rows.append(row)
                medians[count, name] = row.median
        parameters = found["parameters"]
    if nproc > 1:
        rows[-1].details["times_faster_than_one"] = medians[1, RECORDED] / medians[nproc, RECORDED]
    rows[-1].details |= {f"parameters_of_{name}": float(n) for name, n in parameters.items()}
    report(rows, [], output)


if __name__ == "__main__":
    main()
