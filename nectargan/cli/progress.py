"""The progress bar of commands that work through many files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nectargan.output import make_console


@contextmanager
def transfer_bar() -> Iterator[Callable[[int, int | None], None]]:
    """Shows a bar of bytes on stderr during the ``with`` block, if stderr is a terminal.

    Yields:
        A function that is called with the number of bytes so far, and the whole number if known.
    """
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = make_console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def progress_bar(count: int, noun: str) -> Iterator[Callable[..., None]]:
    """Shows a bar on stderr during the ``with`` block, if stderr is a terminal.

    Args:
        count: Number of things to do.
        noun: What they are, in the plural, such as "images".

    Yields:
        A function that is called with the number of things that were done, by default 1.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = make_console(stderr=True)
    if not console.is_terminal or count < 2:
        yield lambda done=1: None
        return
    speed = TextColumn("{task.fields[speed]}")
    with Progress(
        BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task("", total=count, speed="")

        def advance(done: int = 1) -> None:
            rate = bar.tasks[task].speed
            bar.update(task, advance=done, speed=f"{rate:.1f} {noun}/s" if rate else "")

        yield advance
