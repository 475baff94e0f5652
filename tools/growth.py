"""What the record and the gradients of a run cost as its processes become more.

    python tools/growth.py --seconds-per-step 0.018

The bytes follow from the default networks, from the losses of the default objective and from real
rows of a ledger. The time to write a window is measured: a recorder receives the values of as many
processes, which here are copies of its own.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import click
import torch
from torch import Tensor

from nectargan.build import build_discriminator, build_generator
from nectargan.config.config_manager import ConfigManager
from nectargan.distributed import World
from nectargan.losses.lm_data import GradientEvent, LossEvent
from nectargan.record.ledger import GradientRow, LossRow
from nectargan.record.recorder import LossRecorder

LOSSES = ("D_real", "D_fake", "G_GAN", "G_L1")
OF_GENERATOR = LOSSES[2:]


class Copies(World):
    """A world whose processes all have the same values.

    Args:
        size: Number of processes.
        pairs: Pairs of each process in a step.

    Attributes:
        exchanged: Bytes that this process has received.
    """

    def __init__(self, size: int, pairs: int) -> None:
        self.size, self.counts, self.exchanged = size, (pairs,) * size, 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        if self.size > 1:
            self.exchanged += tensor.numel() * tensor.element_size()
        return tensor.mul_(self.size)


@dataclass
class Growth:
    """What one size costs.

    Attributes:
        processes: Number of processes.
        exchanged: Bytes that each process receives for a window.
        seconds: Seconds in which a process makes the rows of a window.
        rows: Bytes of the rows of a step in the ledgers.
        count: Rows of a step.
    """

    processes: int
    exchanged: int
    seconds: float
    rows: float
    count: int


@dataclass
class _Written:
    losses: list[LossRow] = field(default_factory=list)
    gradients: list[GradientRow] = field(default_factory=list)


def measure(processes: int, pairs: int, window: int, gradients: bool, rounds: int = 5) -> Growth:
    """Simulates windows of the main process of a run.

    Args:
        processes: Number of processes.
        pairs: Pairs of each in a step.
        window: Steps in a window.
        gradients: Whether the gradients of each step are recorded.
        rounds: Number of windows, of which the median counts.
    """
    world, written = Copies(processes, pairs), _Written()
    recorder = LossRecorder(
        written.losses.extend,
        window_steps=window,
        write_gradients=written.gradients.extend,
        world=world,
    )
    generator = torch.Generator().manual_seed(0)
    times = []
    for number in range(rounds):
        for step in range(number * window + 1, (number + 1) * window + 1):
            for name in LOSSES:
                raw = torch.rand((), generator=generator)
                recorder(LossEvent(name, (), raw, 0.5, raw * 0.5, 1, step))
            if gradients:
                each = torch.rand((pairs, 2, 2), generator=generator)
                recorder.note_gradients(GradientEvent(OF_GENERATOR, each, 1, step))
        began = time.perf_counter()
        recorder.flush()
        times.append(time.perf_counter() - began)
    rows: list[Any] = [*written.losses, *written.gradients]
    steps = rounds * window
    size = sum(len(row.line) + 1 for row in rows) / steps
    return Growth(
        processes, world.exchanged // rounds, statistics.median(times), size, len(rows) // steps
    )


@click.command()
@click.option("--seconds-per-step", default=0.018, show_default=True, help="Of one GPU.")
@click.option("--pairs", default=4, show_default=True, help="Pairs of each GPU in a step.")
@click.option("--window", default=50, show_default=True, help="logging.window_steps.")
@click.option("--gigabytes", default=50.0, show_default=True, help="Of the network, a second.")
def main(seconds_per_step: float, pairs: int, window: int, gigabytes: float) -> None:
    """Print a table of what 1, 8, 64 and 512 GPUs cost."""
    config = ConfigManager(None, [("dataloader.dataroot", "unused")]).data
    parameters = [
        sum(each.numel() for each in build(config).parameters())
        for build in (build_generator, build_discriminator)
    ]
    gradient = 4 * sum(parameters)
    click.echo(
        f"Parameters: {parameters[0]:,} of G, {parameters[1]:,} of D; {gradient / 1e6:.0f} MB of "
        "gradients a step in float32.\n"
    )
    head = ["GPUs", "MB sent by each GPU a step", "ms for it", "windows/s", "rows/day (million)"]
    head += ["GB/day", "kB received a window", "% of a step for rows", "same, gradients"]
    click.echo(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for count in (1, 8, 64, 512):
        # A ring sends the parts of the sum, and then the sum, to all but one.
        sent = 2 * (count - 1) / count * gradient
        seconds = seconds_per_step + sent / (gigabytes * 1e9)
        plain, full = (measure(count, pairs, window, wanted) for wanted in (False, True))
        each_day = 86400 / seconds
        cells = [
            str(count),
            f"{sent / 1e6:.0f}",
            f"{1000 * sent / (gigabytes * 1e9):.1f}",
            f"{1 / seconds / window:.2f}",
            f"{full.count * each_day / 1e6:.1f}",
            f"{full.rows * each_day / 1e9:.2f}",
            f"{full.exchanged / 1e3:.0f}",
            f"{100 * plain.seconds / window / seconds:.2f}",
            f"{100 * full.seconds / window / seconds:.2f}",
        ]
        click.echo(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
